//! Token indices: dense, never used twice, leased from the database in blocks so that a token costs no write.

use std::ops::Range;
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

/// The indices that this replica may use.
#[derive(Default)]
pub struct Indices {
    blocks: Mutex<Blocks>,
    leasing: tokio::sync::Mutex<()>,
}

impl Indices {
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
    pub async fn next(&self, store: &dyn Store) -> Result<u64, StoreError> {
        loop {
            if let Some(index) = self.take() {
                return Ok(index);
            }
            self.top_up(store).await?;
        }
    }

    /// Leases the next block before it is needed.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn top_up(&self, store: &dyn Store) -> Result<(), StoreError> {
        let _one = self.leasing.lock().await;
        if self.wants_spare() {
            let leased = store.lease_indices(BLOCK).await?;
            self.blocks.lock().unwrap_or_else(PoisonError::into_inner).spare = leased;
        }
        Ok(())
    }
}
