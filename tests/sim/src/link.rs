//! Link of one replica to the database: the store of the issuer behind network faults.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use meshseal_issuer::bundle::ProxyRecord;
use meshseal_issuer::keys::MasterKey;
use meshseal_issuer::store::{
    Change, Head, Health, Outage, Persisted, Reason, Recorded, Store, StoreError, Uses,
};

use super::pace::Pace;

/// Faults of a link. They outlive a restart of the replica.
#[derive(Debug, Default)]
pub(super) struct LinkFaults {
    /// True if no call reaches the database.
    pub(super) cut: AtomicBool,
    /// Number of further changes that the database makes and whose answers are lost.
    pub(super) lose_answers: AtomicUsize,
}

/// Store behind a link.
pub(super) struct Link {
    store: Arc<dyn Store>,
    faults: Arc<LinkFaults>,
    pace: Pace,
}

impl Link {
    pub(super) fn new(store: Arc<dyn Store>, faults: Arc<LinkFaults>, pace: Pace) -> Self {
        Self {
            store,
            faults,
            pace,
        }
    }

    /// Passes a call on, unless the link is cut.
    async fn ask<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        if self.faults.cut.load(Ordering::SeqCst) {
            return Err(lost());
        }
        let _open = self.pace.call();
        call.await
    }

    /// Passes a call on that changes the database. Loses its answer if the link says so.
    async fn change<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let answer = self.ask(call).await?;
        // The database has made the change, but the replica may get no answer.
        let lose = self.faults.lose_answers.load(Ordering::SeqCst);
        if lose > 0 {
            self.faults
                .lose_answers
                .store(lose.saturating_sub(1), Ordering::SeqCst);
            return Err(lost());
        }
        Ok(answer)
    }
}

fn lost() -> StoreError {
    StoreError::Unavailable(Outage {
        reason: Reason::NoAnswer,
        detail: "the link is cut".to_owned(),
    })
}

#[async_trait]
impl Store for Link {
    async fn is_new(&self) -> Result<bool, StoreError> {
        self.ask(self.store.is_new()).await
    }

    async fn unlock(&self, master: &MasterKey) -> Result<(), StoreError> {
        self.ask(self.store.unlock(master)).await
    }

    async fn repair(&self, now_ms: u64) -> Result<Vec<String>, StoreError> {
        self.change(self.store.repair(now_ms)).await
    }

    async fn head(&self) -> Result<Head, StoreError> {
        self.ask(self.store.head()).await
    }

    async fn load(&self) -> Result<Persisted, StoreError> {
        self.ask(self.store.load()).await
    }

    async fn load_changes(&self) -> Result<Persisted, StoreError> {
        self.ask(self.store.load_changes()).await
    }

    async fn commit(&self, change: &Change, now_ms: u64) -> Result<u64, StoreError> {
        self.change(self.store.commit(change, now_ms)).await
    }

    async fn commit_all(
        &self,
        changes: &[Change],
        now_ms: u64,
    ) -> Result<Vec<Result<u64, StoreError>>, StoreError> {
        self.change(self.store.commit_all(changes, now_ms)).await
    }

    async fn request_rotation(&self, now: u64) -> Result<(), StoreError> {
        self.change(self.store.request_rotation(now)).await
    }

    async fn lease_indices(&self, count: u64, at_least: u64) -> Result<Range<u64>, StoreError> {
        self.change(self.store.lease_indices(count, at_least)).await
    }

    async fn record_assertions(&self, uses: &Uses) -> Result<Recorded, StoreError> {
        if uses.uses.is_empty() {
            return self.ask(self.store.record_assertions(uses)).await;
        }
        self.change(self.store.record_assertions(uses)).await
    }

    async fn forget_assertions(&self, before: u64) -> Result<(), StoreError> {
        self.change(self.store.forget_assertions(before)).await
    }

    async fn lead(&self, replica: &str, now: u64, until: u64) -> Result<bool, StoreError> {
        self.change(self.store.lead(replica, now, until)).await
    }

    async fn save_proxies(
        &self,
        replica: &str,
        proxies: &[ProxyRecord],
    ) -> Result<Vec<ProxyRecord>, StoreError> {
        self.change(self.store.save_proxies(replica, proxies)).await
    }

    async fn proxies(&self, replica: &str) -> Result<Vec<ProxyRecord>, StoreError> {
        self.ask(self.store.proxies(replica)).await
    }

    async fn forget_proxies(&self, before: u64) -> Result<(), StoreError> {
        self.change(self.store.forget_proxies(before)).await
    }

    async fn proxies_are_gone(&self, workers: &[String], now: u64) -> Result<(), StoreError> {
        self.change(self.store.proxies_are_gone(workers, now)).await
    }

    async fn constant(&self, name: &str, value: &str) -> Result<String, StoreError> {
        self.ask(self.store.constant(name, value)).await
    }

    async fn replace(&self, name: &str, old: &str, new: &str) -> Result<bool, StoreError> {
        self.change(self.store.replace(name, old, new)).await
    }

    async fn clock_ms(&self) -> Result<Option<u64>, StoreError> {
        self.ask(self.store.clock_ms()).await
    }

    fn health(&self) -> Health {
        self.store.health()
    }
}
