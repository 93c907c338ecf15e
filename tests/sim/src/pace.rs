//! Time inside the issuer: deadlines, back-off and waits follow a virtual clock, which advances
//! only when no task can run. So a wait costs no real time, and its length does not depend on the
//! machine.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::advance;

/// Virtual time of one advance.
const STEP: Duration = Duration::from_millis(20);

/// Turns of the runtime without an open call after which no task can run. Each turn runs every
/// ready task.
const IDLE_TURNS: usize = 4;

/// Counts the open calls to the database, whose answers come from another thread.
#[derive(Clone, Default)]
pub(super) struct Pace(Arc<AtomicUsize>);

/// Open call to the database, which ends when this value is dropped.
pub(super) struct Call(Arc<AtomicUsize>);

impl Pace {
    /// Begins a call.
    pub(super) fn call(&self) -> Call {
        self.0.fetch_add(1, Ordering::SeqCst);
        Call(Arc::clone(&self.0))
    }

    /// Returns whether no call to the database is open.
    pub(super) fn is_idle(&self) -> bool {
        self.0.load(Ordering::SeqCst) == 0
    }

    /// Runs `work` until it waits for something other than the database, while virtual time stands
    /// still. Returns its value if it has ended.
    pub(super) async fn settle<T>(&self, mut work: Pin<&mut dyn Future<Output = T>>) -> Option<T> {
        let mut idle_turns = 0;
        poll_fn(|context| match work.as_mut().poll(context) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending if !self.is_idle() => {
                idle_turns = 0;
                Poll::Pending
            }
            // One more turn, because the first may have used up tokio's task budget.
            Poll::Pending if idle_turns == 0 => {
                idle_turns = 1;
                Poll::Pending
            }
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    /// Runs `work` to its end, in a runtime whose clock is paused.
    pub(super) async fn drive<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let mut idle_turns = 0;
        loop {
            // This loop polls again anyway, so it needs no wake-ups of `work`.
            let polled = poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await;
            if let Poll::Ready(value) = polled {
                return value;
            }
            if !self.is_idle() {
                idle_turns = 0;
                std::thread::yield_now();
            } else if idle_turns < IDLE_TURNS {
                idle_turns += 1;
            } else {
                idle_turns = 0;
                advance(STEP).await;
            }
            yield_now().await;
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
