//! [`Host`] implemented by calls of the proxy-wasm ABI. If a host lacks a function or refuses a
//! call, the filter does not panic: every status becomes a value (ADR 6).

use std::cell::Cell;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

use meshseal_abi::host as abi;

use crate::headers::{self, ProxyRequest};

use super::steady::Guarded;
use super::{
    CallRefused, Host, HostSignature, HttpCall, Level, MetricId, MetricKind, Reply, foreign,
};

/// The proxy that runs this module.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Proxy;

// Substitute for hosts without a monotonic clock; it needs state between two readings.
thread_local! {
    static GUARDED: Cell<Guarded> = const { Cell::new(Guarded::new()) };
}

/// Log levels of the ABI.
const DEBUG: u32 = 1;
const INFO: u32 = 2;
const WARN: u32 = 3;
const ERROR: u32 = 4;

impl Host for Proxy {
    fn now(&self) -> Duration {
        // Fail closed: at time 0 every token is issued in the future or lives too long.
        Duration::from_nanos(abi::time_of_day().unwrap_or_default())
    }

    fn steady(&self) -> Duration {
        if let Ok(nanos) = abi::monotonic_time() {
            return Duration::from_nanos(nanos);
        }
        GUARDED.with(|guarded| {
            let mut clock = guarded.get();
            let elapsed = clock.read(self.now());
            guarded.set(clock);
            elapsed
        })
    }

    fn random(&self) -> u64 {
        // Seeded once per VM from the host (WASI random_get), different on every call.
        RandomState::new().build_hasher().finish()
    }

    fn log(&self, level: Level, message: &str) {
        let level = match level {
            Level::Debug => DEBUG,
            Level::Info => INFO,
            Level::Warn => WARN,
            Level::Error => ERROR,
        };
        let _ = abi::log(level, message);
    }

    fn log_level(&self) -> Level {
        match abi::log_level() {
            Ok(0..=DEBUG) => Level::Debug,
            Ok(INFO) => Level::Info,
            // A host that does not report its level gets warnings and errors only.
            Ok(WARN) | Err(_) => Level::Warn,
            Ok(_) => Level::Error,
        }
    }

    fn configuration(&self, size: usize) -> Option<Vec<u8>> {
        abi::plugin_configuration(size)
    }

    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        abi::property(path)
    }

    fn set_tick_period(&self, period: Duration) {
        let millis = u32::try_from(period.as_millis()).unwrap_or(u32::MAX);
        if abi::set_tick_period(millis).is_err() {
            self.log(
                Level::Error,
                "the host offers no timer: the filter cannot fetch keys or bundles and holds no \
                 requests; use a host with proxy_set_tick_period_milliseconds",
            );
        }
    }

    fn verify_signature(&self, signature: &HostSignature<'_>) -> Option<bool> {
        foreign::verify_signature(signature)
    }

    fn define_metric(&self, kind: MetricKind, name: &str) -> Option<MetricId> {
        // Metric types of the ABI.
        let kind = match kind {
            MetricKind::Counter => 0,
            MetricKind::Gauge => 1,
            MetricKind::Histogram => 2,
        };
        abi::define_metric(kind, name).ok().map(MetricId)
    }

    fn increment_metric(&self, metric: MetricId, by: u32) {
        let _ = abi::increment_metric(metric.0, i64::from(by));
    }

    fn record_metric(&self, metric: MetricId, value: u64) {
        let _ = abi::record_metric(metric.0, value);
    }

    fn enter(&self, context: u32) -> bool {
        abi::set_effective_context(context).is_ok()
    }

    fn request_has_ended(&self) -> bool {
        // Envoy sets this property when the request is complete and not before
        // (`source/extensions/filters/common/expr/context.cc`).
        self.property(&["request", "duration"]).is_some()
    }

    fn request_headers(&self) -> ProxyRequest {
        headers::request(meshseal_abi::request_headers())
    }

    fn add_request_header(&self, name: &str, value: &str) -> bool {
        abi::add_request_header(name, value).is_ok()
    }

    fn set_request_header(&self, name: &str, value: &[u8]) -> bool {
        abi::replace_request_header(name, value).is_ok()
    }

    fn remove_request_header(&self, name: &str) -> bool {
        abi::remove_request_header(name).is_ok()
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
            // Fail closed: the stream stays paused until the proxy's own timeout ends it.
            self.log(
                Level::Error,
                "the host refused to send a local response; the request stays paused until it \
                 times out",
            );
        }
    }

    fn resume(&self) {
        let _ = abi::continue_request();
    }

    fn call(&self, call: &HttpCall<'_>) -> Result<u32, CallRefused> {
        let timeout = u32::try_from(call.timeout.as_millis()).unwrap_or(u32::MAX);
        abi::http_call(
            call.cluster,
            &meshseal_abi::header_map(call.headers),
            timeout,
        )
        .map_err(|_| CallRefused)
    }

    fn call_header(&self, name: &str) -> Option<Vec<u8>> {
        let headers = abi::call_headers();
        let found = meshseal_abi::Pairs::of(&headers).find(|(key, _)| *key == name.as_bytes());
        found.map(|(_, value)| value.to_vec())
    }

    fn call_body(&self, size: usize) -> Option<Vec<u8>> {
        abi::call_body(size)
    }
}
