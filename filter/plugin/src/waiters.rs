//! Requests that wait for newer keys because their token names one that nobody here knows.
//!
//! Bounded in number and time, so that a flood of invented key ids holds neither memory nor
//! connections. A stream that ends while it waits keeps its place until its time is up: to hear of
//! every stream's end would cost every request.

use std::time::Duration;

/// Where the awaited keys come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The trust bundle.
    Bundle,
    /// The key set of a provider: index into the remote sources.
    Jwks(usize),
}

/// Most requests that wait at once, in one worker: each holds a stream and its headers.
pub(crate) const MAX_WAITING: usize = 64;

/// Longest wait. With the tick that ends it ([`TICK`]) no request waits more than 200 ms.
pub(crate) const MAX_WAIT: Duration = Duration::from_millis(160);

/// How often the waiting are looked at.
pub(crate) const TICK: Duration = Duration::from_millis(20);

#[derive(Debug)]
struct Waiter {
    stream: u32,
    /// The sources that have not answered yet.
    sources: Vec<Source>,
    deadline: Duration,
}

/// The requests that wait.
#[derive(Debug, Default)]
pub(crate) struct Waiters(Vec<Waiter>);

impl Waiters {
    /// Takes a request in, if there is room. `now` is of the monotonic clock.
    pub(crate) fn admit(&mut self, stream: u32, sources: Vec<Source>, now: Duration) -> bool {
        let room = self.0.len() < MAX_WAITING;
        if room {
            self.0.push(Waiter {
                stream,
                sources,
                deadline: now.saturating_add(MAX_WAIT),
            });
        }
        room
    }

    /// The streams that need wait no longer because all their sources have something new.
    pub(crate) fn take_served(&mut self, source: Source) -> Vec<u32> {
        for waiter in &mut self.0 {
            waiter.sources.retain(|awaited| *awaited != source);
        }
        self.take(|waiter| waiter.sources.is_empty())
    }

    /// The streams whose time is up.
    pub(crate) fn take_due(&mut self, now: Duration) -> Vec<u32> {
        self.take(|waiter| waiter.deadline <= now)
    }

    /// Every stream, e.g. because the configuration they waited under is gone.
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
    fn the_time_to_wait_is_below_200_ms() {
        assert!(MAX_WAIT + TICK < Duration::from_millis(200));
    }

    #[test]
    fn only_those_of_the_source_are_served() {
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
    fn time_is_up_at_the_deadline_and_not_before() {
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
    fn there_is_room_for_so_many_and_again_when_one_has_waited() {
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
