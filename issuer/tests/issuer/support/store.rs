//! A store that fails, waits and counts under the control of a test.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

use async_trait::async_trait;
use meshseal_issuer::bundle::ProxyRecord;
use meshseal_issuer::keys::MasterKey;
use meshseal_issuer::store::{Change, Head, Health, Persisted, Recorded, Store, StoreError, Uses};
use tokio::sync::Semaphore;

/// Store in front of another one.
pub(crate) struct Fickle {
    inner: Arc<dyn Store>,
    /// True if reading the records of other replicas' proxies fails.
    pub(crate) proxies_fail: AtomicBool,
    /// True if recording proxies fails.
    pub(crate) records_fail: AtomicBool,
    /// Number of reads of other replicas' proxies.
    pub(crate) proxies_asked: AtomicU32,
    /// Number of reads of the head.
    pub(crate) heads_asked: AtomicU32,
    /// Permits for leases of indices.
    pub(crate) leases: Semaphore,
    /// Permits for reads of the head.
    pub(crate) heads: Semaphore,
    /// Number of further changes that fail with a conflict.
    pub(crate) conflicts: AtomicU32,
    /// Permits for transactions of revocations.
    pub(crate) groups: Semaphore,
    /// Number of transactions of revocations.
    pub(crate) transactions: AtomicU32,
    /// Permits for transactions of assertions.
    pub(crate) uses: Semaphore,
    /// Number of transactions that recorded assertions.
    pub(crate) uses_recorded: AtomicU32,
}

impl Fickle {
    pub(crate) fn before(inner: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            proxies_fail: AtomicBool::new(false),
            records_fail: AtomicBool::new(false),
            proxies_asked: AtomicU32::new(0),
            heads_asked: AtomicU32::new(0),
            leases: Semaphore::new(Semaphore::MAX_PERMITS),
            heads: Semaphore::new(Semaphore::MAX_PERMITS),
            conflicts: AtomicU32::new(0),
            groups: Semaphore::new(Semaphore::MAX_PERMITS),
            transactions: AtomicU32::new(0),
            uses: Semaphore::new(Semaphore::MAX_PERMITS),
            uses_recorded: AtomicU32::new(0),
        })
    }

    /// Blocks a gate until the test adds permits.
    pub(crate) fn close(gate: &Semaphore) {
        gate.forget_permits(usize::MAX);
    }
}

#[async_trait]
impl Store for Fickle {
    async fn is_new(&self) -> Result<bool, StoreError> {
        self.inner.is_new().await
    }

    async fn unlock(&self, master: &MasterKey) -> Result<(), StoreError> {
        self.inner.unlock(master).await
    }

    async fn repair(&self, now_ms: u64) -> Result<Vec<String>, StoreError> {
        self.inner.repair(now_ms).await
    }

    async fn head(&self) -> Result<Head, StoreError> {
        self.heads_asked.fetch_add(1, SeqCst);
        self.heads.acquire().await.unwrap().forget();
        self.inner.head().await
    }

    async fn load(&self) -> Result<Persisted, StoreError> {
        self.inner.load().await
    }

    async fn load_changes(&self) -> Result<Persisted, StoreError> {
        self.inner.load_changes().await
    }

    async fn commit(&self, change: &Change, now_ms: u64) -> Result<u64, StoreError> {
        if self
            .conflicts
            .fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1))
            .is_ok()
        {
            return Err(StoreError::Conflict);
        }
        self.inner.commit(change, now_ms).await
    }

    async fn commit_all(
        &self,
        changes: &[Change],
        now_ms: u64,
    ) -> Result<Vec<Result<u64, StoreError>>, StoreError> {
        self.groups.acquire().await.unwrap().forget();
        self.transactions.fetch_add(1, SeqCst);
        self.inner.commit_all(changes, now_ms).await
    }

    async fn request_rotation(&self, now: u64) -> Result<(), StoreError> {
        self.inner.request_rotation(now).await
    }

    async fn lease_indices(&self, count: u64, at_least: u64) -> Result<Range<u64>, StoreError> {
        self.leases.acquire().await.unwrap().forget();
        self.inner.lease_indices(count, at_least).await
    }

    async fn record_assertions(&self, uses: &Uses) -> Result<Recorded, StoreError> {
        if !uses.uses.is_empty() {
            self.uses.acquire().await.unwrap().forget();
            self.uses_recorded.fetch_add(1, SeqCst);
        }
        self.inner.record_assertions(uses).await
    }

    async fn forget_assertions(&self, before: u64) -> Result<(), StoreError> {
        self.inner.forget_assertions(before).await
    }

    async fn lead(&self, replica: &str, now: u64, until: u64) -> Result<bool, StoreError> {
        self.inner.lead(replica, now, until).await
    }

    async fn save_proxies(
        &self,
        replica: &str,
        proxies: &[ProxyRecord],
    ) -> Result<Vec<ProxyRecord>, StoreError> {
        if self.records_fail.load(SeqCst) {
            return Err(StoreError::Unavailable("told to".into()));
        }
        self.inner.save_proxies(replica, proxies).await
    }

    async fn proxies_are_gone(&self, workers: &[String], now: u64) -> Result<(), StoreError> {
        self.inner.proxies_are_gone(workers, now).await
    }

    async fn proxies(&self, replica: &str) -> Result<Vec<ProxyRecord>, StoreError> {
        self.proxies_asked.fetch_add(1, SeqCst);
        if self.proxies_fail.load(SeqCst) {
            return Err(StoreError::Unavailable("told to".into()));
        }
        self.inner.proxies(replica).await
    }

    async fn forget_proxies(&self, before: u64) -> Result<(), StoreError> {
        self.inner.forget_proxies(before).await
    }

    async fn constant(&self, name: &str, value: &str) -> Result<String, StoreError> {
        self.inner.constant(name, value).await
    }

    async fn replace(&self, name: &str, old: &str, new: &str) -> Result<bool, StoreError> {
        self.inner.replace(name, old, new).await
    }

    async fn tidy(&self) {
        self.inner.tidy().await;
    }

    async fn clock_ms(&self) -> Result<Option<u64>, StoreError> {
        self.inner.clock_ms().await
    }

    fn health(&self) -> Health {
        self.inner.health()
    }
}
