//! What the issuer must remember: keys, revocations, leases and which proxy has what. One trait,
//! kept small, behind which a SQLite file or a PostgreSQL server does the work. Nothing here is
//! touched for each token, except that uses of assertions are recorded in groups.

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

/// Why the store did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Somebody else changed the state first: look again.
    #[error("the state changed meanwhile")]
    Conflict,
    /// There is no room for what was to be revoked. Nothing was changed.
    #[error(transparent)]
    Full(#[from] Full),
    /// The database cannot be used. Whether a change was made is unknown; all changes may be
    /// repeated.
    #[error("the database {0}")]
    Unavailable(Outage),
    /// A row, or the set of rows, was changed by a program without the master key. Nothing was
    /// changed.
    #[error(
        "the database was changed without the master key: {0}; undo that change, or run `meshseal incident repair`"
    )]
    Tampered(String),
}

impl From<Outage> for StoreError {
    fn from(outage: Outage) -> Self {
        Self::Unavailable(outage)
    }
}

/// The few words that are looked at all the time.
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
    /// When a rotation of the signing key was asked for (Unix seconds), until it is done.
    pub rotation_requested: Option<u64>,
    /// Whether the database lost records of workers that this program has seen there, and no change
    /// with an incident was made since.
    pub lost_records: bool,
}

/// Loss of state that was found, until an operator ends it (ADR 0019).
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

/// Uses of assertions that one transaction records, and what the database must hold besides.
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
    /// For each use whether it is the first one.
    pub fresh: Vec<bool>,
    /// Whether the database lost the witness.
    pub witness_lost: bool,
    /// Whether the database is at a version that does not follow the published one.
    pub went_back: bool,
    /// Time at which the latest incident was found (Unix seconds), also after its end.
    pub incident_since: Option<u64>,
}

/// All that the trust bundle is made of, as of one version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Persisted {
    /// Version of all the rest.
    pub version: u64,
    /// First token index that was never leased.
    pub next_index: u64,
    /// Latest versions before this one, oldest first.
    pub recent: Vec<u64>,
    /// Keys in every state, oldest first.
    pub keys: Vec<KeyRecord>,
    /// Tokens revoked one by one, by index.
    pub revoked: Vec<RevokedToken>,
    /// "Issued before" revocations.
    pub epochs: Vec<EpochRecord>,
}

/// A change of what the trust bundle is made of: applied whole or not at all, and with it the
/// version rises.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Only if this is still the version (compare and swap).
    pub expected_version: Option<u64>,
    /// Key steps, in order.
    pub keys: Vec<KeyChange>,
    /// Tokens to revoke, each named once; of two expiries of a token the later is kept.
    pub revoke: Vec<RevokedToken>,
    /// Who revokes them.
    pub revoker: Revoker,
    /// Epochs to raise, each named once; an epoch never falls, and the later of two expiries is
    /// kept.
    pub epochs: Vec<EpochRecord>,
    /// Forget that a rotation was asked for.
    pub rotation_done: bool,
    /// Forget revocations that no living token can need after this time (Unix seconds).
    pub prune_before: Option<u64>,
    /// Begins an incident, or ends the present one.
    pub incident: Option<Option<Incident>>,
    /// Indices below this one count as leased.
    pub next_index: u64,
    /// Lost versions whose content is restored. They count as part of the history from now on; the
    /// new version is larger than each.
    pub merge: Vec<u64>,
    /// The new version is larger than this one. A replica that remembers its content still restores
    /// it.
    pub above: u64,
}

impl Change {
    /// Returns whether it only revokes, so that it may be made together with others, and repeated.
    #[must_use]
    pub fn only_revokes(&self) -> bool {
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

    /// Returns whether it destroys the private half of a key.
    #[must_use]
    pub fn destroys_keys(&self) -> bool {
        let destroys = |step: &KeyChange| match step {
            KeyChange::Enter { state, .. } => !state.may_sign(),
            KeyChange::Restore(key) => key.sealed.is_none(),
            KeyChange::Delete { .. } => true,
            KeyChange::Insert(_) | KeyChange::Extend { .. } => false,
        };
        self.keys.iter().any(destroys)
    }
}

/// The one door to the database.
#[async_trait]
pub trait Store: Send + Sync {
    /// Returns whether nothing was ever committed. The one question that needs no master key.
    async fn is_new(&self) -> Result<bool, StoreError>;

