//! Revocations that arrive together are committed together: they wait for the disk once, and those
//! of one client are one change.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Mutex as AsyncMutex, oneshot};

use crate::revocation::{EpochRecord, RevokedToken, Revoker};
use crate::store::{Change, Store, StoreError};

/// Most changes that are taken along at a time.
const MOST: usize = 256;

type Answer = Result<u64, StoreError>;

/// A change, and who waits for its answer.
type Waiting = (Change, oneshot::Sender<Answer>);

/// Changes that wait for their turn.
#[derive(Default)]
pub(super) struct Group {
    waiting: Mutex<Vec<Waiting>>,
    turn: AsyncMutex<()>,
}

impl Group {
    /// Commits a change that only revokes, with those that wait. `now_ms` is asked when its turn
    /// has come.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub(super) async fn commit(
        &self,
        store: &dyn Store,
        change: &Change,
        now_ms: impl Fn() -> u64 + Sync,
    ) -> Answer {
        loop {
            let (answer, mut answered) = oneshot::channel();
            self.lock().push((change.clone(), answer));
            // Whoever has been answered needs no turn: a thousand of them would hand it on one by
            // one.
            let turn = tokio::select! {
                biased;
                answer = &mut answered => match answer {
                    Ok(answer) => return answer,
                    // Taken along by a request that ended before its transaction did: revoking may
                    // be repeated.
                    Err(_closed) => continue,
                },
                turn = self.turn.lock() => turn,
            };
            loop {
                match answered.try_recv() {
                    Ok(answer) => return answer,
                    Err(oneshot::error::TryRecvError::Closed) => break,
                    Err(oneshot::error::TryRecvError::Empty) => {
                        self.commit_waiting(store, now_ms()).await;
                    }
                }
            }
            drop(turn);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn commit_waiting(&self, store: &dyn Store, now_ms: u64) {
        let taken: Vec<Waiting> = {
            let mut waiting = self.lock();
            // Those that nobody waits for any more were not begun.
            waiting.retain(|(_, answer)| !answer.is_closed());
            let count = waiting.len().min(MOST);
            waiting.drain(..count).collect()
        };
        let parts = by_revoker(taken);
        let merged: Vec<Change> = parts.iter().map(|part| merge(part)).collect();
        let mut versions = match store.commit_all(&merged, now_ms).await {
            Ok(versions) => versions.into_iter(),
            // One row that is wrong concerns one change: each is tried by itself.
            Err(StoreError::Tampered(_)) => {
                vec![Err(StoreError::Conflict); merged.len()].into_iter()
            }
            Err(error) => vec![Err(error); merged.len()].into_iter(),
        };
        let mut left = Vec::new();
        for part in parts {
            match versions.next() {
                Some(Err(StoreError::Conflict | StoreError::Full(_))) => {
                    one_by_one(store, part, now_ms).await;
                }
                Some(version) => part
                    .into_iter()
                    .for_each(|(_, answer)| tell(answer, version.clone())),
                None => left.extend(part),
            }
        }
        self.lock().splice(0..0, left);
    }
}

/// Commits changes of which one was refused, together with the others.
async fn one_by_one(store: &dyn Store, part: Vec<Waiting>, now_ms: u64) {
    for (change, answer) in part {
        tell(answer, store.commit(&change, now_ms).await);
    }
}

fn tell(answer: oneshot::Sender<Answer>, version: Answer) {
    let _nobody_waits = answer.send(version);
}

/// Parts of one revoker each, in the order of their first change.
fn by_revoker(waiting: Vec<Waiting>) -> Vec<Vec<Waiting>> {
    let mut parts: Vec<(Revoker, Vec<Waiting>)> = Vec::new();
    for one in waiting {
        match parts
            .iter_mut()
            .find(|(revoker, _)| *revoker == one.0.revoker)
        {
            Some((_, part)) => part.push(one),
            None => parts.push((one.0.revoker.clone(), vec![one])),
        }
    }
    parts.into_iter().map(|(_, part)| part).collect()
}

/// One change that does what all of a part do.
fn merge(part: &[Waiting]) -> Change {
    let (mut tokens, mut epochs): (BTreeMap<u64, u64>, BTreeMap<_, EpochRecord>) =
        Default::default();
    for (change, _) in part {
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
    let revoker = part
        .first()
        .map(|(change, _)| change.revoker.clone())
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
