//! Token indices: dense, never used twice, and leased from the database in blocks, so that minting
//! a token needs no database write.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::store::{Store, StoreError};

/// Number of indices in a block: about one write a second at ten thousand tokens a second. The gap
/// between two blocks takes at most four bytes of a revocation list.
const BLOCK: u64 = 8_192;

/// A block of leased indices.
#[derive(Default)]
struct Block {
    indices: Range<u64>,
    /// Time of the lease (Unix milliseconds).
    leased_ms: u64,
}

/// The block in use, and the block that follows it.
#[derive(Default)]
struct Blocks {
    current: Block,
    spare: Block,
}

/// Indices per millisecond by which the floor of a lease rises. No issuer issues a million tokens a
/// second, so the floor is above every index leased before.
const FLOOR_PER_MS: u64 = 1_024;

/// Longest use of a leased block in milliseconds. It makes an index tell the latest time at which
/// its token was issued.
pub const MAX_BLOCK_AGE_MS: u64 = 3_600_000;

/// Indices that this replica may use.
///
/// INVARIANT: every lease starts at the floor or above. A database that went back may have lost
/// leases of this and other replicas, and contains no trace of them. The floor ensures that their
/// indices are not leased again.
pub struct Indices {
    block: u64,
    blocks: Mutex<Blocks>,
    /// Held by the caller that leases a block.
    leasing: tokio::sync::Mutex<()>,
    /// Largest end of leased indices that the database has reported.
    highest: AtomicU64,
}

impl Default for Indices {
    fn default() -> Self {
        Self::in_blocks_of(BLOCK)
    }
}

/// Returns the first index that no issuer can have leased before this time (Unix milliseconds).
#[must_use]
pub fn index_floor(now_ms: u64) -> u64 {
    now_ms.saturating_mul(FLOOR_PER_MS)
}

impl Indices {
    /// Creates an empty set that leases blocks of this size.
    #[must_use]
    pub fn in_blocks_of(block: u64) -> Self {
        Self {
            block,
            blocks: Mutex::default(),
            leasing: tokio::sync::Mutex::default(),
            highest: AtomicU64::new(0),
        }
    }

    /// Returns the largest end of leased indices that the database has reported.
    #[must_use]
    pub fn highest(&self) -> u64 {
        self.highest.load(Ordering::SeqCst)
    }

    /// Records the end of leased indices that the database reports. `known` is the largest end at
    /// the time of the query. If the end fell, the leased blocks are given up, because another
    /// replica may have leased the same indices.
    pub fn saw(&self, next_index: u64, known: u64) {
        self.highest.fetch_max(next_index, Ordering::SeqCst);
        if next_index < known {
            tracing::error!(
                known,
                next_index,
                "the database lost leases of token indices; leasing new blocks"
            );
            self.forget();
        }
    }

    /// Gives up the leased blocks.
    pub fn forget(&self) {
        *self.blocks.lock().unwrap_or_else(PoisonError::into_inner) = Blocks::default();
    }

    /// Drops blocks that are too old, and returns the others.
    fn fresh(&self, now_ms: u64) -> MutexGuard<'_, Blocks> {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let Blocks { current, spare } = &mut *blocks;
        for block in [current, spare] {
            if now_ms.saturating_sub(block.leased_ms) >= MAX_BLOCK_AGE_MS {
                *block = Block::default();
            }
        }
        blocks
    }

    /// Takes the next index, if a block has one.
    fn take(&self, now_ms: u64) -> Option<u64> {
        let mut blocks = self.fresh(now_ms);
        if blocks.current.indices.is_empty() {
            blocks.current = std::mem::take(&mut blocks.spare);
        }
        blocks.current.indices.next()
    }

    /// Returns whether the next token needs a lease from the database first.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        blocks.current.indices.is_empty() && blocks.spare.indices.is_empty()
    }

    /// Returns the next index. Queries the database only if both blocks are used up. `latest_ms` is
    /// the latest time on the clock of any replica (Unix milliseconds).
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn next(&self, store: &dyn Store, latest_ms: u64) -> Result<u64, StoreError> {
        loop {
            if let Some(index) = self.take(latest_ms) {
                return Ok(index);
            }
            self.top_up(store, latest_ms).await?;
        }
    }

    /// Leases the next block before it is needed, as [`Indices::next`] does.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn top_up(&self, store: &dyn Store, latest_ms: u64) -> Result<(), StoreError> {
        // A concurrent caller may have leased the block while this one waited for the lock.
        let _one = self.leasing.lock().await;
        if self.fresh(latest_ms).spare.indices.is_empty() {
            let at_least = index_floor(latest_ms).max(self.highest());
            let leased = store.lease_indices(self.block, at_least).await?;
            self.highest.fetch_max(leased.end, Ordering::SeqCst);
            let spare = Block {
                indices: leased,
                leased_ms: latest_ms,
            };
            self.blocks
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .spare = spare;
        }
        Ok(())
    }
}
