//! Group commit: concurrent callers share one transaction, and so one wait for the disk.

use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::{Mutex as AsyncMutex, oneshot};

/// Largest number of work items in one transaction.
const MOST: usize = 256;

/// One caller's work item, and the channel for its answer.
pub(crate) struct Waiting<W, A> {
    /// The work item.
    pub(crate) work: W,
    answer: oneshot::Sender<A>,
}

impl<W, A> Waiting<W, A> {
    /// Sends the answer to the caller. The answer is dropped if the caller was cancelled.
    pub(crate) fn tell(self, answer: A) {
        let _cancelled = self.answer.send(answer);
    }
}

/// A transaction that carries out several work items.
#[async_trait]
pub(crate) trait Batch: Sync {
    /// One caller's work item. It may be carried out twice, so it must be idempotent.
    type Work: Clone + Send;
    /// The answer to a work item.
    type Answer: Send;

    /// Carries out work items and answers their callers. Returns the items that did not fit into
    /// the transaction. At least one item must be answered, or the group would make no progress.
    async fn run(&self, taken: Vec<Taken<Self>>) -> Vec<Taken<Self>>;
}

/// A work item handed to a batch.
pub(crate) type Taken<B> = Waiting<<B as Batch>::Work, <B as Batch>::Answer>;

/// Work items that wait for the next transaction.
pub(crate) struct Group<W, A> {
    waiting: Mutex<Vec<Waiting<W, A>>>,
    /// Held by the caller that runs a batch.
    turn: AsyncMutex<()>,
}

impl<W, A> Default for Group<W, A> {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            turn: AsyncMutex::default(),
        }
    }
}

impl<W: Clone + Send, A: Send> Group<W, A> {
    /// Carries out a work item in one batch with the other waiting items. The caller that gets the
    /// turn runs the batch.
    pub(crate) async fn join<B: Batch<Work = W, Answer = A>>(&self, batch: &B, work: W) -> A {
        loop {
            let (answer, mut answered) = oneshot::channel();
            self.lock().push(Waiting {
                work: work.clone(),
                answer,
            });
            // An answered caller skips the turn. Otherwise a thousand answered callers would take
            // and release the lock one after another.
            let turn = tokio::select! {
                biased;
                answer = &mut answered => match answer {
                    Ok(answer) => return answer,
                    // The caller that ran the batch was cancelled before its transaction ended.
                    Err(_closed) => continue,
                },
                turn = self.turn.lock() => turn,
            };
            // One batch may be too small for all items, so batches run until ours is answered.
            loop {
                match answered.try_recv() {
                    Ok(answer) => return answer,
                    Err(oneshot::error::TryRecvError::Closed) => break,
                    Err(oneshot::error::TryRecvError::Empty) => self.run(batch).await,
                }
            }
            drop(turn);
        }
    }

    /// Runs one batch of the waiting work items. The caller must hold the turn.
    async fn run<B: Batch<Work = W, Answer = A>>(&self, batch: &B) {
        let taken: Vec<Waiting<W, A>> = {
            let mut waiting = self.lock();
            // Work items of cancelled callers are dropped.
            waiting.retain(|one| !one.answer.is_closed());
            let count = waiting.len().min(MOST);
            waiting.drain(..count).collect()
        };
        // The lock is released here: a batch takes long, and other callers must be able to join.
        let left = batch.run(taken).await;
        // Items that did not fit come first in the next batch.
        self.lock().splice(0..0, left);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Waiting<W, A>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
