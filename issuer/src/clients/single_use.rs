//! Single use of client assertions, across replicas, restarts and databases that go back (ADR
//! 0029).

use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use aws_lc_rs::rand;
use tokio::sync::Mutex as AsyncMutex;

use super::assertion::Asserted;
use super::authenticate::REPLAYED;
use super::{AuthError, Replays};
use crate::bundle::{ASSERTIONS, lost_records};
use crate::clock::MAX_STEP_MS;
use crate::group::{Batch, Group, Waiting};
use crate::issuer::Issuer;
use crate::store::{AssertionUse, Recorded, StoreError, Uses};

/// Largest number of uses that one transaction restores.
const RESTORED_AT_A_TIME: usize = 4_096;

/// Result of recording a use. The inner error rejects the assertion.
type Answer = Result<Result<(), AuthError>, StoreError>;

/// Uses of assertions, in this process and in the database.
pub struct SingleUse {
    /// Uses that this process remembers.
    pub(crate) memory: Replays,
    group: Group<Asserted, Answer>,
    /// Random id of this process.
    process: u64,
    /// True while the database lacks lost uses that this process has yet to restore.
    owed: AsyncMutex<bool>,
    /// Time before which uses may be lost (Unix seconds): that of the latest incident, also after its
    /// end, or of a start on another boot.
    lost_before: AtomicU64,
}

impl SingleUse {
    /// Creates an empty memory for this number of clients. The database may lack uses from before
    /// `uses_lost_before` (Unix seconds; 0: it lacks none).
    #[must_use]
    pub fn new(clients: usize, uses_lost_before: u64) -> Self {
        let mut random = [0; 8];
        // Without random bytes two processes may share an id. A use that one of them recorded would
        // then count as the other's own.
        let _shared = rand::fill(&mut random);
        Self {
            memory: Replays::new(clients),
            group: Group::default(),
            process: u64::from_le_bytes(random) >> 1,
            owed: AsyncMutex::default(),
            lost_before: AtomicU64::new(uses_lost_before),
        }
    }

    /// Records the use of an assertion that was fresh in the memory. The client counts as
    /// authenticated only after that.
    ///
    /// # Errors
    /// [`StoreError`]; the assertion stays used at this process.
    pub(crate) async fn record(&self, issuer: &Issuer, asserted: Asserted) -> Answer {
        self.group.join(&Recorder { issuer }, asserted).await
    }

    /// Checks whether the database lost uses that this process recorded, and restores them.
    ///
    /// # Errors
    /// [`StoreError`]; the next call tries again.
    pub(crate) async fn follow(&self, issuer: &Issuer) -> Result<(), StoreError> {
        let look = self.uses(issuer, Vec::new());
        // Without a witness this process has recorded no use that is still valid.
        if look.witness.is_none() && !*self.owed.lock().await {
            return Ok(());
        }
        let seen = issuer.store.record_assertions(&look).await?;
        self.restore(issuer, &seen).await
    }

    /// Returns a request that records uses and reports losses of state.
    fn uses(&self, issuer: &Issuer, uses: Vec<AssertionUse>) -> Uses {
        Uses {
            process: self.process,
            uses,
            witness: self.memory.witness(issuer.clock.read().proof_s()),
            version: issuer.publisher.current().version(),
        }
    }

    /// Handles a loss of state that a transaction saw. Declares an incident, which tells every
    /// replica, and writes all uses that this process remembers to the database.
    async fn restore(&self, issuer: &Issuer, seen: &Recorded) -> Result<(), StoreError> {
        if seen.went_back {
            issuer.publisher.refresh().await?;
        }
        let mut owed = self.owed.lock().await;
        if !*owed {
            // The transaction is repeated under the lock: another caller may have restored the uses
            // meanwhile.
            let look = self.uses(issuer, Vec::new());
            if !seen.witness_lost || !issuer.store.record_assertions(&look).await?.witness_lost {
                return Ok(());
            }
            declare(issuer).await?;
            *owed = true;
        }
        // INVARIANT: `owed` stays true until all uses are restored, also if a write fails.
        let now = issuer.clock.read().proof_s();
        for part in self.memory.unexpired(now).chunks(RESTORED_AT_A_TIME) {
            let uses = self.uses(issuer, part.to_vec());
            issuer.store.record_assertions(&uses).await?;
        }
        *owed = false;
        Ok(())
    }

    /// Returns the time at which the last incident was found (Unix seconds); 0 for none. Ended
    /// incidents count, too: ending one must not make an older assertion acceptable.
    fn last_incident(&self, issuer: &Issuer, seen: &Recorded) -> u64 {
        let published = issuer.publisher.incident();
        let since = published.map_or(0, |incident| incident.since);
        let since = since.max(seen.incident_since.unwrap_or(0));
        // The clock that dated the incident may have been ahead. Such a time is remembered as now,
        // so that it does not reject assertions for long.
        let latest = issuer.clock.now().saturating_add(MAX_STEP_MS / 1_000);
        let before = self
            .lost_before
            .fetch_max(since.min(latest), Ordering::SeqCst);
        before.max(since.min(latest))
    }
}

/// Declares an incident that revokes no tokens.
async fn declare(issuer: &Issuer) -> Result<(), StoreError> {
    tracing::error!(
        "incident: the database lost uses of client assertions; earlier assertions are rejected"
    );
    let present = issuer.publisher.refresh().await?.incident;
    let change = lost_records(ASSERTIONS, present.as_ref(), issuer.clock.now_ms());
    issuer.publisher.commit(&change).await?;
    issuer.publisher.refresh().await.map(|_| ())
}

/// Batch that records the uses of several assertions in one transaction.
struct Recorder<'i> {
    issuer: &'i Issuer,
}

impl Recorder<'_> {
    /// Records uses. Returns whether each is the first, and the time of the last incident.
    async fn record(&self, uses: Vec<AssertionUse>) -> Result<(Vec<bool>, u64), StoreError> {
        let once = &self.issuer.assertions;
        let uses = once.uses(self.issuer, uses);
        let seen = self.issuer.store.record_assertions(&uses).await?;
        // Losses are handled first: the new uses become witnesses, which would hide a loss of
        // older ones.
        once.restore(self.issuer, &seen).await?;
        // The row of every use exists now, whether this or another process wrote it.
        once.memory.recorded(&uses.uses);
        let since = once.last_incident(self.issuer, &seen);
        Ok((seen.fresh, since))
    }
}

#[async_trait]
impl Batch for Recorder<'_> {
    type Work = Asserted;
    type Answer = Answer;

    async fn run(&self, taken: Vec<Waiting<Asserted, Answer>>) -> Vec<Waiting<Asserted, Answer>> {
        let skew_s = self.issuer.config.tokens.clock_skew_s;
        let uses = taken.iter().map(|waiting| waiting.work.once).collect();
        match self.record(uses).await {
            Ok((fresh, since)) => {
                // Accepts a first use that no lost use can precede.
                for (waiting, fresh) in taken.into_iter().zip(fresh) {
                    let answer = match fresh {
                        false => Err(REPLAYED),
                        true if waiting.work.may_precede(since, skew_s) => {
                            Err(AuthError::BeforeIncident)
                        }
                        true => Ok(()),
                    };
                    waiting.tell(Ok(answer));
                }
            }
            Err(error) => {
                for waiting in taken {
                    waiting.tell(Err(error.clone()));
                }
            }
        }
        Vec::new()
    }
}
