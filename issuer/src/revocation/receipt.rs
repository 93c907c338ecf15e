//! The receipt: how many proxies have confirmed a version, and how long that took.

use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use crate::bundle::Live;
use crate::issuer::Issuer;

/// How often other replicas' proxies are looked up while somebody waits.
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
            // Without the database nobody knows the proxies of other replicas: nothing is confirmed.
            let (Live(live), all_known) = match issuer.live_proxies().await {
                Ok(live) => (live, true),
                Err(_) => (issuer.known_proxies().await, false),
            };
            let holding = live.iter().filter(|proxy| proxy.version >= version).count();
            let confirmed = if all_known { holding } else { 0 };
            let over = Instant::now() >= deadline || issuer.ending.is_cancelled();
            if (all_known && confirmed == live.len()) || over {
                let elapsed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                return Self { version, confirmed, proxies: live.len(), elapsed_ms };
            }
            let _moved_or_time = timeout_at(deadline.min(Instant::now() + LOOK_EVERY), moved).await;
        }
    }
}
