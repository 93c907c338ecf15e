//! Record of the latest database failures, for readiness and metrics.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Outage, Reason, StoreError};

/// Age of a failed write after which the success of a small write ends the outage. A full disk
/// still accepts small writes.
const WRITE_PROVES_AFTER: Duration = Duration::from_secs(10);

/// State of the database according to the latest operations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Failure of the last read.
    pub read: Option<Outage>,
    /// Failure of the last write.
    pub write: Option<Outage>,
    /// Failures so far, by [`super::Reason::name`].
    pub failures: BTreeMap<&'static str, u64>,
}

/// Kind of a store operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Read,
    /// A small write, such as a lease or a worker record.
    Note,
    /// A change of keys or revocations.
    Commit,
}

pub(super) struct HealthRecord {
    /// True if a successful read proves that the database accepts changes, as with a server.
    reads_prove: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    health: Health,
    write_failed: Option<Instant>,
}

impl HealthRecord {
    pub(super) fn new(reads_prove: bool) -> Self {
        Self {
            reads_prove,
            state: Mutex::default(),
        }
    }

    pub(super) fn snapshot(&self) -> Health {
        self.lock().health.clone()
    }

    /// Records the outcome of an operation. If the store itself rejects a change, the database
    /// works.
    pub(super) fn note<T>(&self, operation: Operation, result: &Result<T, StoreError>) {
        let mut state = self.lock();
        match result {
            Err(StoreError::Unavailable(outage)) => {
                let count = state
                    .health
                    .failures
                    .entry(outage.reason.name())
                    .or_default();
                *count = count.saturating_add(1);
                // All writes share one outage; `is_over` decides when it ends.
                if operation == Operation::Read {
                    state.health.read = Some(outage.clone());
                } else {
                    state.health.write = Some(outage.clone());
                    state.write_failed = Some(Instant::now());
                }
            }
            Ok(_) | Err(StoreError::Conflict | StoreError::Full(_) | StoreError::Tampered(_)) => {
                // The database answered, even if the store rejected the change.
                state.health.read = None;
                let old = state
                    .write_failed
                    .is_none_or(|at| at.elapsed() >= WRITE_PROVES_AFTER);
                if state
                    .health
                    .write
                    .as_ref()
                    .is_some_and(|outage| self.is_over(operation, outage.reason, old))
                {
                    state.health.write = None;
                }
            }
        }
    }

    /// Returns whether the success of an operation ends an outage of writes.
    fn is_over(&self, operation: Operation, reason: Reason, old: bool) -> bool {
        // A small write may succeed on a full disk, and a read even on one that is read-only.
        let space = matches!(reason, Reason::Full | Reason::DiskError);
        let reachable = matches!(reason, Reason::NoAnswer | Reason::Replaced);
        match operation {
            Operation::Commit => true,
            Operation::Note => !space || old,
            Operation::Read => reachable || (self.reads_prove && reason == Reason::ReadOnly),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed_by(reason: Reason) -> Result<(), StoreError> {
        Err(Outage::new(reason, "told to").into())
    }

    fn failed() -> Result<(), StoreError> {
        failed_by(Reason::Full)
    }

    #[test]
    fn read_ends_outage_that_it_disproves() {
        for (reads_prove, reason, over) in [
            (false, Reason::NoAnswer, true),
            (false, Reason::ReadOnly, false),
            (true, Reason::ReadOnly, true),
            (true, Reason::Full, false),
        ] {
            let record = HealthRecord::new(reads_prove);
            record.note(Operation::Commit, &failed_by(reason));
            record.note(Operation::Read, &Ok(()));
            assert_eq!(record.snapshot().write.is_none(), over, "{reason:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn small_write_ends_outage_only_later() {
        let record = HealthRecord::new(false);
        record.note(Operation::Commit, &failed());
        record.note(Operation::Read, &Ok(()));
        record.note(Operation::Note, &Ok(()));
        assert_eq!(
            record.snapshot().write.map(|outage| outage.reason),
            Some(Reason::Full)
        );
        tokio::time::advance(WRITE_PROVES_AFTER).await;
        record.note(Operation::Note, &Ok(()));
        assert_eq!(record.snapshot().write, None);
        record.note(Operation::Note, &failed());
        record.note(Operation::Commit, &Err::<(), _>(StoreError::Conflict));
        assert_eq!(
            (record.snapshot().write, record.snapshot().failures["full"]),
            (None, 2)
        );
    }
}
