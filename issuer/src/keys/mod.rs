//! Signing keys and their life cycle: generate → publish → confirmed by every live proxy → sign →
//! drain → retire → delete.

mod algorithm;
mod generate;
mod keeper;
mod lifecycle;
mod master;
mod pins;
mod promises;
mod record;
mod revoke;
mod signer;
mod timekeeper;

pub use algorithm::Algorithm;
pub use generate::{GenerateError, generate};
pub use keeper::{Keeper, KeeperError, bootstrap, policies};
pub use lifecycle::{Facts, KeyPolicy, MAX_DRAINING, Step, next_step};
pub use master::{MASTER_KEY_VARIABLE, MasterKey, MasterKeyError};
pub use promises::JwksPromises;
pub use record::{KeyChange, KeyRecord, KeyState, Purpose};
pub(crate) use revoke::key_epoch;
pub use revoke::{RevokeError, promote, revoke};
pub use signer::{Signer, SignerError};
pub use timekeeper::stored_mark;
