//! Reads the worker records of other replicas from the database, at a bounded rate.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;

use super::Proxies;
use crate::clock::Clock;
use crate::store::Store;

/// Milliseconds for which [`Elsewhere::look`] reuses an answer: at most two queries a second.
const LOOK_EVERY_MS: u64 = 500;

/// Reader of other replicas' worker records. All receipts and rotations share it, which bounds the
/// number of queries.
pub(crate) struct Elsewhere {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    /// Number of queries begun.
    begun: AtomicU64,
    last: Mutex<Option<Look>>,
}

/// A finished query.
#[derive(Clone, Copy)]
struct Look {
    number: u64,
    /// Time at which the query ended (steady milliseconds).
    done_ms: u64,
    /// True if the database answered.
    known: bool,
}

impl Elsewhere {
    /// Creates a reader that has not queried the database yet.
    pub(crate) fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        Self {
            store,
            clock,
            begun: AtomicU64::new(0),
            last: Mutex::default(),
        }
    }

    /// Merges the records of other replicas, at most half a second old. Returns whether the
    /// database answered. A failure is reused as long as an answer, so a failing database does not
    /// get more queries than a healthy one.
    pub(crate) async fn look(&self, proxies: &Proxies) -> bool {
        let mut last = self.last.lock().await;
        let now_ms = self.clock.steady_ms();
        match last.filter(|look| now_ms < look.done_ms.saturating_add(LOOK_EVERY_MS)) {
            Some(look) => look.known,
            None => self.query(&mut last, proxies).await,
        }
    }

    /// Merges the records of other replicas as of this call or later. Returns whether the database
    /// answered. Concurrent callers share one query.
    pub(crate) async fn look_afresh(&self, proxies: &Proxies) -> bool {
        let before = self.begun.load(Ordering::SeqCst);
        let mut last = self.last.lock().await;
        // INVARIANT: only a query begun after this call is shared; an earlier one may miss records.
        match last.filter(|look| look.number > before) {
            Some(look) => look.known,
            None => self.query(&mut last, proxies).await,
        }
    }

    async fn query(&self, last: &mut Option<Look>, proxies: &Proxies) -> bool {
        let number = self.begun.fetch_add(1, Ordering::SeqCst).saturating_add(1);
        let answer = self.store.proxies(proxies.replica()).await;
        match &answer {
            Ok(records) => proxies.learn(records),
            Err(error) => tracing::warn!(
                %error,
                "could not read the proxies of other replicas; receipts are unknown meanwhile"
            ),
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
