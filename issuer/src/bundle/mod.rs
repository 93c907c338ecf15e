//! The push: what is trusted now, as a signed bundle, to every proxy that waits for it; and who has confirmed what.

mod answers;
mod elsewhere;
mod endpoint;
mod proxies;
mod published;
mod publisher;

pub(crate) use elsewhere::Elsewhere;
pub(crate) use endpoint::{PATH, routes, waits};
pub use proxies::{LIVE_S, Live, Proxies, ProxyRecord, SETTLE_S};
pub use published::{KeySetDocument, Published};
pub use publisher::{Answer, FRESH_MS, Publisher, SyncError};
