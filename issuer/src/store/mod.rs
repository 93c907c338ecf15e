//! Storage of keys, revocations, leases and worker records.
//!
//! One small trait hides whether a SQLite file or a PostgreSQL server does the work. Minting a
//! token does not use the store, except that uses of client assertions are recorded in groups.

mod assertions;
mod change;
mod health;
mod hosts;
mod location;
mod open;
mod outage;
mod peek;
mod pool;
mod records;
mod rows;
mod schema;
mod seal;
mod sql;
mod state;
mod statement;
mod verify;

pub use health::Health;
pub use location::Location;
pub use open::{OpenError, migrate, open, open_for};
pub use outage::{Outage, Reason};
pub use peek::Peek;

use std::ops::Range;

use async_trait::async_trait;

use crate::bundle::ProxyRecord;
use crate::keys::{KeyChange, KeyRecord, MasterKey};
use crate::revocation::{EpochRecord, Full, RevokedToken, Revoker};

/// Error returned by a [`Store`] operation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Another program changed the state first: read it again.
    #[error("the state was changed by another process at the same time; try again")]
    Conflict,
    /// The revocations exceed a quota. Nothing was changed.
    #[error(transparent)]
    Full(#[from] Full),
    /// The database cannot be used. A change may or may not have been made; every change may be
    /// repeated.
    #[error("the database {0}")]
    Unavailable(Outage),
    /// A program without the master key changed a row or the set of rows. This operation changed
    /// nothing.
    #[error(
        "the database was changed without the master key: {0}; \
         undo that change, or run `meshseal incident repair`"
    )]
    Tampered(String),
}

impl From<Outage> for StoreError {
    fn from(outage: Outage) -> Self {
        Self::Unavailable(outage)
    }
}

/// Fields of the state row that each replica reads several times a second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Version of keys and revocations.
    pub version: u64,
    /// First token index that was never leased.
    pub next_index: u64,
    /// Incident that no operator has ended.
    pub incident: Option<Incident>,
    /// Time at which the latest incident was found (Unix seconds), also after its end: records of
    /// workers may have been lost then.
    pub latest_loss: Option<u64>,
    /// Time of the pending request for a rotation of the signing key (Unix seconds).
    pub rotation_requested: Option<u64>,
    /// True if the database lost worker records that this program has seen there, and no change
    /// with an incident was made since.
    pub lost_records: bool,
}

/// Detected loss of state, until an operator ends it (ADR 0019).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// Time at which it was found (Unix seconds).
    pub since: u64,
    /// Findings and their effect, for operators.
    pub reason: String,
}

/// Use of a client assertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AssertionUse {
    /// Half a SHA-256 of the client and the `jti`.
    pub id: u128,
    /// Expiry including clock skew (Unix seconds, exclusive).
    pub expires_at: u64,
}

/// Uses of assertions to record in one transaction, and facts that the database must confirm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    /// Random number of the issuer process.
    pub process: u64,
    /// The uses; each process records an assertion for one request only.
    pub uses: Vec<AssertionUse>,
    /// A use that this process recorded and that has not expired.
    pub witness: Option<u128>,
    /// Version of keys and revocations that this process publishes.
    pub version: u64,
}

/// Answer to [`Uses`], as of one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// For each use, true if it is the first one.
    pub fresh: Vec<bool>,
    /// True if the database lost the witness.
    pub witness_lost: bool,
    /// True if the version in the database does not follow the published one.
    pub went_back: bool,
    /// Time at which the latest incident was found (Unix seconds), also after its end.
    pub incident_since: Option<u64>,
}

/// Content of the trust bundle at one version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Persisted {
    /// Version of this content.
    pub version: u64,
    /// First token index that was never leased.
    pub next_index: u64,
    /// Latest versions before this one, oldest first.
    pub recent: Vec<u64>,
    /// Keys in every state, oldest first.
    pub keys: Vec<KeyRecord>,
    /// Individually revoked tokens, by index.
    pub revoked: Vec<RevokedToken>,
    /// "Issued before" revocations of groups.
    pub epochs: Vec<EpochRecord>,
}

/// Change of the trust bundle's content: applied completely or not at all. It raises the version.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Version that the database must still have (compare and swap).
    pub expected_version: Option<u64>,
    /// Key steps, in order.
    pub keys: Vec<KeyChange>,
    /// Tokens to revoke, each named once; the later of a token's two expiries is kept.
    pub revoke: Vec<RevokedToken>,
    /// Client that revokes them.
    pub revoker: Revoker,
    /// Epochs to raise, each named once; an epoch never falls, and the later of two expiries is
    /// kept.
    pub epochs: Vec<EpochRecord>,
    /// Clears the request for a rotation.
    pub rotation_done: bool,
    /// Deletes revocations that expired before this time (Unix seconds).
    pub prune_before: Option<u64>,
    /// Begins an incident (`Some`), or ends the present one (`None`).
    pub incident: Option<Option<Incident>>,
    /// Indices below this one count as leased.
    pub next_index: u64,
    /// Lost versions whose content is restored. They become part of the history, and the new
    /// version is larger than each.
    pub merge: Vec<u64>,
    /// Lower bound of the new version (exclusive). A replica that remembers the content of this
    /// version still restores it.
    pub above: u64,
}

