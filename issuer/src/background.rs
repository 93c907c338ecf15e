//! What goes on beside requests: following the database, scheduled key work, writing down what
//! proxies confirmed.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::issuer::Issuer;
use crate::store::StoreError;
use crate::telemetry::LabelledCounter;

/// How soon a change made by another replica is noticed.
const FOLLOW_EVERY: Duration = Duration::from_millis(100);

/// How soon confirmations are written down, and due work is done.
const KEEP_EVERY: Duration = Duration::from_millis(200);

/// Seconds between two attempts to empty the write-ahead log of destroyed keys.
const TIDY_EVERY_S: u64 = 10;

/// Pause before a task that died starts again.
const RESTART_AFTER: Duration = Duration::from_millis(500);

/// Time for the last writes.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// Starts it all. It stops when the issuer's end has come.
pub fn spawn(issuer: &Arc<Issuer>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for name in ["follow", "keep-keys", "write-down"] {
        let issuer = issuer.clone();
        tasks.spawn(async move {
            let task = || run(name, issuer.clone());
            supervise(
                name,
                task,
                &issuer.metrics.background_restarts,
                &issuer.ending,
            )
            .await;
        });
    }
    tasks
}

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
    while let Err(error) = AbortOnDropHandle::new(tokio::spawn(task())).await {
        restarts.increment(name);
        tracing::error!(task = name, %error, "a background task died; restarting it");
        if ending
            .run_until_cancelled(sleep(RESTART_AFTER))
            .await
            .is_none()
        {
            break;
        }
    }
}

/// Tells once that something fails, and once that it works again.
struct Health(&'static str, bool);

impl Health {
    fn turned<E: std::fmt::Display>(&mut self, result: &Result<(), E>) {
        match (result, self.1) {
            (Err(error), true) => tracing::error!(%error, "{} fails; trying again", self.0),
            (Ok(()), false) => tracing::info!("{} works again", self.0),
            (Err(_), false) | (Ok(()), true) => {}
        }
        self.1 = result.is_ok();
    }
}

fn every(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

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
        // Once a second: an offset, unlike the state, changes slowly.
        if consulted_s != Some(time.steady_ms / 1_000) {
            consulted_s = Some(time.steady_ms / 1_000);
            health.turned(&issuer.consult_database_clock().await);
        }
        clock.turned(&issuer.clock.read().fault().map_or(Ok(()), Err));
    }
}

/// Publishes what is new in the database, and restores uses of assertions that it lost.
///
/// # Errors
/// [`StoreError`]; it is tried again next time.
pub async fn follow_once(issuer: &Issuer) -> Result<(), StoreError> {
    let known = issuer.indices.highest();
    let head = issuer.publisher.follow().await?;
    issuer.indices.saw(head.next_index, known);
    issuer.assertions.follow(issuer).await
}

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
    let _gone_anyway = timeout(END_PATIENCE, issuer.keeper.resign(&issuer)).await;
}

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
    let _gone_anyway = timeout(END_PATIENCE, write_down_once(&issuer)).await;
}

/// Writes what proxies confirmed since the last time, and leases token indices ahead.
///
/// # Errors
/// [`StoreError::Unavailable`]; what was not written is tried again next time.
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
