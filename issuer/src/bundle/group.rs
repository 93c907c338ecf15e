//! Group commit of revocations. Concurrent revocations share one transaction and one wait for the
//! disk, and revocations of the same client are merged into one change.

use std::collections::BTreeMap;

use async_trait::async_trait;

use crate::group::{Batch, Waiting};
use crate::revocation::{EpochRecord, RevokedToken, Revoker};
use crate::store::{Change, Store, StoreError};

/// Version after a change.
pub(super) type Answer = Result<u64, StoreError>;

/// Commits changes that only revoke. Such changes are idempotent.
pub(super) struct Revocations<'a, N> {
    pub(super) store: &'a dyn Store,
    /// Returns the version for a change made now. Called when the transaction begins, because a
    /// change may have waited for its turn.
    pub(super) now_ms: N,
}

#[async_trait]
impl<N: Fn() -> u64 + Sync> Batch for Revocations<'_, N> {
    type Work = Change;
    type Answer = Answer;

    async fn run(&self, taken: Vec<Waiting<Change, Answer>>) -> Vec<Waiting<Change, Answer>> {
        let now_ms = (self.now_ms)();
        let parts = by_revoker(taken);
        let merged: Vec<Change> = parts.iter().map(|part| merge(part)).collect();
        let mut versions = match self.store.commit_all(&merged, now_ms).await {
            Ok(versions) => versions.into_iter(),
            // A tampered row may concern only one of the changes, so each is committed alone below.
            Err(StoreError::Tampered(_)) => {
                vec![Err(StoreError::Conflict); merged.len()].into_iter()
            }
            Err(error) => vec![Err(error); merged.len()].into_iter(),
        };
        // The answers belong to the first changes; changes without an answer did not fit.
        let mut left = Vec::new();
        for part in parts {
            match versions.next() {
                Some(Err(StoreError::Conflict | StoreError::Full(_))) => {
                    one_by_one(self.store, part, now_ms).await;
                }
                Some(version) => part.into_iter().for_each(|one| one.tell(version.clone())),
                None => left.extend(part),
            }
        }
        left
    }
}

/// Commits each change of a part by itself, after the merged change was refused: only the change at
/// fault fails.
async fn one_by_one(store: &dyn Store, part: Vec<Waiting<Change, Answer>>, now_ms: u64) {
    for one in part {
        let version = store.commit(&one.work, now_ms).await;
        one.tell(version);
    }
}

/// Groups changes by revoker, in the order of each revoker's first change.
fn by_revoker(waiting: Vec<Waiting<Change, Answer>>) -> Vec<Vec<Waiting<Change, Answer>>> {
    let mut parts: Vec<(Revoker, Vec<Waiting<Change, Answer>>)> = Vec::new();
    for one in waiting {
        match parts
            .iter_mut()
            .find(|(revoker, _)| *revoker == one.work.revoker)
        {
            Some((_, part)) => part.push(one),
            None => parts.push((one.work.revoker.clone(), vec![one])),
        }
    }
    parts.into_iter().map(|(_, part)| part).collect()
}

/// Merges the changes of one revoker into one change with the same effect.
fn merge(part: &[Waiting<Change, Answer>]) -> Change {
    let (mut tokens, mut epochs): (BTreeMap<u64, u64>, BTreeMap<_, EpochRecord>) =
        Default::default();
    // The store requires each token and each epoch to be named once.
    for Waiting { work: change, .. } in part {
        for token in &change.revoke {
            let kept = tokens.entry(token.index).or_insert(token.expires_at);
            *kept = (*kept).max(token.expires_at);
        }
        for epoch in &change.epochs {
            let kept = epochs
                .entry((epoch.kind.name(), &*epoch.name))
                .or_insert_with(|| epoch.clone());
            kept.before = kept.before.max(epoch.before);
            kept.expires_at = kept.expires_at.max(epoch.expires_at);
        }
    }
    // INVARIANT: all changes of a part have the same revoker, so the first one's quota applies.
    let revoker = part
        .first()
        .map(|one| one.work.revoker.clone())
        .unwrap_or_default();
    let revoke = tokens
        .into_iter()
        .map(|(index, expires_at)| RevokedToken { index, expires_at })
        .collect();
    Change {
        revoke,
        epochs: epochs.into_values().collect(),
        revoker,
        ..Change::default()
    }
}
