//! Record of what the database last refused, for readiness and metrics.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Outage, StoreError};

/// Age of a failed write after which the success of a smaller write ends the outage. A full disk still takes small ones.
const WRITE_PROVES_AFTER: Duration = Duration::from_secs(10);

/// State of the database, as the last operations found it.
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
    /// A lease or an observation: a small write.
    Note,
    /// A change of keys or revocations.
    Commit,
}

#[derive(Default)]
pub(super) struct HealthRecord(Mutex<State>);

#[derive(Default)]
struct State {
    health: Health,
    write_failed: Option<Instant>,
}

impl HealthRecord {
    pub(super) fn snapshot(&self) -> Health {
        self.lock().health.clone()
    }

    /// Notes the outcome of an operation. A refusal by the store itself is an answer of a working database.
    pub(super) fn note<T>(&self, operation: Operation, result: &Result<T, StoreError>) {
        let mut state = self.lock();
        match result {
            Err(StoreError::Unavailable(outage)) => {
                let count = state.health.failures.entry(outage.reason.name()).or_default();
                *count = count.saturating_add(1);
                if operation == Operation::Read {
                    state.health.read = Some(outage.clone());
                } else {
                    state.health.write = Some(outage.clone());
                    state.write_failed = Some(Instant::now());
                }
            }
            Ok(_) | Err(StoreError::Conflict | StoreError::Full(_)) => {
                state.health.read = None;
                let proven = state.write_failed.is_none_or(|at| at.elapsed() >= WRITE_PROVES_AFTER);
                if operation == Operation::Commit || (operation == Operation::Note && proven) {
                    state.health.write = None;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Reason;
    use super::*;

    fn failed() -> Result<(), StoreError> {
        Err(Outage::new(Reason::Full, "no space").into())
    }

    #[tokio::test(start_paused = true)]
    async fn small_write_ends_outage_only_later() {
        let record = HealthRecord::default();
        record.note(Operation::Commit, &failed());
        record.note(Operation::Read, &Ok(()));
        record.note(Operation::Note, &Ok(()));
        assert_eq!(record.snapshot().write.map(|outage| outage.reason), Some(Reason::Full));
        tokio::time::advance(WRITE_PROVES_AFTER).await;
        record.note(Operation::Note, &Ok(()));
        assert_eq!(record.snapshot().write, None);
        record.note(Operation::Note, &failed());
        record.note(Operation::Commit, &Err::<(), _>(StoreError::Conflict));
        assert_eq!((record.snapshot().write, record.snapshot().failures["full"]), (None, 2));
    }
}
