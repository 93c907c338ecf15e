//! Push of trust bundles: signs the current keys and revocations for every proxy that polls, and
//! tracks the version that each worker has confirmed.

mod acknowledgement;
mod answers;
mod book;
mod elsewhere;
mod endpoint;
mod group;
mod live;
mod loss;
mod pace;
mod poll;
mod proxies;
mod published;
mod publisher;
mod worker;

pub(crate) use elsewhere::Elsewhere;
pub(crate) use endpoint::{PATH, routes, waits};
pub(crate) use live::Behind;
pub use live::{Counted, Live};
pub(crate) use loss::{ASSERTIONS, PRUNE_SPREAD_S, lost_records, unproven};
pub use proxies::{Contact, LIVE_S, Presence, Proxies, SETTLE_S};
pub use published::{KeySetDocument, Published};
pub use publisher::{Answer, Base, FRESH_MS, Publisher, SyncError};
pub use worker::{ProxyRecord, UNBOUNDED, Validity};