    /// Gives the store the key under which rows are authenticated, and puts the rows of a database
    /// that has no MACs yet under them. Everything below works only after that.
    async fn unlock(&self, master: &MasterKey) -> Result<(), StoreError>;

    /// Removes every row that does not carry its MAC, and declares an incident; returns the names
    /// of those rows.
    async fn repair(&self, now_ms: u64) -> Result<Vec<String>, StoreError>;

    /// Version and requests. Cheap: called several times a second.
    async fn head(&self) -> Result<Head, StoreError>;

    /// Everything the trust bundle is made of, consistent.
    async fn load(&self) -> Result<Persisted, StoreError>;

    /// The same, without reading again the revocations that this program has read before.
    async fn load_changes(&self) -> Result<Persisted, StoreError> {
        self.load().await
    }

    /// Applies a change; the new version is `max(previous + 1, now_ms)`. A change that only revokes
    /// what is revoked already changes nothing: the answer is the present version.
    async fn commit(&self, change: &Change, now_ms: u64) -> Result<u64, StoreError>;

    /// Applies changes one by one in one transaction, so that they wait for the disk once; at least
    /// the first, and no more once that takes long: the answers are those of the first changes.
    /// Each is applied whole or not at all; the outer error is that of the transaction.
    async fn commit_all(
        &self,
        changes: &[Change],
        now_ms: u64,
    ) -> Result<Vec<Result<u64, StoreError>>, StoreError> {
        let mut versions = Vec::with_capacity(changes.len());
        for change in changes {
            versions.push(self.commit(change, now_ms).await);
        }
        Ok(versions)
    }

    /// Notes that a rotation of the signing key is wanted since `now` (Unix seconds), unless it
    /// already is.
    async fn request_rotation(&self, now: u64) -> Result<(), StoreError>;

    /// Takes so many token indices, none below `at_least`, that nobody else ever gets.
    async fn lease_indices(&self, count: u64, at_least: u64) -> Result<Range<u64>, StoreError>;

    /// Records uses of assertions; without any, looks for a loss of state only.
    async fn record_assertions(&self, uses: &Uses) -> Result<Recorded, StoreError>;

    /// Deletes uses of assertions that expired before this time (Unix seconds).
    async fn forget_assertions(&self, before: u64) -> Result<(), StoreError>;

    /// Becomes or stays the replica that does scheduled work until the given time; false while
    /// another one is.
    async fn lead(&self, replica: &str, now: u64, until: u64) -> Result<bool, StoreError>;

    /// Writes what this replica knows of workers. Of two records of a worker the higher version,
    /// the later sighting and the later time until which it accepts are kept. Returns the records
    /// as they were before where another replica wrote them last: from now on [`Store::proxies`]
    /// leaves them out for this one.
    async fn save_proxies(
        &self,
        replica: &str,
        proxies: &[ProxyRecord],
    ) -> Result<Vec<ProxyRecord>, StoreError>;

    /// Returns the workers that another replica than this one saw last.
    async fn proxies(&self, replica: &str) -> Result<Vec<ProxyRecord>, StoreError>;

    /// Deletes workers that were not seen and could not accept since this time (Unix seconds).
    async fn forget_proxies(&self, before: u64) -> Result<(), StoreError>;

    /// Marks workers as gone since `now` (Unix seconds). Every replica sees the mark, until one of
    /// the workers polls again.
    async fn proxies_are_gone(&self, workers: &[String], now: u64) -> Result<(), StoreError>;

    /// The value kept under this name; the given one is kept if there was none.
    async fn constant(&self, name: &str, value: &str) -> Result<String, StoreError>;

    /// Replaces the value kept under this name; false if it is not `old` any more.
    async fn replace(&self, name: &str, old: &str, new: &str) -> Result<bool, StoreError>;

    /// Reads the database server's clock (Unix milliseconds); `None` for a file, which has none.
    async fn clock_ms(&self) -> Result<Option<u64>, StoreError> {
        Ok(None)
    }

    /// Empties the write-ahead log of a file in which a destroyed key may still stand.
    async fn tidy(&self) {}

    /// State of the database, as the last operations found it.
    fn health(&self) -> Health;
}
