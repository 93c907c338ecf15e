//! Receipt of a revocation: counts the workers that have confirmed it, and names the workers that
//! may still accept revoked tokens (ADR 23).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use crate::bundle::{Behind, Counted, UNBOUNDED};
use crate::issuer::Issuer;

/// Time between two reads of other replicas' records while a receipt waits.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Largest number of receipts that wait at a time. Further receipts state the present counts
/// without waiting.
pub(crate) const MAX_WAITING: usize = 256;

/// Largest number of pending workers that a receipt names. Right after a revocation all workers are
/// pending. `meshseal proxies list` names every worker.
const MOST_PENDING_NAMED: usize = 100;

/// Progress of a revocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReceiptState {
    /// No worker can accept the revoked tokens.
    Complete,
    /// Some workers may still accept them. The receipt counts these workers, and names them to
    /// administrators.
    Incomplete,
    /// The issuer does not know all workers. The database does not answer or lost worker records,
    /// or the number of workers exceeds the limit.
    Unknown,
}

/// Receipt of a revocation at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Version that carries the revocation.
    pub version: u64,
    /// Progress of the revocation.
    pub state: ReceiptState,
    /// True if no worker can accept the revoked tokens.
    pub complete: bool,
    /// Number of workers that have proved to hold that version.
    pub confirmed: usize,
    /// Number of workers that poll and do not hold it yet.
    pub pending: usize,
    /// Number of workers that do not poll and may still act on an older bundle.
    pub unreachable: usize,
    /// Number of all workers that count.
    pub proxies: usize,
    /// Time waited, in milliseconds.
    pub elapsed_ms: u64,
    /// Workers that have not confirmed: all unreachable workers, and the first hundred pending
    /// ones. `None` if the client is not allowed to see them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<Vec<Laggard>>,
}

/// A worker that may still accept revoked tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Laggard {
    /// Node id of the proxy.
    pub node: String,
    /// Id of the worker.
    pub worker: String,
    /// `pending` or `unreachable`.
    pub state: String,
    /// Version that the worker holds; 0 if it proved none.
    pub version: u64,
    /// Last contact (Unix seconds).
    pub seen_at: u64,
    /// Time until which the worker may accept revoked tokens (Unix seconds); `None` without limit
    /// (`staleness.action: SERVE`).
    pub accepts_until: Option<u64>,
}

impl Laggard {
    /// Returns the entry of a worker.
    pub(crate) fn of(Counted { record, reachable }: Counted) -> Self {
        Self {
            node: record.node,
            worker: record.worker,
            state: if reachable { "pending" } else { "unreachable" }.to_owned(),
            version: record.version,
            seen_at: record.seen_at,
            accepts_until: Some(record.accepts_until).filter(|until| *until < UNBOUNDED),
        }
    }
}

impl Receipt {
    /// Waits until no worker can act on an older bundle, or the time ends, and returns the receipt.
    pub async fn wait(issuer: &Issuer, version: u64, wait: Duration) -> Self {
        let begun = Instant::now();
        // Without a permit the receipt does not wait.
        let permit = issuer.receipts.try_acquire();
        let deadline = if permit.is_ok() { begun + wait } else { begun };
        // Workers of this replica wake the loop; those of other replicas are read periodically.
        let mut floor = issuer.proxies.floor_changes();
        let mut all_known = issuer.elsewhere.look_afresh(&issuer.proxies).await;
        loop {
            // Marked before the floor is read, so that no later change is missed.
            floor.mark_unchanged();
            let holds = issuer.proxies.floor() >= version;
            let over = Instant::now() >= deadline || issuer.ending.is_cancelled();
            if (all_known && holds && !issuer.may_lack_workers()) || over {
                break;
            }
            let next = deadline.min(Instant::now() + LOOK_EVERY);
            tokio::select! {
                changed = timeout_at(next, floor.changed()) => {
                    if changed.is_err() {
                        all_known = issuer.elsewhere.look(&issuer.proxies).await;
                    }
                }
                () = issuer.ending.cancelled() => {}
            }
        }
        Self::now(issuer, version, all_known, begun.elapsed())
    }

    /// Returns the receipt of this moment.
    fn now(issuer: &Issuer, version: u64, all_known: bool, elapsed: Duration) -> Self {
        let Behind {
            pending,
            unreachable,
            named,
        } = issuer.proxies.behind(version, MOST_PENDING_NAMED);
        // Two reads of the registry: the second may have fewer workers, hence the saturation below.
        let (behind, proxies) = (pending.saturating_add(unreachable), issuer.proxies.count());
        // INVARIANT: a receipt is complete only if every worker that may accept is known.
        let all_known = all_known && !issuer.may_lack_workers() && !issuer.proxies.too_many();
        let state = match (all_known, behind == 0) {
            (false, _) => ReceiptState::Unknown,
            (true, true) => ReceiptState::Complete,
            (true, false) => ReceiptState::Incomplete,
        };
        Self {
            version,
            state,
            complete: state == ReceiptState::Complete,
            confirmed: proxies.saturating_sub(behind),
            pending,
            unreachable,
            proxies,
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            waiting_for: Some(named.into_iter().map(Laggard::of).collect()),
        }
    }

    /// Removes the names of workers, which only administrators may see.
    #[must_use]
    pub fn without_names(self) -> Self {
        Self {
            waiting_for: None,
            ..self
        }
    }
}
