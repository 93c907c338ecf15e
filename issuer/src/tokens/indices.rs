//! Token indices: dense, never used twice, leased from the database in blocks so that a token costs no write.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::store::{Store, StoreError};

/// Indices leased at a time: a write every second or so at ten thousand tokens a second. What is left at the end is lost,
/// which costs revocation lists one or two bytes for each gap.
const BLOCK: u64 = 8_192;

#[derive(Default)]
struct Blocks {
    current: Range<u64>,
    spare: Range<u64>,
}

/// Indices per millisecond by which the floor of a lease rises. No issuer issues a million tokens a second, so the floor is
/// above every index leased before, whatever the database has forgotten.
const FLOOR_PER_MS: u64 = 1_024;

/// The indices that this replica may use.
pub struct Indices {
    blocks: Mutex<Blocks>,
    leasing: tokio::sync::Mutex<()>,
    /// The largest end of leased indices that the database ever told.
    highest: AtomicU64,
    /// The database may have lost leases: the next lease starts at the floor. True at the start, when nothing is known.
    distrusted: AtomicBool,
}

impl Default for Indices {
    fn default() -> Self {
        Self {
            blocks: Mutex::default(),
            leasing: tokio::sync::Mutex::default(),
            highest: AtomicU64::new(0),
            distrusted: AtomicBool::new(true),
        }
    }
}

/// Returns the first index that no issuer can have leased before this time (Unix milliseconds).
#[must_use]
pub fn index_floor(now_ms: u64) -> u64 {
    now_ms.saturating_mul(FLOOR_PER_MS)
}

impl Indices {
    /// Notes the end of leased indices that the database tells. One that fell is a database that went back.
    pub fn saw(&self, next_index: u64) {
        if next_index < self.highest.fetch_max(next_index, Ordering::SeqCst) {
            self.distrust();
        }
    }

    /// Notes that the database may have lost leases: it was away, and another one may answer next.
    pub fn distrust(&self) {
        self.distrusted.store(true, Ordering::SeqCst);
    }

    /// Gives up what is leased, too: another replica may have leased the same from an earlier state.
    pub fn forget(&self) {
        self.distrust();
        *self.blocks.lock().unwrap_or_else(PoisonError::into_inner) = Blocks::default();
    }

    fn take(&self) -> Option<u64> {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if blocks.current.is_empty() {
            blocks.current = std::mem::take(&mut blocks.spare);
        }
        blocks.current.next()
    }

    /// Returns whether the next token needs a lease from the database first.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        blocks.current.is_empty() && blocks.spare.is_empty()
    }

    fn wants_spare(&self) -> bool {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner).spare.is_empty()
    }

    /// The next index. Asks the database only when both blocks are used up.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn next(&self, store: &dyn Store, now_ms: u64) -> Result<u64, StoreError> {
        loop {
            if let Some(index) = self.take() {
                return Ok(index);
            }
            self.top_up(store, now_ms).await?;
        }
    }

    /// Leases the next block before it is needed.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn top_up(&self, store: &dyn Store, now_ms: u64) -> Result<(), StoreError> {
        let _one = self.leasing.lock().await;
        if self.wants_spare() {
            let floor = if self.distrusted.swap(false, Ordering::SeqCst) { index_floor(now_ms) } else { 0 };
            let at_least = floor.max(self.highest.load(Ordering::SeqCst));
            let leased = store.lease_indices(BLOCK, at_least).await.inspect_err(|_| self.distrust())?;
            self.saw(leased.end);
            self.blocks.lock().unwrap_or_else(PoisonError::into_inner).spare = leased;
        }
        Ok(())
    }
}
