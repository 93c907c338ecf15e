//! What the issuer says about itself: counters, health, logs. Never a token, never a secret.

mod endpoint;
mod logging;
mod metrics;
mod readiness;

pub(crate) use endpoint::{metrics_routes, routes};
pub use logging::{LogFormat, init_logging};
pub use metrics::{Counter, LabelledCounter, Metrics};
