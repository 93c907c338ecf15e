//! Time inside the issuer's program: deadlines, back-off and waits follow a virtual clock, which
//! goes on only when nothing else can. So a wait costs no real time, and its length does not depend
//! on the machine.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::advance;

/// Virtual time that passes at once.
const STEP: Duration = Duration::from_millis(20);

/// Turns of the runtime without an open call after which no task can run: each turn runs every task
/// that is ready.
const IDLE_TURNS: usize = 4;

/// Counts the calls to the database that are open: their answers come from another thread.
#[derive(Clone, Default)]
pub(super) struct Pace(Arc<AtomicUsize>);

/// A call to the database, until it is dropped.
pub(super) struct Call(Arc<AtomicUsize>);

impl Pace {
    /// Begins a call.
    pub(super) fn call(&self) -> Call {
        self.0.fetch_add(1, Ordering::SeqCst);
        Call(Arc::clone(&self.0))
    }

    /// Runs `work` to its end, in a runtime whose clock is paused.
    pub(super) async fn drive<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let mut idle_turns = 0;
        loop {
            // Its own wake-ups are not waited for: this loop asks again anyway.
            let polled =
                std::future::poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await;
            if let Poll::Ready(value) = polled {
                return value;
            }
            if self.0.load(Ordering::SeqCst) > 0 {
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
