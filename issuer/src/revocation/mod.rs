//! Revocation of single tokens, and of all tokens of a subject, client, session, grant or key that
//! were issued before a time.

mod endpoint;
mod receipt;
mod record;
mod request;
mod room;

pub(crate) use endpoint::routes;
pub(crate) use receipt::MAX_WAITING;
pub use receipt::{Laggard, Receipt, ReceiptState};
pub use record::{EpochKind, EpochRecord, RevokedToken};
pub use request::{RevokeRequest, Target};
pub use room::{Full, Revoker, Usage};
