//! Revocation: what no longer counts, by token, subject, client, session, grant, key, or everything before a time.

mod endpoint;
mod receipt;
mod record;
mod request;

pub(crate) use endpoint::routes;
pub use receipt::Receipt;
pub use record::{EpochKind, EpochRecord, RevokedToken, fits};
pub use request::{RevokeRequest, Target};
