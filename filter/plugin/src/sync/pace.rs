//! Pace of calls: back-off after failures, and rate limits for refreshes that requests cause.

use std::time::Duration;

use crate::host::Host;

/// Exponential back-off with full jitter. The delays of many workers spread over the whole span, so
/// that they do not all call a recovering issuer at once (AWS Architecture Blog, "Exponential
/// Backoff And Jitter").
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    pub(crate) const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            failures: 0,
        }
    }

    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Returns the delay after one more failure: random, between zero and the current span.
    pub(crate) fn next(&mut self, host: &impl Host) -> Duration {
        let span = 2_u32
            .checked_pow(self.failures)
            .and_then(|factor| self.first.checked_mul(factor));
        self.failures = self.failures.saturating_add(1);
        portion(span.unwrap_or(self.longest).min(self.longest), host)
    }
}

/// Returns a random part of a span, uniformly distributed.
pub(crate) fn portion(span: Duration, host: &impl Host) -> Duration {
    let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(
        host.random()
            .checked_rem(micros.saturating_add(1))
            .unwrap_or(0),
    )
}

/// Token bucket for refreshes that requests cause: holds `size` permits and gains one per interval.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    size: u32,
    interval: Duration,
    left: u32,
    since: Duration,
}

impl Bucket {
    pub(crate) const fn full(size: u32, interval: Duration) -> Self {
        Self {
            size,
            interval,
            left: size,
            since: Duration::ZERO,
        }
    }

    /// Takes a permit and returns true, or returns false if the bucket is empty.
    pub(crate) fn take(&mut self, now: Duration) -> bool {
        let passed = now
            .saturating_sub(self.since)
            .as_millis()
            .checked_div(self.interval.as_millis())
            .unwrap_or(0);
        let earned = u32::try_from(passed).unwrap_or(u32::MAX);
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(self.size);
            // The rest of a started interval counts on, unless the bucket is full: a full bucket
            // must not earn permits in advance.
            self.since = if self.left == self.size {
                now
            } else {
                self.since
                    .saturating_add(self.interval.saturating_mul(earned))
            };
        }
        let taken = self.left > 0;
        self.left = self.left.saturating_sub(1);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn delay_doubles_to_maximum_and_resets() {
        // The fake host returns the span as its random number, which selects the longest delay.
        let host = FakeHost::new();
        let mut backoff = Backoff::new(ms(250), ms(10_000));
        for span in [250_u64, 500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000] {
            host.set_random(span * 1_000);
            assert_eq!(backoff.next(&host), ms(span));
        }
        backoff.reset();
        host.set_random(250_000);
        assert_eq!(backoff.next(&host), ms(250));
    }

    #[test]
    fn jitter_may_be_zero() {
        let host = FakeHost::new();
        host.set_random(0);
        assert_eq!(Backoff::new(ms(250), ms(10_000)).next(&host), ms(0));
    }

    #[test]
    fn many_failures_do_not_overflow() {
        let host = FakeHost::new();
        let mut backoff = Backoff::new(ms(250), ms(10_000));
        for _ in 0..100 {
            assert!(backoff.next(&host) <= ms(10_000));
        }
    }

    #[test]
    fn bucket_refills_one_per_interval() {
        let mut bucket = Bucket::full(2, ms(1_000));
        let start = Duration::from_secs(1_000);
        assert!(bucket.take(start) && bucket.take(start));
        assert!(!bucket.take(start) && !bucket.take(start + ms(999)));
        assert!(bucket.take(start + ms(1_000)));
        assert!(!bucket.take(start + ms(1_999)));
        assert!(bucket.take(start + ms(2_000)));
    }

    #[test]
    fn bucket_never_exceeds_its_size() {
        let mut bucket = Bucket::full(2, ms(1_000));
        let later = Duration::from_secs(1_000_000);
        assert_eq!((0..9).filter(|_| bucket.take(later)).count(), 2);
    }
}
