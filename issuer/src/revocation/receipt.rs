//! The receipt of a revocation: which workers have confirmed it, and which may still accept (ADR
//! 23).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use crate::bundle::{Behind, Counted, UNBOUNDED};
use crate::issuer::Issuer;

/// How often other replicas' records are read while a receipt waits.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Most receipts that wait at a time. Above that, a receipt says at once how things stand.
pub(crate) const MAX_WAITING: usize = 256;

/// Most pending workers that a receipt names: right after a revocation all are. `meshseal proxies
/// list` names every one.
const MOST_PENDING_NAMED: usize = 100;

/// How far a revocation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReceiptState {
    /// No worker can accept any more.
    Complete,
    /// Some workers may still accept; they are counted, and named to administrators.
    Incomplete,
    /// The issuer does not know all workers: the database does not answer, or there are more than
    /// it counts.
    Unknown,
}

/// What a caller who waited is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The version that carries the revocation.
    pub version: u64,
    /// How far it has come.
    pub state: ReceiptState,
    /// Whether no worker can accept any more.
    pub complete: bool,
    /// Workers that have proved to hold that version.
    pub confirmed: usize,
    /// Workers that poll and do not hold it yet.
    pub pending: usize,
    /// Workers that do not poll and may still act on an older bundle.
    pub unreachable: usize,
    /// All workers that count.
    pub proxies: usize,
    /// Milliseconds waited.
    pub elapsed_ms: u64,
    /// The workers that have not confirmed: all that are unreachable, and the first hundred that
    /// are pending. `None` for a caller who may not know them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<Vec<Laggard>>,
}

/// A worker that may still accept what was revoked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Laggard {
    /// The proxy's node id.
    pub node: String,
    /// The worker.
    pub worker: String,
    /// `pending` or `unreachable`.
    pub state: String,
    /// The version that it holds; 0 for none that it proved.
    pub version: u64,
    /// Last contact, Unix seconds.
    pub seen_at: u64,
    /// Time until which it may still accept, Unix seconds; `None` without limit (`staleness.action:
    /// SERVE`).
    pub accepts_until: Option<u64>,
}

impl Laggard {
    /// Describes a worker.
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
    /// Waits until no worker can act on an older bundle, or the time is over.
    pub async fn wait(issuer: &Issuer, version: u64, wait: Duration) -> Self {
        let begun = Instant::now();
        let permit = issuer.receipts.try_acquire();
        let deadline = if permit.is_ok() { begun + wait } else { begun };
        let mut floor = issuer.proxies.floor_changes();
        let mut all_known = issuer.elsewhere.look_afresh(&issuer.proxies).await;
        loop {
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

    /// States how things stand.
    fn now(issuer: &Issuer, version: u64, all_known: bool, elapsed: Duration) -> Self {
        let Behind {
            pending,
            unreachable,
            named,
        } = issuer.proxies.behind(version, MOST_PENDING_NAMED);
        let (behind, proxies) = (pending.saturating_add(unreachable), issuer.proxies.count());
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

    /// Removes the names, which only administrators may know.
    #[must_use]
    pub fn without_names(self) -> Self {
        Self {
            waiting_for: None,
            ..self
        }
    }
}
