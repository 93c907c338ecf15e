//! What other replicas have written down about their proxies, looked up at a bounded rate whoever asks, and however many.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::ProxyRecord;
use crate::clock::Clock;
use crate::store::Store;

/// Milliseconds for which what was looked up is used: two queries a second, whatever polls, receipts and scrapes there are.
const LOOK_EVERY_MS: u64 = 500;

/// Sightings by other replicas; `None` when the database did not tell.
pub(crate) type Sightings = Option<Arc<[ProxyRecord]>>;

/// The one place that reads the sightings of other replicas.
pub(crate) struct Elsewhere {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    /// What was looked up last, and when that was done.
    last: Mutex<Option<(u64, Sightings)>>,
}

impl Elsewhere {
    /// Nothing looked up yet.
    pub(crate) fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock, last: Mutex::default() }
    }

    /// Those since this time (Unix seconds), as of half a second ago or later. A failure is remembered as long as an answer, so
    /// that a database in trouble is not asked more often than one that is well.
    pub(crate) async fn sightings(&self, since: u64) -> Sightings {
        let mut last = self.last.lock().await;
        let is_new = |done_ms: u64| self.clock.steady_ms() < done_ms.saturating_add(LOOK_EVERY_MS);
        if let Some((_, known)) = last.as_ref().filter(|(done_ms, _)| is_new(*done_ms)) {
            return known.clone();
        }
        let answer = self.store.proxies(since).await;
        let sightings: Sightings = answer
            .inspect_err(|error| tracing::warn!(%error, "the proxies of other replicas are unknown"))
            .map(Arc::from)
            .ok();
        *last = Some((self.clock.steady_ms(), sightings.clone()));
        sightings
    }
}
