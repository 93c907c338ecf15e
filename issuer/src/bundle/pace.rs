//! Pace of publications, and of the answers to polls that a publication wakes.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

/// Shortest time between two publications of revocations. Revocations made meanwhile are published
/// together. A change of keys is published at once.
const PUBLISH_EVERY: Duration = Duration::from_millis(20);

/// Time between two publications for each waiting poll, if the sum exceeds [`PUBLISH_EVERY`]. A
/// publication causes an answer and a new poll, so this bounds their cost to half of a core for any
/// number of workers.
const POLL_COST: Duration = Duration::from_micros(120);

/// Upper limit of both delays. It is below the five seconds for which the published state counts as
/// current.
const AT_MOST: Duration = Duration::from_secs(2);

/// Number of polls that are answered without a delay.
const AT_ONCE: u32 = 256;

/// Time between the answers to two further polls, in which other requests are served.
const ANSWER_EVERY: Duration = Duration::from_micros(80);

/// The pace of one replica.
#[derive(Default)]
pub(super) struct Pace {
    /// Time of the last publication.
    last: Mutex<Option<Instant>>,
    /// Time of the last query on behalf of an unknown token.
    looked: Mutex<Option<Instant>>,
    /// Number of polls that the last publication woke.
    woken: AtomicU32,
}

impl Pace {
    /// Records a publication.
    pub(super) fn published(&self) {
        self.woken.store(0, Ordering::Relaxed);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Waits until the next publication is due. The delay grows with the number of waiting polls.
    pub(super) async fn next(&self, waiting: usize) {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(last) = last else { return };
        // The woken polls will wait again soon, so the larger of the two numbers counts.
        let waiting = u32::try_from(waiting)
            .unwrap_or(u32::MAX)
            .max(self.woken.load(Ordering::Relaxed));
        sleep_until(
            last + POLL_COST
                .saturating_mul(waiting)
                .clamp(PUBLISH_EVERY, AT_MOST),
        )
        .await;
    }

    /// Waits until the database may be queried about an unknown token again. The caller must
    /// prevent concurrent calls.
    pub(super) async fn next_look(&self) {
        let last = *self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = last {
            sleep_until(last + PUBLISH_EVERY).await;
        }
        *self.looked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Waits until a poll that the last publication woke may be answered.
    pub(super) async fn answer(&self) {
        let before = self.woken.fetch_add(1, Ordering::Relaxed);
        let delay = ANSWER_EVERY
            .saturating_mul(before.saturating_sub(AT_ONCE))
            .min(AT_MOST);
        if !delay.is_zero() {
            sleep(delay).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn delays_grow_with_polls_up_to_limit() {
        let pace = Pace::default();
        pace.next(100_000).await;
        let mut last = Instant::now();
        for (waiting, most_ms) in [(10_usize, 20), (10_000, 1_200), (100_000, 2_000)] {
            pace.published();
            for _ in 0..waiting.min(256) {
                pace.answer().await;
            }
            assert_eq!(
                last.elapsed(),
                Duration::ZERO,
                "the first publication and the first answers are immediate"
            );
            pace.next(waiting).await;
            assert_eq!(last.elapsed(), Duration::from_millis(most_ms), "{waiting}");
            last = Instant::now();
        }
        pace.published();
        pace.woken.store(AT_ONCE + 1_000, Ordering::Relaxed);
        pace.answer().await;
        assert_eq!(
            last.elapsed(),
            Duration::from_millis(80),
            "a thousand others are answered first"
        );
        pace.woken.store(1_000_000, Ordering::Relaxed);
        pace.next(10).await;
        assert_eq!(
            last.elapsed(),
            Duration::from_secs(2),
            "woken polls count as waiting"
        );
    }
}
