//! The push: what is trusted now, as a signed bundle, to every proxy that waits for it; and who has
//! confirmed what.

mod acknowledgement;
mod answers;
mod book;
mod elsewhere;
mod endpoint;
mod group;
mod loss;
mod pace;
mod poll;
mod proxies;
mod published;
mod publisher;
mod worker;

pub(crate) use elsewhere::Elsewhere;
pub(crate) use endpoint::{PATH, routes, waits};
pub(crate) use loss::{ASSERTIONS, PRUNE_SPREAD_S, lost_records, unproven};
pub(crate) use proxies::Behind;
pub use proxies::{Contact, Counted, LIVE_S, Live, Presence, Proxies, SETTLE_S};
pub use published::{KeySetDocument, Published};
pub use publisher::{Answer, Base, FRESH_MS, Publisher, SyncError};
pub use worker::{ProxyRecord, UNBOUNDED, Validity};
