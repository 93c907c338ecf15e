//! Single use of assertions across replicas, restarts and databases that go back (ADR 0029).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

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

/// Most uses that one transaction restores.
const RESTORED_AT_A_TIME: usize = 4_096;

/// Time for other uses to join a transaction that is smaller than the last one.
const PAUSE: Duration = Duration::from_millis(1);

/// Answer to an assertion once the database has its use.
type Answer = Result<Result<(), AuthError>, StoreError>;

/// The uses of this process.
pub struct SingleUse {
    /// Uses that this process remembers.
    pub(crate) memory: Replays,
    group: Group<Asserted, Answer>,
    /// Random number of this process.
    process: u64,
    /// Whether the database lacks uses that it lost.
    owed: AsyncMutex<bool>,
    /// Time at which the last incident was found (Unix seconds), also once an operator ended it.
    incident_since: AtomicU64,
}

impl SingleUse {
    /// Creates an empty memory for so many clients.
    #[must_use]
    pub fn new(clients: usize) -> Self {
        let mut random = [0; 8];
        // Without randomness two processes may share a number: then a use that one of them
        // recorded counts as the other's.
        let _shared = rand::fill(&mut random);
        Self {
            memory: Replays::new(clients),
            group: Group::with_pause(PAUSE),
            process: u64::from_le_bytes(random) >> 1,
            owed: AsyncMutex::default(),
            incident_since: AtomicU64::new(0),
        }
    }

    /// Records the use of an assertion that the memory did not know. The client counts as
    /// authenticated only after that.
    ///
    /// # Errors
    /// [`StoreError`]: the assertion stays used at this process.
    pub(crate) async fn record(&self, issuer: &Issuer, asserted: Asserted) -> Answer {
        self.group.join(&Recorder { issuer }, asserted).await
    }

    /// Looks whether the database lost uses that this process recorded, and restores them.
    ///
    /// # Errors
    /// [`StoreError`]; it is tried again next time.
    pub(crate) async fn follow(&self, issuer: &Issuer) -> Result<(), StoreError> {
        let look = self.uses(issuer, Vec::new());
        if look.witness.is_none() && !*self.owed.lock().await {
            return Ok(());
        }
        let seen = issuer.store.record_assertions(&look).await?;
        self.restore(issuer, &seen).await
    }

    fn uses(&self, issuer: &Issuer, uses: Vec<AssertionUse>) -> Uses {
        Uses {
            process: self.process,
            uses,
            witness: self.memory.witness(issuer.clock.read().proof_s()),
            version: issuer.publisher.current().version(),
        }
    }

    /// Acts on what a transaction saw: after a loss of state an incident tells every replica, and
    /// the database gets all uses that this process remembers.
    async fn restore(&self, issuer: &Issuer, seen: &Recorded) -> Result<(), StoreError> {
        if seen.went_back {
            issuer.publisher.refresh().await?;
        }
        let mut owed = self.owed.lock().await;
        if !*owed {
            // Another caller may have restored it meanwhile.
            let look = self.uses(issuer, Vec::new());
            if !seen.witness_lost || !issuer.store.record_assertions(&look).await?.witness_lost {
                return Ok(());
            }
            declare(issuer).await?;
            *owed = true;
        }
        let now = issuer.clock.read().proof_s();
        for part in self.memory.unexpired(now).chunks(RESTORED_AT_A_TIME) {
            let uses = self.uses(issuer, part.to_vec());
            issuer.store.record_assertions(&uses).await?;
        }
        *owed = false;
        Ok(())
    }

    /// Returns when the last incident was found (Unix seconds); 0 for none. The end of an incident
    /// makes no assertion acceptable.
    fn last_incident(&self, issuer: &Issuer, seen: &Recorded) -> u64 {
        let published = issuer.publisher.incident();
        let since = published.map_or(0, |incident| incident.since);
        let since = since.max(seen.incident_since.unwrap_or(0));
        // One that was found under a clock that was ahead counts as found now.
        let latest = issuer.clock.now().saturating_add(MAX_STEP_MS / 1_000);
        let before = self
            .incident_since
            .fetch_max(since.min(latest), Ordering::SeqCst);
        before.max(since)
    }
}

/// Declares an incident without an epoch.
async fn declare(issuer: &Issuer) -> Result<(), StoreError> {
    tracing::error!(
        "incident: the database lost uses of client assertions; those made before are refused"
    );
    let present = issuer.publisher.refresh().await?.incident;
    let change = lost_records(ASSERTIONS, present.as_ref(), issuer.clock.now_ms());
    issuer.publisher.commit(&change).await?;
    issuer.publisher.refresh().await.map(|_| ())
}

/// Records the uses of several assertions in one transaction.
struct Recorder<'i> {
    issuer: &'i Issuer,
}

impl Recorder<'_> {
    async fn record(&self, uses: Vec<AssertionUse>) -> Result<(Vec<bool>, u64), StoreError> {
        let once = &self.issuer.assertions;
        let uses = once.uses(self.issuer, uses);
        let seen = self.issuer.store.record_assertions(&uses).await?;
        // Whatever became of a use, its row is there.
        once.restore(self.issuer, &seen).await?;
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
