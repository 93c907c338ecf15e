//! What the engine asks of the proxy. The engine is generic over [`Host`], so its tests run
//! natively in milliseconds.

use std::time::Duration;

use meshseal_core::authn::Moment;

use crate::headers::RequestHeaders;

#[cfg(test)]
pub(crate) mod fake;
pub mod foreign;
pub(crate) mod proxy;
mod steady;

/// Severity of a log line, least severe first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What happened to single requests (V25).
    Debug,
    /// What happens rarely and as expected.
    Info,
    /// What an operator should look at.
    Warn,
    /// What stops the filter from working.
    Error,
}

/// What a metric measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only rises.
    Counter,
    /// The value recorded last.
    Gauge,
    /// The distribution of recorded values.
    Histogram,
}

/// A metric that the proxy knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricId(pub u32);

/// An HTTP request that the proxy makes for the filter, through one of its clusters.
#[derive(Clone, Copy, Debug)]
pub struct HttpCall<'a> {
    /// Name of the cluster in the proxy's configuration.
    pub cluster: &'a str,
    /// Pseudo-headers and headers.
    pub headers: &'a [(&'a str, &'a str)],
    /// After this the proxy answers with a failure.
    pub timeout: Duration,
}

/// A signature for the proxy to verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostSignature<'a> {
    /// `sha256`, `sha384` or `sha512`.
    pub hash: &'static str,
    /// The public key as `SubjectPublicKeyInfo`.
    pub spki: &'a [u8],
    /// PKCS#1 v1.5 as it is, ECDSA in DER.
    pub signature: &'a [u8],
    /// What was signed.
    pub text: &'a [u8],
}

/// The proxy refused to make the call: it does not know the cluster, or has no healthy host there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallRefused;

/// A response that the proxy sends instead of asking the upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Response code details, for access logs.
    pub details: String,
    /// Additional headers, as the ABI lays them out.
    pub headers: Vec<u8>,
    /// The body; for a gRPC request, the message.
    pub body: String,
    /// gRPC status, used by the proxy when the request is gRPC.
    pub grpc_status: u8,
}

/// The proxy. Calls about a request or a response act on the stream chosen with [`Host::enter`], in
/// the callbacks of a stream on that stream. No method panics; where the proxy may refuse, the
/// return value says so.
pub trait Host {
    /// Time since the Unix epoch, for times in tokens and bundles. An operator or NTP may set this
    /// clock to any time.
    fn now(&self) -> Duration;
    /// Time since an unspecified moment, for deadlines, back-off and rates. It never goes back and
    /// does not follow changes of the time of day.
    fn steady(&self) -> Duration;
    /// Both clocks, for what is judged by the time of day and must not follow its steps.
    fn moment(&self) -> Moment {
        Moment {
            wall_s: self.now().as_secs(),
            steady: self.steady(),
        }
    }
    /// Random bits, for jitter and names; nothing secret is made of them.
    fn random(&self) -> u64;
    /// Writes a line to the proxy's log.
    fn log(&self, level: Level, message: &str);
    /// The least severe level that the proxy logs now.
    fn log_level(&self) -> Level;
    /// The plugin configuration, of `size` bytes.
    fn configuration(&self, size: usize) -> Option<Vec<u8>>;
    /// A property of the proxy or the stream, e.g. `["node", "id"]`.
    fn property(&self, path: &[&str]) -> Option<Vec<u8>>;
    /// Sets how often the root context gets a tick.
    fn set_tick_period(&self, period: Duration);

    /// Whether a signature is good, by the proxy's own cryptography; `None` if it has none to
    /// offer.
    fn verify_signature(&self, signature: &HostSignature<'_>) -> Option<bool>;

    /// Makes a metric known, or finds it.
    fn define_metric(&self, kind: MetricKind, name: &str) -> Option<MetricId>;
    /// Adds to a counter.
    fn increment_metric(&self, metric: MetricId, by: u32);
    /// Records a value of a gauge or a histogram.
    fn record_metric(&self, metric: MetricId, value: u64);

    /// Makes `context` the one that the following calls act on; false if it is gone.
    fn enter(&self, context: u32) -> bool;
    /// Whether the entered stream is over. Envoy lets its context be entered until the end of the
    /// turn of its event loop, and to resume or answer it then is to act on what is no more.
    fn request_has_ended(&self) -> bool;
    /// All request headers in order, repeated ones repeated, names in lower case, pseudo-headers
    /// included.
    fn request_headers(&self) -> RequestHeaders;
    /// Adds a request header beside those of its name, which is cheaper than to replace them; false
    /// if the proxy refuses.
    #[must_use]
    fn add_request_header(&self, name: &str, value: &str) -> bool;
    /// Replaces a request header; values need not be UTF-8. False if the proxy refuses.
    #[must_use]
    fn set_request_header(&self, name: &str, value: &[u8]) -> bool;
    /// Removes every copy of a request header; false if the proxy refuses.
    #[must_use]
    fn remove_request_header(&self, name: &str) -> bool;
    /// Answers the request. The stream must be paused, or be paused by the callback's return value.
    fn respond(&self, reply: &Reply);
    /// Lets a paused request go on.
    fn resume(&self);

    /// Makes an HTTP call; its response comes to the entered context under the returned token.
    ///
    /// # Errors
    /// [`CallRefused`]: no response will come.
    fn call(&self, call: &HttpCall<'_>) -> Result<u32, CallRefused>;
    /// First value of a header of the call's response, in the callback that announces it.
    fn call_header(&self, name: &str) -> Option<Vec<u8>>;
    /// The body of the call's response, up to `size` bytes.
    fn call_body(&self, size: usize) -> Option<Vec<u8>>;
}
