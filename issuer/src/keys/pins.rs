//! Pins of bundle keys. A bundle key signs only if it is pinned, because a bundle that proxies
//! cannot verify stops all of them (I26).

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{KeyRecord, KeyState, Purpose};
use crate::bundle::Live;
use crate::store::{Store, StoreError};

/// Name of the entry for the request in the database.
const NAME: &str = "bundle_rotation";

/// Milliseconds between two reads of the request, which another replica may have received.
const LOOK_EVERY_MS: u64 = 2_000;

/// Returns the standby key of this purpose.
pub(super) fn standby(keys: &[KeyRecord], purpose: Purpose) -> Option<&KeyRecord> {
    keys.iter()
        .find(|key| key.purpose == purpose && key.state == KeyState::Next)
}

/// Returns whether every live proxy can verify bundles signed by this key. The keys of the first
/// start count as pinned until a proxy states otherwise, because `meshseal keys pins` prints them
/// from the beginning. Any other key needs the statement of every proxy, and of at least one.
pub(super) fn is_pinned(key: &KeyRecord, live: &Live) -> bool {
    let (pinned, missing) = live.pins(&key.kid);
    if key.is_first() {
        return missing == 0;
    }
    live.all_known && pinned > 0 && pinned == live.proxies.len()
}

/// Request to rotate the bundle key.
#[derive(Debug, Default)]
pub(super) struct BundleRequest(Mutex<Look>);

/// Result of the latest read.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    requested: Option<u64>,
    /// Monotonic milliseconds of the next read.
    due_ms: u64,
}

impl BundleRequest {
    fn lock(&self) -> MutexGuard<'_, Look> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the time at which the rotation was requested (Unix seconds).
    pub(super) async fn read(
        &self,
        store: &dyn Store,
        steady_ms: u64,
    ) -> Result<Option<u64>, StoreError> {
        let known = *self.lock();
        if steady_ms < known.due_ms {
            return Ok(known.requested);
        }
        let requested = store.constant(NAME, "").await?.parse().ok();
        *self.lock() = Look {
            requested,
            due_ms: steady_ms.saturating_add(LOOK_EVERY_MS),
        };
        Ok(requested)
    }

    /// Stores a request, unless one is stored.
    pub(super) async fn set(&self, store: &dyn Store, now: u64) -> Result<(), StoreError> {
        let _kept = store.constant(NAME, "").await?;
        let _is_new = store.replace(NAME, "", &now.to_string()).await?;
        // The next read must find it.
        self.lock().due_ms = 0;
        Ok(())
    }

    /// Removes the request.
    pub(super) async fn done(&self, store: &dyn Store) -> Result<(), StoreError> {
        // `replace` compares the stored value, so it is read first.
        let kept = store.constant(NAME, "").await?;
        let _removed = store.replace(NAME, &kept, "").await?;
        *self.lock() = Look::default();
        Ok(())
    }
}
