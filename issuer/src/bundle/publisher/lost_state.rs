//! Handling of state that the database lost (ADR 0019): restores it, or declares an incident.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::timeout;

use super::super::loss::{Loss, WORKERS, epoch_of_all, is_harmless, lost_records, unproven};
use super::{Opened, Publisher, SyncError};
use crate::store::{Change, Head, Persisted, StoreError};

/// Largest number of attempts to restore lost state before the database counts as unavailable.
const MAX_RESTORATIONS: usize = 32;

/// Milliseconds between two versions that may be declared lost because a proxy proved them.
const CATCH_UP_EVERY_MS: u64 = 60_000;

/// Time for another replica to restore a version that it remembers, before a version that a proxy
/// proved counts as lost.
const EXPLAIN_PATIENCE: Duration = Duration::from_secs(1);

/// Milliseconds by which another replica's clock may be ahead of this replica's clock.
const CLOCK_SPREAD_MS: u64 = 60_000;

impl Publisher {
    /// Queries the database. If it lost worker records, this declares an incident, so that every
    /// replica knows that receipts may lack workers.
    pub(super) async fn query_and_report_losses(
        &self,
        opened: &mut Opened,
    ) -> Result<Head, StoreError> {
        let head = self.query(opened).await?;
        if !head.lost_records {
            return Ok(head);
        }
        // `query` may have restored lost state and declared an incident, so the head is read again.
        let present = self.store.head().await?;
        if !present.lost_records {
            return Ok(head);
        }
        let now_ms = self.clock.now_ms();
        tracing::error!(
            "incident: the database lost records of workers; receipts are unknown for a while"
        );
        self.store
            .commit(
                &lost_records(WORKERS, present.incident.as_ref(), now_ms),
                self.unused_version(now_ms),
            )
            .await?;
        self.query(opened).await
    }

    /// Loads the state from the database. With `is_due`, every row is read and its MAC checked.
    /// State that the database lost and this replica remembers is restored first.
    pub(super) async fn load_whole(&self, is_due: bool) -> Result<Persisted, StoreError> {
        let memory = self.current.load().memory.clone();
        for _ in 0..MAX_RESTORATIONS {
            let loaded = if is_due {
                self.store.load().await?
            } else {
                self.store.load_changes().await?
            };
            let now_ms = self.clock.now_ms();
            // Each attempt restores a part, or finds that another replica has done so.
            let Some(loss) = Loss::between(&memory, &loaded, now_ms / 1_000) else {
                return Ok(loaded);
            };
            tracing::error!(
                reason = loss.reason(&memory, &loaded),
                "incident: the database lost state"
            );
            let mut change = loss.restoration(&memory, &loaded, now_ms);
            match self.store.commit(&change, now_ms).await {
                Ok(_) | Err(StoreError::Conflict) => {}
                Err(StoreError::Full(full)) => {
                    tracing::error!(
                        %full,
                        "incident: every token issued so far is revoked, because the lost \
                         revocations do not fit"
                    );
                    // One epoch over all tokens replaces the revocations that do not fit.
                    (change.revoke, change.epochs) =
                        (Vec::new(), vec![epoch_of_all(now_ms / 1_000)]);
                    self.store.commit(&change, now_ms).await?;
                    return self.store.load().await;
                }
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Unavailable("keeps losing state".into()))
    }

    /// Declares an incident after a loss of state that no replica remembers. Every token issued so
    /// far is revoked, token indices jump past every index that may have been leased, and the
    /// version rises past the lost versions.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn declare_incident(&self, reason: String, lost: &[u64]) -> Result<u64, StoreError> {
        let now_ms = self.clock.now_ms();
        tracing::error!(
            reason,
            "incident: every token issued so far is revoked, and every key that signed them"
        );
        // The change retires the keys of one version, so it is made again if that version changed.
        for _ in 0..MAX_RESTORATIONS {
            let published = self.current();
            let change = unproven(reason.clone(), lost, now_ms, &published.keys);
            match self
                .commit(&Change {
                    expected_version: Some(published.version()),
                    ..change
                })
                .await
            {
                Err(StoreError::Conflict) => self.refresh().await?,
                declared => return declared,
            };
        }
        Err(StoreError::Conflict)
    }

    /// Returns whether a version needs no action: the published state includes it, or the published
    /// state is newer and the loss of the version un-revokes no token.
    #[must_use]
    pub fn accounts_for(&self, version: u64) -> bool {
        let published = self.current.load();
        published.memory.follows(version)
            || (version < published.version()
                && is_harmless(&published.memory, version, self.clock.now_ms()))
    }

    /// Accounts for a version that a proxy has proved and that this replica does not know. Another
    /// replica may have published it, or may remember and restore it. Otherwise the database lost
    /// it, and this replica declares an incident, at most once a minute. Returns whether it did.
    ///
    /// # Errors
    /// [`SyncError::Ahead`] for a version that cannot have been published yet, and for a second
    /// lost version within a minute; [`SyncError::Store`].
    pub async fn catch_up(&self, have: u64) -> Result<bool, SyncError> {
        // A version is a time in milliseconds, so no replica can have published this one: no query
        // is needed.
        if have > self.clock.now_ms().saturating_add(CLOCK_SPREAD_MS) {
            return Err(SyncError::Ahead);
        }
        self.refresh().await?;
        if self.accounts_for(have) {
            return Ok(false);
        }
        if have >= self.clock.now_ms()
            || self.clock.steady_ms() < self.catch_up_ms.load(Ordering::Relaxed)
        {
            return Err(SyncError::Ahead);
        }
        // Another replica may remember the version and restore it.
        let mut versions = self.versions();
        let _explained = timeout(
            EXPLAIN_PATIENCE,
            versions.wait_for(|_| self.accounts_for(have)),
        )
        .await
        .is_ok();
        // One caller at a time from here on. The state is checked again, because an earlier caller
        // may have declared this version lost.
        let _one = self.catching_up.lock().await;
        self.refresh().await?;
        if self.accounts_for(have) {
            return Ok(false);
        }
        let (now_ms, steady_ms) = (self.clock.now_ms(), self.clock.steady_ms());
        if steady_ms < self.catch_up_ms.load(Ordering::Relaxed) {
            return Err(SyncError::Ahead);
        }
        let published = self.current();
        let covered = is_harmless(&published.memory, have, now_ms);
        if covered {
            tracing::warn!(
                have,
                "the database lost a version; no token of that time is accepted"
            );
            // An empty change raises the published version above the lost one.
            self.commit(&Change {
                above: have,
                ..Change::default()
            })
            .await?;
        } else {
            let reason = format!(
                "a proxy proved version {have}, which the database lost (it holds {}); every token \
                 issued before is revoked, and every key that signed them; a bundle key that was \
                 revoked in the lost state must be revoked again",
                published.version()
            );
            self.declare_incident(reason, &[have]).await?;
        }
        self.catch_up_ms.store(
            steady_ms.saturating_add(CATCH_UP_EVERY_MS),
            Ordering::Relaxed,
        );
        Ok(!covered)
    }
}
