//! The receipt: how many proxies have confirmed a version, and how long that took.

use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use crate::issuer::Issuer;

/// How often other replicas' proxies are looked for, in memory, while somebody waits.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What a caller who waited is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Receipt {
    /// The version that carries the revocation.
    pub version: u64,
    /// Live proxies that have it.
    pub confirmed: usize,
    /// Live proxies.
    pub proxies: usize,
    /// Milliseconds waited.
    pub elapsed_ms: u64,
}

impl Receipt {
    /// Waits until every live proxy has a version, or the time is over.
    pub async fn wait(issuer: &Issuer, version: u64, wait: Duration) -> Self {
        let begun = Instant::now();
        let deadline = begun + wait;
        loop {
            let moved = issuer.proxies.moved();
            let live = issuer.live_proxies().await;
            // Without the database nobody knows the proxies of other replicas: nothing is confirmed.
            let confirmed = if live.all_known { live.holding(version) } else { 0 };
            let over = Instant::now() >= deadline || issuer.ending.is_cancelled();
            if (live.all_known && confirmed == live.proxies.len()) || over {
                let elapsed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                return Self { version, confirmed, proxies: live.proxies.len(), elapsed_ms };
            }
            let _moved_or_time = timeout_at(deadline.min(Instant::now() + LOOK_EVERY), moved).await;
        }
    }
}
