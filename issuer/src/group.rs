//! Group commit: callers that wait at the same time share one transaction, so that they wait for
//! the disk once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Mutex as AsyncMutex, oneshot};
use tokio::time::sleep;

/// Most works of one transaction.
const MOST: usize = 256;

/// One caller's work, and the channel of its answer.
pub(crate) struct Waiting<W, A> {
    /// The work.
    pub(crate) work: W,
    answer: oneshot::Sender<A>,
}

impl<W, A> Waiting<W, A> {
    /// Answers the caller. A caller that has gone does not hear it.
    pub(crate) fn tell(self, answer: A) {
        let _gone = self.answer.send(answer);
    }
}

/// A transaction of several works.
#[async_trait]
pub(crate) trait Batch: Sync {
    /// One caller's work. It may be done twice.
    type Work: Clone + Send;
    /// The answer to it.
    type Answer: Send;

    /// Does works and answers them. Returns those that the transaction did not take: at least one
    /// is answered.
    async fn run(&self, taken: Vec<Taken<Self>>) -> Vec<Taken<Self>>;
}

/// A work that a batch takes along.
pub(crate) type Taken<B> = Waiting<<B as Batch>::Work, <B as Batch>::Answer>;

/// Works that wait for their turn.
pub(crate) struct Group<W, A> {
    waiting: Mutex<Vec<Waiting<W, A>>>,
    turn: AsyncMutex<()>,
    /// Time for others to join a batch.
    pause: Duration,
    /// Number of works of the last batch.
    last: AtomicUsize,
}

impl<W, A> Default for Group<W, A> {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            turn: AsyncMutex::default(),
            pause: Duration::ZERO,
            last: AtomicUsize::new(0),
        }
    }
}

impl<W, A> Group<W, A> {
    /// Creates a group whose batches wait for so long while they are smaller than the last one.
    /// Callers that were answered together come back together: without a pause the first of them
    /// would begin a batch for itself, and every second batch would have one work.
    pub(crate) fn with_pause(pause: Duration) -> Self {
        Self {
            pause,
            ..Self::default()
        }
    }
}

impl<W: Clone + Send, A: Send> Group<W, A> {
    /// Has a work done, together with those that wait. The caller whose turn it is runs its batch.
    pub(crate) async fn join<B: Batch<Work = W, Answer = A>>(&self, batch: &B, work: W) -> A {
        loop {
            let (answer, mut answered) = oneshot::channel();
            self.lock().push(Waiting {
                work: work.clone(),
                answer,
            });
            // An answered caller needs no turn: a thousand of them would hand it on one by one.
            let turn = tokio::select! {
                biased;
                answer = &mut answered => match answer {
                    Ok(answer) => return answer,
                    // Taken along by a caller that ended before its transaction did.
                    Err(_closed) => continue,
                },
                turn = self.turn.lock() => turn,
            };
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

    async fn run<B: Batch<Work = W, Answer = A>>(&self, batch: &B) {
        let last = self.last.load(Ordering::Relaxed);
        if !self.pause.is_zero() && self.lock().len() < last {
            sleep(self.pause).await;
        }
        let taken: Vec<Waiting<W, A>> = {
            let mut waiting = self.lock();
            // Works of callers that have gone are not begun.
            waiting.retain(|one| !one.answer.is_closed());
            let count = waiting.len().min(MOST);
            waiting.drain(..count).collect()
        };
        self.last.store(taken.len(), Ordering::Relaxed);
        let left = batch.run(taken).await;
        self.lock().splice(0..0, left);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Waiting<W, A>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
