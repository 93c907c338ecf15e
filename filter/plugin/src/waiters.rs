//! Requests that wait for newer keys because their token names one that nobody here knows.
//!
//! Bounded in number and time, so that a flood of invented key ids holds neither memory nor connections. A stream that ends
//! while it waits is dropped without having to find this list: its [`Ticket`] dies with it.

use std::rc::{Rc, Weak};
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

/// Held by the waiting stream.
#[derive(Debug)]
pub struct Ticket(#[expect(dead_code, reason = "held, never read: it tells the list that the stream lives")] Rc<()>);

#[derive(Debug)]
struct Waiter {
    stream: u32,
    source: Source,
    deadline: Duration,
    alive: Weak<()>,
}

/// The requests that wait.
#[derive(Debug, Default)]
pub(crate) struct Waiters(Vec<Waiter>);

impl Waiters {
    /// Takes a request in; `None` when there is no room.
    pub(crate) fn admit(&mut self, stream: u32, source: Source, now: Duration) -> Option<Ticket> {
        self.0.retain(|waiter| waiter.alive.strong_count() > 0);
        if self.0.len() >= MAX_WAITING {
            return None;
        }
        let alive = Rc::new(());
        let deadline = now.saturating_add(MAX_WAIT);
        self.0.push(Waiter { stream, source, deadline, alive: Rc::downgrade(&alive) });
        Some(Ticket(alive))
    }

    /// The streams that need wait no longer because their source has something new.
    pub(crate) fn take_served(&mut self, source: Source) -> Vec<u32> {
        self.take(|waiter| waiter.source == source)
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
        let taken = self.0.extract_if(.., |waiter| waiter.alive.strong_count() == 0 || chosen(waiter));
        taken.filter(|waiter| waiter.alive.strong_count() > 0).map(|waiter| waiter.stream).collect()
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
        let _tickets = [
            waiters.admit(1, Source::Bundle, NOW),
            waiters.admit(2, Source::Jwks(0), NOW),
            waiters.admit(3, Source::Jwks(1), NOW),
        ];
        assert_eq!(waiters.take_served(Source::Jwks(0)), [2]);
        assert_eq!(waiters.take_all(), [1, 3]);
        assert!(waiters.is_empty());
    }

    #[test]
    fn time_is_up_at_the_deadline_and_not_before() {
        let mut waiters = Waiters::default();
        let _ticket = waiters.admit(1, Source::Bundle, NOW);
        assert!(waiters.take_due(NOW + MAX_WAIT - Duration::from_nanos(1)).is_empty());
        assert_eq!(waiters.take_due(NOW + MAX_WAIT), [1]);
    }

    #[test]
    fn a_stream_that_has_ended_is_forgotten() {
        let mut waiters = Waiters::default();
        drop(waiters.admit(1, Source::Bundle, NOW));
        let _ticket = waiters.admit(2, Source::Bundle, NOW);
        assert_eq!(waiters.take_all(), [2]);
    }

    #[test]
    fn there_is_room_for_so_many_and_again_when_one_ends() {
        let mut waiters = Waiters::default();
        let mut tickets: Vec<_> = (0..64).map(|stream| waiters.admit(stream, Source::Bundle, NOW)).collect();
        assert!(tickets.iter().all(Option::is_some));
        assert!(waiters.admit(64, Source::Bundle, NOW).is_none());
        tickets.pop();
        assert!(waiters.admit(65, Source::Bundle, NOW).is_some());
    }
}
