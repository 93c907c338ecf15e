//! When revocations are published, and when each of the polls that wait is answered.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

/// Time between two publications of revocations: what comes meanwhile is published together. A key
/// is published at once.
const PUBLISH_EVERY: Duration = Duration::from_millis(20);

/// The same for each poll that waits, if that is longer: it is answered, and asks again. So
/// publications take half of a core, however many workers there are.
const POLL_COST: Duration = Duration::from_micros(120);

/// Longest of both. A replica vouches for five seconds after it last asked the database.
const AT_MOST: Duration = Duration::from_secs(2);

/// Polls that are answered without a delay.
const AT_ONCE: u32 = 256;

/// Time between the answers to two further polls. Other requests are served between them.
const ANSWER_EVERY: Duration = Duration::from_micros(80);

/// The pace of one replica.
#[derive(Default)]
pub(super) struct Pace {
    last: Mutex<Option<Instant>>,
    /// Last query on behalf of an unknown token.
    looked: Mutex<Option<Instant>>,
    /// Polls that the last publication woke.
    woken: AtomicU32,
}

impl Pace {
    /// Something was published now.
    pub(super) fn published(&self) {
        self.woken.store(0, Ordering::Relaxed);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Waits until the next publication is due: the more polls are answered by it, the later.
    pub(super) async fn next(&self, waiting: usize) {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(last) = last else { return };
        // Those that were woken are on their way, or wait again.
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

    /// Waits until the database may be asked about an unknown token again. Callers come one at a
    /// time.
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
    async fn more_polls_spread_publications_and_answers_within_two_seconds() {
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
                "the first is immediate, and so are some answers"
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
            "a thousand others go first"
        );
        pace.woken.store(1_000_000, Ordering::Relaxed);
        pace.next(10).await;
        assert_eq!(
            last.elapsed(),
            Duration::from_secs(2),
            "those that were woken count"
        );
    }
}
