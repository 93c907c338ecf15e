//! Metrics, health and logs of the issuer. They contain no tokens and no secrets.

mod endpoint;
mod logging;
mod metrics;
mod readiness;

pub(crate) use endpoint::{metrics_routes, routes};
pub use logging::{LogFormat, init_logging};
pub use metrics::{Counter, LabelledCounter, Metrics};
