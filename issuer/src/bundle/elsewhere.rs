//! Reads what other replicas have recorded of their proxies, at a bounded rate.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;

use super::Proxies;
use crate::clock::Clock;
use crate::store::Store;

/// Milliseconds for which an answer is used, when a recent one is enough: two queries a second.
const LOOK_EVERY_MS: u64 = 500;

/// The one place that reads the records of other replicas.
pub(crate) struct Elsewhere {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    /// Count of queries that were begun.
    begun: AtomicU64,
    last: Mutex<Option<Look>>,
}

/// A query, and whether the database answered.
#[derive(Clone, Copy)]
struct Look {
    number: u64,
    done_ms: u64,
    known: bool,
}

impl Elsewhere {
    /// Nothing looked up yet.
    pub(crate) fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        Self {
            store,
            clock,
            begun: AtomicU64::new(0),
            last: Mutex::default(),
        }
    }

    /// Merges the records of other replicas, as of half a second ago or later. Returns whether the
    /// database answered. A failure is remembered as long as an answer, so that a database in
    /// trouble is not asked more often than one that is well.
    pub(crate) async fn look(&self, proxies: &Proxies) -> bool {
        let mut last = self.last.lock().await;
        let is_new =
            |look: &Look| self.clock.steady_ms() < look.done_ms.saturating_add(LOOK_EVERY_MS);
        match last.filter(is_new) {
            Some(look) => look.known,
            None => self.ask(&mut last, proxies).await,
        }
    }

    /// Merges the records of other replicas, as of this call or later. Concurrent callers share one
    /// query.
    pub(crate) async fn look_afresh(&self, proxies: &Proxies) -> bool {
        let before = self.begun.load(Ordering::SeqCst);
        let mut last = self.last.lock().await;
        match last.filter(|look| look.number > before) {
            Some(look) => look.known,
            None => self.ask(&mut last, proxies).await,
        }
    }

    async fn ask(&self, last: &mut Option<Look>, proxies: &Proxies) -> bool {
        let number = self.begun.fetch_add(1, Ordering::SeqCst).saturating_add(1);
        let answer = self.store.proxies(proxies.replica()).await;
        match &answer {
            Ok(records) => proxies.learn(records),
            Err(error) => tracing::warn!(%error, "the proxies of other replicas are unknown"),
        }
        let known = answer.is_ok();
        *last = Some(Look {
            number,
            done_ms: self.clock.steady_ms(),
            known,
        });
        known
    }
}
