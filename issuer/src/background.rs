//! What goes on beside requests: following the database, scheduled key work, writing down what proxies confirmed.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::issuer::Issuer;
use crate::store::StoreError;

/// How soon a change made by another replica is noticed.
const FOLLOW_EVERY: Duration = Duration::from_millis(100);

/// How soon confirmations are written down, and due work is done.
const KEEP_EVERY: Duration = Duration::from_millis(200);

/// Time for the last writes.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// Starts it all. It stops when the issuer's end has come.
pub fn spawn(issuer: &Arc<Issuer>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(follow(issuer.clone()));
    tasks.spawn(keep(issuer.clone()));
    tasks.spawn(write_down(issuer.clone()));
    tasks
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
    while issuer.ending.run_until_cancelled(ticks.tick()).await.is_some() {
        health.turned(&issuer.publisher.refresh().await.map(|_| ()));
        let time = issuer.clock.read();
        let behind = || format!("it was put back by {} ms; no tokens until it has caught up", time.behind_ms);
        clock.turned(&time.is_sound().then_some(()).ok_or_else(behind));
    }
}

async fn keep(issuer: Arc<Issuer>) {
    let (mut ticks, mut health) = (every(KEEP_EVERY), Health("keeping keys", true));
    loop {
        tokio::select! {
            () = issuer.ending.cancelled() => break,
            () = issuer.keeper_wanted.notified() => {}
            _ = ticks.tick() => {}
        }
        health.turned(&issuer.keeper.round(&issuer).await);
    }
    let _gone_anyway = timeout(END_PATIENCE, issuer.keeper.resign(&issuer)).await;
}

async fn write_down(issuer: Arc<Issuer>) {
    let (mut ticks, mut health) = (every(KEEP_EVERY), Health("writing to the database", true));
    while issuer.ending.run_until_cancelled(ticks.tick()).await.is_some() {
        health.turned(&write_down_once(&issuer).await);
    }
    let _gone_anyway = timeout(END_PATIENCE, write_down_once(&issuer)).await;
}

/// Writes what proxies confirmed since the last time, and leases token indices ahead.
///
/// # Errors
/// [`StoreError::Unavailable`]; what was not written is tried again next time.
pub async fn write_down_once(issuer: &Issuer) -> Result<(), StoreError> {
    let unsaved = issuer.proxies.take_unsaved();
    if !unsaved.is_empty()
        && let Err(error) = issuer.store.save_proxies(&unsaved).await
    {
        issuer.proxies.not_saved(&unsaved);
        return Err(error);
    }
    issuer.indices.top_up(&*issuer.store).await
}
