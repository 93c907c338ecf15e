//! Background tasks: following the database, scheduled key work, and writing worker records.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::issuer::Issuer;
use crate::store::StoreError;
use crate::telemetry::LabelledCounter;

/// Interval at which a replica looks for changes by other replicas.
const FOLLOW_EVERY: Duration = Duration::from_millis(100);

/// Interval at which worker records are written and due work is done.
const KEEP_EVERY: Duration = Duration::from_millis(200);

/// Seconds between two attempts to empty the write-ahead log of destroyed keys.
const TIDY_EVERY_S: u64 = 10;

/// Pause before a failed task is started again.
const RESTART_AFTER: Duration = Duration::from_millis(500);

/// Time limit for the last writes before the process ends.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// Starts the background tasks. They stop when [`Issuer::ending`] is cancelled.
pub fn spawn(issuer: &Arc<Issuer>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for name in ["follow", "keep-keys", "write-down"] {
        let issuer = issuer.clone();
        tasks.spawn(async move {
            supervise(
                name,
                || run(name, issuer.clone()),
                &issuer.metrics.background_restarts,
                &issuer.ending,
            )
            .await;
        });
    }
    tasks
}

/// Runs the task with this name.
async fn run(name: &'static str, issuer: Arc<Issuer>) {
    match name {
        "follow" => follow(issuer).await,
        "keep-keys" => keep(issuer).await,
        _ => write_down(issuer).await,
    }
}

/// Runs a task until it returns. A task that panics is counted and started again.
async fn supervise<F: Future<Output = ()> + Send + 'static>(
    name: &'static str,
    task: impl Fn() -> F,
    restarts: &LabelledCounter,
    ending: &CancellationToken,
) {
    // The handle aborts the task if this supervisor is dropped.
    while let Err(error) = AbortOnDropHandle::new(tokio::spawn(task())).await {
        restarts.increment(name);
        tracing::error!(task = name, %error, "background task failed; restarting it");
        if ending
            .run_until_cancelled(sleep(RESTART_AFTER))
            .await
            .is_none()
        {
            break;
        }
    }
}

/// Name of some work and whether it last succeeded. It logs only changes between the two.
struct Health(&'static str, bool);

impl Health {
    fn turned<E: std::fmt::Display>(&mut self, result: &Result<(), E>) {
        match (result, self.1) {
            (Err(error), true) => tracing::error!(work = self.0, %error, "work fails; retrying"),
            (Ok(()), false) => tracing::info!(work = self.0, "work succeeds again"),
            (Err(_), false) | (Ok(()), true) => {}
        }
        self.1 = result.is_ok();
    }
}

/// Returns a timer that, after a delay, does not catch up on missed ticks.
fn every(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Follows the database and its clock until the process ends.
async fn follow(issuer: Arc<Issuer>) {
    let (mut ticks, mut health) = (every(FOLLOW_EVERY), Health("following the database", true));
    let mut clock = Health("the clock", true);
    let mut consulted_s = None;
    while issuer
        .ending
        .run_until_cancelled(ticks.tick())
        .await
        .is_some()
    {
        health.turned(&follow_once(&issuer).await);
        let time = issuer.clock.read();
        // Once a second is enough, because the offset between two clocks changes slowly.
        if consulted_s != Some(time.steady_ms / 1_000) {
            consulted_s = Some(time.steady_ms / 1_000);
            health.turned(&issuer.consult_database_clock().await);
        }
        clock.turned(&issuer.clock.read().fault().map_or(Ok(()), Err));
    }
}

/// Publishes changes in the database, and restores uses of assertions that it lost.
///
/// # Errors
/// [`StoreError`]; the next call tries again.
pub async fn follow_once(issuer: &Issuer) -> Result<(), StoreError> {
    // Read before the query: indices leased during the query are not in its answer.
    let known = issuer.indices.highest();
    let head = issuer.publisher.follow().await?;
    issuer.indices.saw(head.next_index, known);
    issuer.assertions.follow(issuer).await
}

/// Does scheduled key work until the process ends, then gives up the lead.
async fn keep(issuer: Arc<Issuer>) {
    let (mut ticks, mut health) = (every(KEEP_EVERY), Health("keeping keys", true));
    loop {
        tokio::select! {
            () = issuer.ending.cancelled() => break,
            () = issuer.keeper_wanted.notified() => {}
            _ = ticks.tick() => {}
        }
        let round = async {
            let head = issuer.publisher.follow().await?;
            issuer.keeper.round_from(&issuer, head).await
        };
        health.turned(&round.await);
    }
    // A lead that is not given up expires by itself.
    let _gone_anyway = timeout(END_PATIENCE, issuer.keeper.resign(&issuer)).await;
}

/// Writes worker records and tidies the database until the process ends.
async fn write_down(issuer: Arc<Issuer>) {
    let (mut ticks, mut health) = (every(KEEP_EVERY), Health("writing to the database", true));
    let mut tidied_at = None;
    while issuer
        .ending
        .run_until_cancelled(ticks.tick())
        .await
        .is_some()
    {
        health.turned(&write_down_once(&issuer).await);
        let now = issuer.clock.steady();
        if tidied_at.is_none_or(|at| now >= TIDY_EVERY_S.saturating_add(at)) {
            tidied_at = Some(now);
            issuer.store.tidy().await;
        }
    }
    // The last records, so that the next run knows which workers may accept tokens.
    let _gone_anyway = timeout(END_PATIENCE, write_down_once(&issuer)).await;
}

/// Writes new worker records, and leases token indices in advance.
///
/// # Errors
/// [`StoreError::Unavailable`]; the next call writes the rest.
pub async fn write_down_once(issuer: &Issuer) -> Result<(), StoreError> {
    issuer.proxies.save(&*issuer.store).await?;
    issuer
        .indices
        .top_up(&*issuer.store, issuer.clock.read().latest_issue_ms())
        .await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn restarts_and_counts_task_that_dies() {
        let (starts, restarts) = (Arc::new(AtomicU32::new(0)), LabelledCounter::default());
        let task = || {
            let starts = starts.clone();
            async move { assert!(starts.fetch_add(1, Ordering::SeqCst) >= 2, "told to die") }
        };
        supervise("follow", task, &restarts, &CancellationToken::new()).await;
        assert_eq!(
            (starts.load(Ordering::SeqCst), restarts.get(&"follow")),
            (3, 2)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn ends_with_process_instead_of_restarting() {
        let (ending, restarts) = (CancellationToken::new(), LabelledCounter::default());
        ending.cancel();
        supervise(
            "follow",
            || async { panic!("told to die") },
            &restarts,
            &ending,
        )
        .await;
        assert_eq!(restarts.get(&"follow"), 1);
    }
}
