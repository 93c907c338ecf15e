//! Held requests: they wait for newer keys because no known key verifies their token.
//!
//! Their number and time are limited, so that a flood of invented key ids ties up neither memory
//! nor connections. A stream that ends while it is held keeps its slot until its deadline, because
//! a callback for the end of streams would cost every request.

use std::time::Duration;

/// Source of the awaited keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The trust bundle.
    Bundle,
    /// The key set of a provider, by its index among the remote sources.
    Jwks(usize),
}

/// Maximum number of requests held at once in one worker. Each one keeps a stream and its headers.
pub(crate) const MAX_WAITING: usize = 64;

/// Maximum wait. Together with the tick that ends it ([`TICK`]), a request waits at most 200 ms.
pub(crate) const MAX_WAIT: Duration = Duration::from_millis(160);

/// Tick period while requests are held.
pub(crate) const TICK: Duration = Duration::from_millis(20);

#[derive(Debug)]
struct Waiter {
    stream: u32,
    /// The sources that have not answered yet.
    sources: Vec<Source>,
    deadline: Duration,
}

/// The held requests.
#[derive(Debug, Default)]
pub(crate) struct Waiters(Vec<Waiter>);

impl Waiters {
    /// Holds a request unless [`MAX_WAITING`] requests are held already, and returns whether it
    /// did. `now` is monotonic time.
    pub(crate) fn admit(&mut self, stream: u32, sources: Vec<Source>, now: Duration) -> bool {
        let has_capacity = self.0.len() < MAX_WAITING;
        if has_capacity {
            self.0.push(Waiter {
                stream,
                sources,
                deadline: now.saturating_add(MAX_WAIT),
            });
        }
        has_capacity
    }

    /// Removes and returns the streams whose sources have all delivered news, `source` being the
    /// latest.
    pub(crate) fn take_served(&mut self, source: Source) -> Vec<u32> {
        for waiter in &mut self.0 {
            waiter.sources.retain(|awaited| *awaited != source);
        }
        self.take(|waiter| waiter.sources.is_empty())
    }

    /// Removes and returns the streams that have reached their deadline.
    pub(crate) fn take_due(&mut self, now: Duration) -> Vec<u32> {
        self.take(|waiter| waiter.deadline <= now)
    }

    /// Removes and returns all streams, for example because their configuration was replaced.
    pub(crate) fn take_all(&mut self) -> Vec<u32> {
        self.take(|_| true)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, chosen: impl Fn(&Waiter) -> bool) -> Vec<u32> {
        self.0
            .extract_if(.., |waiter| chosen(waiter))
            .map(|waiter| waiter.stream)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_000);

    #[test]
    fn maximum_wait_is_below_200_ms() {
        assert!(MAX_WAIT + TICK < Duration::from_millis(200));
    }

    #[test]
    fn releases_only_requests_of_answered_source() {
        let mut waiters = Waiters::default();
        for (stream, source) in [
            (1, Source::Bundle),
            (2, Source::Jwks(0)),
            (3, Source::Jwks(1)),
        ] {
            assert!(waiters.admit(stream, vec![source], NOW));
        }
        assert_eq!(waiters.take_served(Source::Jwks(0)), [2]);
        assert_eq!(waiters.take_all(), [1, 3]);
        assert!(waiters.is_empty());
    }

    #[test]
    fn releases_requests_exactly_at_deadline() {
        let mut waiters = Waiters::default();
        waiters.admit(1, vec![Source::Bundle], NOW);
        assert!(
            waiters
                .take_due(NOW + MAX_WAIT - Duration::from_nanos(1))
                .is_empty()
        );
        assert_eq!(waiters.take_due(NOW + MAX_WAIT), [1]);
    }

    #[test]
    fn capacity_frees_up_after_a_wait() {
        let mut waiters = Waiters::default();
        let later = NOW + Duration::from_nanos(1);
        let times = std::iter::once(NOW).chain(std::iter::repeat(later));
        assert!((0..64).zip(times).all(|(stream, now)| waiters.admit(
            stream,
            vec![Source::Bundle],
            now
        )));
        assert!(!waiters.admit(64, vec![Source::Bundle], NOW));
        assert_eq!(waiters.take_due(NOW + MAX_WAIT), [0]);
        assert!(waiters.admit(65, vec![Source::Bundle], NOW));
        assert!(!waiters.admit(66, vec![Source::Bundle], NOW));
    }
}
