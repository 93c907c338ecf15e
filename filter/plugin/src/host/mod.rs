//! Interface between the engine and the proxy. The engine is generic over [`Host`], so that its
//! tests run natively in milliseconds.

use std::time::Duration;

use meshseal_core::authn::Moment;

use crate::headers::ProxyRequest;

#[cfg(test)]
pub(crate) mod fake;
pub mod foreign;
pub(crate) mod proxy;
mod steady;

/// Severity of a log line, least severe first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Events of single requests (V25).
    Debug,
    /// Rare, expected events.
    Info,
    /// Events that an operator should look at.
    Warn,
    /// Events that stop the filter from working.
    Error,
}

/// Kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Value that only rises.
    Counter,
    /// Most recently recorded value.
    Gauge,
    /// Distribution of recorded values.
    Histogram,
}

/// Id of a metric that is defined in the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricId(pub u32);

/// An HTTP request that the proxy makes for the filter, through one of its clusters.
#[derive(Clone, Copy, Debug)]
pub struct HttpCall<'a> {
    /// Name of the cluster in the proxy's configuration.
    pub cluster: &'a str,
    /// Pseudo-headers and headers.
    pub headers: &'a [(&'a str, &'a str)],
    /// Timeout after which the proxy reports a failure.
    pub timeout: Duration,
}

/// A signature for the proxy to verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostSignature<'a> {
    /// `sha256`, `sha384` or `sha512`.
    pub hash: &'static str,
    /// The public key as `SubjectPublicKeyInfo`.
    pub spki: &'a [u8],
    /// The signature: PKCS#1 v1.5 as in the JWS, ECDSA in DER.
    pub signature: &'a [u8],
    /// The signed bytes.
    pub text: &'a [u8],
}

/// Error returned by [`Host::call`] if the proxy does not know the cluster or the cluster has no
/// healthy host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallRefused;

/// A local response that the proxy sends instead of forwarding the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Response code details, for access logs.
    pub details: String,
    /// Additional headers in the header map format of the ABI.
    pub headers: Vec<u8>,
    /// The body; for a gRPC request, the gRPC message.
    pub body: String,
    /// gRPC status, used by the proxy when the request is gRPC.
    pub grpc_status: u8,
}

/// The proxy. Methods for a request or a response act on the entered context: the one of the
/// current callback, or the one chosen with [`Host::enter`]. No method panics; if the proxy can
/// refuse a call, the return value says so.
pub trait Host {
    /// Returns the wall clock: time since the Unix epoch, for times in tokens and bundles. An
    /// operator or NTP may set this clock to any time.
    fn now(&self) -> Duration;
    /// Returns the monotonic clock: time since an unspecified moment, for deadlines, back-off and
    /// rates. It never goes back and does not follow changes of the wall clock.
    fn steady(&self) -> Duration;
    /// Returns both clocks, for checks by the wall clock that must not follow its steps.
    fn moment(&self) -> Moment {
        Moment {
            wall_s: self.now().as_secs(),
            steady: self.steady(),
        }
    }
    /// Returns random bits for jitter and ids. They are not fit for secrets.
    fn random(&self) -> u64;
    /// Writes a line to the proxy's log.
    fn log(&self, level: Level, message: &str);
    /// Returns the least severe level that the proxy logs now.
    fn log_level(&self) -> Level;
    /// Returns the plugin configuration of `size` bytes.
    fn configuration(&self, size: usize) -> Option<Vec<u8>>;
    /// Returns a property of the proxy or the stream, such as `["node", "id"]`.
    fn property(&self, path: &[&str]) -> Option<Vec<u8>>;
    /// Sets the tick period of the root context.
    fn set_tick_period(&self, period: Duration);

    /// Verifies a signature with the proxy's own cryptography. Returns `None` if the proxy offers
    /// none or cannot answer.
    fn verify_signature(&self, signature: &HostSignature<'_>) -> Option<bool>;

    /// Defines a metric, or returns the id of an existing one.
    fn define_metric(&self, kind: MetricKind, name: &str) -> Option<MetricId>;
    /// Adds to a counter.
    fn increment_metric(&self, metric: MetricId, by: u32);
    /// Records a value of a gauge or a histogram.
    fn record_metric(&self, metric: MetricId, value: u64);

    /// Makes `context` the entered context. Returns false if it no longer exists.
    fn enter(&self, context: u32) -> bool;
    /// Returns true if the request of the entered stream has ended. Envoy still lets the context of
    /// an ended stream be entered until the end of the event loop iteration, and resuming or
    /// answering it then would act on a destroyed stream.
    fn request_has_ended(&self) -> bool;
    /// Returns all request headers in order: repeated ones repeatedly, names in lower case,
    /// pseudo-headers included.
    fn request_headers(&self) -> ProxyRequest;
    /// Adds a request header without replacing those of the same name, which is cheaper than
    /// [`Host::set_request_header`]. Returns false if the proxy refuses.
    #[must_use]
    fn add_request_header(&self, name: &str, value: &str) -> bool;
    /// Replaces a request header; the value need not be UTF-8. Returns false if the proxy refuses.
    #[must_use]
    fn set_request_header(&self, name: &str, value: &[u8]) -> bool;
    /// Removes every copy of a request header. Returns false if the proxy refuses.
    #[must_use]
    fn remove_request_header(&self, name: &str) -> bool;
    /// Sends a local response. The stream must be paused, or be paused by the callback's return
    /// value.
    fn respond(&self, reply: &Reply);
    /// Resumes a paused request.
    fn resume(&self);

    /// Makes an HTTP call. The proxy delivers the response to the entered context, identified by
    /// the returned token.
    ///
    /// # Errors
    /// Returns [`CallRefused`] if the proxy does not make the call; then no response will come.
    fn call(&self, call: &HttpCall<'_>) -> Result<u32, CallRefused>;
    /// Returns the first value of a header of a call's response. Works only in the callback that
    /// announces the response.
    fn call_header(&self, name: &str) -> Option<Vec<u8>>;
    /// Returns the body of a call's response, up to `size` bytes.
    fn call_body(&self, size: usize) -> Option<Vec<u8>>;
}
