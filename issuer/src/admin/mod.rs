//! What administrators see and do: keys and proxies.

mod endpoint;
mod view;

pub(crate) use endpoint::routes;
pub use view::{IncidentReport, IncidentView, KeyView, KeysView, ProxiesView, ProxyView};