impl Change {
    /// Returns whether the change only revokes. Such changes may share a transaction and may be
    /// repeated.
    #[must_use]
    pub fn only_revokes(&self) -> bool {
        // Exhaustive, so that a new field cannot be forgotten here.
        let Self {
            expected_version,
            keys,
            revoke,
            revoker: _,
            epochs,
            rotation_done,
            prune_before,
            incident,
            next_index,
            merge,
            above,
        } = self;
        let else_nothing = expected_version.is_none()
            && keys.is_empty()
            && !rotation_done
            && prune_before.is_none();
        let no_repair = incident.is_none() && *next_index == 0 && merge.is_empty() && *above == 0;
        else_nothing && no_repair && !(revoke.is_empty() && epochs.is_empty())
    }

    /// Returns whether the change destroys the private half of a key.
    #[must_use]
    pub fn destroys_keys(&self) -> bool {
        self.keys.iter().any(|step| match step {
            KeyChange::Enter { state, .. } => !state.may_sign(),
            KeyChange::Restore(key) => key.sealed.is_none(),
            KeyChange::Delete { .. } => true,
            KeyChange::Insert(_) | KeyChange::Extend { .. } => false,
        })
    }
}

/// Access to the database.
#[async_trait]
pub trait Store: Send + Sync {
    /// Returns whether nothing was ever committed. Only this operation works before
    /// [`Store::unlock`].
    async fn is_new(&self) -> Result<bool, StoreError>;

    /// Derives the keys of row MACs from the master key, and adds MACs to a database that has none
    /// yet. All operations except [`Store::is_new`] require it.
    async fn unlock(&self, master: &MasterKey) -> Result<(), StoreError>;

    /// Removes every row without a valid MAC and declares an incident. Returns the names of the
    /// removed rows.
    async fn repair(&self, now_ms: u64) -> Result<Vec<String>, StoreError>;

    /// Reads version and pending requests. Cheap: called several times a second.
    async fn head(&self) -> Result<Head, StoreError>;

    /// Reads the content of the trust bundle as one consistent snapshot.
    async fn load(&self) -> Result<Persisted, StoreError>;

    /// Reads the same snapshot, without the revocations that this program has read before.
    async fn load_changes(&self) -> Result<Persisted, StoreError> {
        self.load().await
    }

    /// Applies a change and returns the version after it: `max(previous + 1, now_ms)`, or more if
    /// the change requires it. A change that only repeats present revocations changes nothing, and
    /// the present version is returned.
    async fn commit(&self, change: &Change, now_ms: u64) -> Result<u64, StoreError>;

    /// Applies changes in order in one transaction, so that they wait for the disk once. It applies
    /// at least the first and stops when the transaction takes too long; the answers belong to the
    /// first changes. Each change is applied completely or not at all. The outer error is that of
    /// the transaction.
    async fn commit_all(
        &self,
        changes: &[Change],
        now_ms: u64,
    ) -> Result<Vec<Result<u64, StoreError>>, StoreError> {
        // A store without savepoints uses one transaction for each change.
        let mut versions = Vec::with_capacity(changes.len());
        for change in changes {
            versions.push(self.commit(change, now_ms).await);
        }
        Ok(versions)
    }

    /// Records a request for a rotation of the signing key at `now` (Unix seconds), unless one is
    /// pending.
    async fn request_rotation(&self, now: u64) -> Result<(), StoreError>;

    /// Leases `count` token indices from `at_least` on. No index is ever leased twice.
    async fn lease_indices(&self, count: u64, at_least: u64) -> Result<Range<u64>, StoreError>;

    /// Records uses of assertions. An empty list only checks for a loss of state.
    async fn record_assertions(&self, uses: &Uses) -> Result<Recorded, StoreError>;

    /// Deletes uses of assertions that expired before this time (Unix seconds).
    async fn forget_assertions(&self, before: u64) -> Result<(), StoreError>;

    /// Acquires or renews the lead, the right to do scheduled work, until the given time. Returns
    /// false while another replica leads.
    async fn lead(&self, replica: &str, now: u64, until: u64) -> Result<bool, StoreError>;

    /// Writes this replica's worker records. If the row of a worker differs, the higher version,
    /// the later contact and the later end of acceptance are kept. Returns the previous records
    /// that another replica wrote last: from now on this replica owns them, and [`Store::proxies`]
    /// leaves them out for it.
    async fn save_proxies(
        &self,
        replica: &str,
        proxies: &[ProxyRecord],
    ) -> Result<Vec<ProxyRecord>, StoreError>;

    /// Returns the records of workers that another replica wrote last.
    async fn proxies(&self, replica: &str) -> Result<Vec<ProxyRecord>, StoreError>;

    /// Deletes workers that neither made contact nor could accept tokens since this time (Unix
    /// seconds).
    async fn forget_proxies(&self, before: u64) -> Result<(), StoreError>;

    /// Marks workers as gone since `now` (Unix seconds). Every replica sees the mark, until the
    /// worker polls again.
    async fn proxies_are_gone(&self, workers: &[String], now: u64) -> Result<(), StoreError>;

    /// Returns the value of a name, after storing the given one if the name had none.
    async fn constant(&self, name: &str, value: &str) -> Result<String, StoreError>;

    /// Replaces the value of a name. Returns false if the value is not `old` any more.
    async fn replace(&self, name: &str, old: &str, new: &str) -> Result<bool, StoreError>;

    /// Returns the database server's clock (Unix milliseconds); `None` for a file, which has none.
    async fn clock_ms(&self) -> Result<Option<u64>, StoreError> {
        Ok(None)
    }

    /// Empties the write-ahead log of a SQLite file, which may still hold a destroyed key.
    async fn tidy(&self) {}

    /// Returns the state of the database according to the latest operations.
    fn health(&self) -> Health;
}
