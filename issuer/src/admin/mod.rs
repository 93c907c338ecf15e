//! Administration of keys, proxies and incidents.

mod endpoint;
mod view;

pub(crate) use endpoint::routes;
pub use view::{IncidentReport, IncidentView, KeyView, KeysView, ProxiesView, ProxyView};
