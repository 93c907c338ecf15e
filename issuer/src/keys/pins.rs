//! Pins of bundle keys: a bundle that proxies cannot verify stops them all, so an unpinned key does
//! not sign (I26).

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{KeyRecord, KeyState, Purpose};
use crate::bundle::Live;
use crate::store::{Store, StoreError};

/// Name of the request in the database.
const NAME: &str = "bundle_rotation";

/// Milliseconds between two looks for a request that another replica took.
const LOOK_EVERY_MS: u64 = 2_000;

/// Returns the key that stands by for this purpose.
pub(super) fn standby(keys: &[KeyRecord], purpose: Purpose) -> Option<&KeyRecord> {
    keys.iter()
        .find(|key| key.purpose == purpose && key.state == KeyState::Next)
}

/// Returns whether every proxy that counts can verify bundles by this key. The keys of the first
/// start are printed by `meshseal keys pins` from the beginning, so they count as pinned until a
/// proxy states otherwise. Any other key needs the statement of every proxy, and of one at least.
pub(super) fn is_pinned(key: &KeyRecord, live: &Live) -> bool {
    let (pinned, missing) = live.pins(&key.kid);
    if key.is_first() {
        return missing == 0;
    }
    live.all_known && pinned > 0 && pinned == live.proxies.len()
}

/// A request to rotate the bundle key.
#[derive(Debug, Default)]
pub(super) struct BundleRequest(Mutex<Look>);

#[derive(Clone, Copy, Debug, Default)]
struct Look {
    requested: Option<u64>,
    /// Monotonic milliseconds from which it is looked up again.
    due_ms: u64,
}

impl BundleRequest {
    fn lock(&self) -> MutexGuard<'_, Look> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when the rotation was requested (Unix seconds).
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

    /// Stores a request, unless there is one.
    pub(super) async fn set(&self, store: &dyn Store, now: u64) -> Result<(), StoreError> {
        let _kept = store.constant(NAME, "").await?;
        let _is_new = store.replace(NAME, "", &now.to_string()).await?;
        self.lock().due_ms = 0;
        Ok(())
    }

    /// Removes the request.
    pub(super) async fn done(&self, store: &dyn Store) -> Result<(), StoreError> {
        let kept = store.constant(NAME, "").await?;
        let _removed = store.replace(NAME, &kept, "").await?;
        *self.lock() = Look::default();
        Ok(())
    }
}
