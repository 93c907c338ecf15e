//! The real proxy: the only file that names `proxy_wasm::hostcalls`.
//!
//! The SDK panics on a status that it does not expect, so each call here is made only where Envoy and the ABI promise one of the
//! expected ones (Envoy `source/extensions/common/wasm/context.cc`): header changes only on a stream whose request is still held,
//! header reads as bytes only, because values need not be UTF-8.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::{Duration, UNIX_EPOCH};

use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, LogLevel, MapType, MetricType};

use crate::headers::RequestHeaders;

use super::{CallRefused, Host, HostSignature, HttpCall, Level, MetricId, MetricKind, Reply, foreign};

/// The proxy that runs this module.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Proxy;

impl Host for Proxy {
    fn now(&self) -> Duration {
        hostcalls::get_current_time().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default()
    }

    fn random(&self) -> u64 {
        // Seeded once per VM from the host (WASI random_get), different on every call.
        RandomState::new().build_hasher().finish()
    }

    fn log(&self, level: Level, message: &str) {
        let level = match level {
            Level::Debug => LogLevel::Debug,
            Level::Info => LogLevel::Info,
            Level::Warn => LogLevel::Warn,
            Level::Error => LogLevel::Error,
        };
        let _ = hostcalls::log(level, message);
    }

    fn log_level(&self) -> Level {
        match hostcalls::get_log_level() {
            Ok(LogLevel::Trace | LogLevel::Debug) => Level::Debug,
            Ok(LogLevel::Info) => Level::Info,
            Ok(LogLevel::Warn) | Err(_) => Level::Warn,
            Ok(LogLevel::Error | LogLevel::Critical) => Level::Error,
        }
    }

    fn configuration(&self, size: usize) -> Option<Vec<u8>> {
        hostcalls::get_buffer(BufferType::PluginConfiguration, 0, size).ok().flatten()
    }

    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        hostcalls::get_property(path.to_vec()).ok().flatten()
    }

    fn set_tick_period(&self, period: Duration) {
        let _ = hostcalls::set_tick_period(period);
    }

    fn verify_signature(&self, signature: &HostSignature<'_>) -> Option<bool> {
        foreign::verify_signature(signature)
    }

    fn define_metric(&self, kind: MetricKind, name: &str) -> Option<MetricId> {
        let kind = match kind {
            MetricKind::Counter => MetricType::Counter,
            MetricKind::Gauge => MetricType::Gauge,
            MetricKind::Histogram => MetricType::Histogram,
        };
        hostcalls::define_metric(kind, name).ok().map(MetricId)
    }

    fn increment_metric(&self, metric: MetricId, by: u32) {
        let _ = hostcalls::increment_metric(metric.0, i64::from(by));
    }

    fn record_metric(&self, metric: MetricId, value: u64) {
        let _ = hostcalls::record_metric(metric.0, value);
    }

    fn enter(&self, context: u32) -> bool {
        hostcalls::set_effective_context(context).is_ok()
    }

    fn request_has_ended(&self) -> bool {
        // Known when the request is complete and not before (Envoy, `source/extensions/filters/common/expr/context.cc`).
        self.property(&["request", "duration"]).is_some()
    }

    fn request_headers(&self) -> RequestHeaders {
        RequestHeaders::new(meshseal_abi::request_headers())
    }

    fn add_request_header(&self, name: &str, value: &str) {
        let _ = hostcalls::add_map_value(MapType::HttpRequestHeaders, name, value);
    }

    fn set_request_header(&self, name: &str, value: &str) {
        let _ = hostcalls::set_map_value(MapType::HttpRequestHeaders, name, Some(value));
    }

    fn remove_request_header(&self, name: &str) {
        let _ = hostcalls::remove_map_value(MapType::HttpRequestHeaders, name);
    }

    fn respond(&self, reply: &Reply) {
        let response = meshseal_abi::LocalResponse {
            status: u32::from(reply.status),
            details: &reply.details,
            body: reply.body.as_bytes(),
            headers: &reply.headers,
            grpc_status: i32::from(reply.grpc_status),
        };
        if meshseal_abi::send_local_response(&response).is_err() {
            // The stream stays paused and runs into the proxy's own timeout: closed, not open.
            self.log(Level::Error, "the proxy refused a local response");
        }
    }

    fn resume(&self) {
        let _ = hostcalls::resume_http_request();
    }

    fn call(&self, call: &HttpCall<'_>) -> Result<u32, CallRefused> {
        hostcalls::dispatch_http_call(call.cluster, call.headers.to_vec(), None, Vec::new(), call.timeout)
            .map_err(|_| CallRefused)
    }

    fn call_header(&self, name: &str) -> Option<Vec<u8>> {
        // By pairs: a single value of an absent map (the call failed) is a status that the SDK panics on.
        let headers = hostcalls::get_map_bytes(MapType::HttpCallResponseHeaders).ok()?;
        headers.into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    fn call_body(&self, size: usize) -> Option<Vec<u8>> {
        hostcalls::get_buffer(BufferType::HttpCallResponseBody, 0, size).ok().flatten()
    }
}
