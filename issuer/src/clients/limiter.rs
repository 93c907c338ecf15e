//! Rate limits by the generic cell rate algorithm (ITU-T I.371): a leaky bucket whose state is one
//! timestamp, and which needs no timer.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

/// Number of cells of a [`Limiter`]. Sources share cells, so memory is fixed. The hash is randomly
/// keyed, so that an attacker cannot choose an address that shares a cell with a victim.
const CELLS: usize = 4_096;

/// Microseconds of a second.
const SECOND_US: u64 = 1_000_000;

/// A rate of events with bursts.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Time between two events at the full rate.
    interval_us: u64,
    /// Time by which events may be ahead of the rate.
    tolerance_us: u64,
}

impl Rate {
    /// Allows `count` events a second, and bursts of `burst_s` seconds' worth of events.
    #[must_use]
    pub fn per_second(count: u32, burst_s: u64) -> Self {
        Self {
            interval_us: SECOND_US / u64::from(count.max(1)),
            tolerance_us: burst_s.saturating_mul(SECOND_US),
        }
    }

    /// Returns the state of a cell after one more event; `None` if the event exceeds the rate.
    ///
    /// The state is the theoretical arrival time: the time of the next event at the full rate.
    fn next(self, at_us: u64, now_us: u64) -> Option<u64> {
        let at_us = at_us.max(now_us).saturating_add(self.interval_us);
        (at_us <= now_us.saturating_add(self.tolerance_us)).then_some(at_us)
    }

    /// Counts an event. Returns false, and does not count it, if it exceeds the rate.
    #[must_use]
    pub fn admit(self, cell: &AtomicU64, now_us: u64) -> bool {
        cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |at_us| {
            self.next(at_us, now_us)
        })
        .is_ok()
    }
}

/// Rate limits by source address and unverified client id. Clients behind a sidecar or gateway
/// share one address, so the address alone would not tell them apart.
pub struct Limiter {
    cells: Vec<AtomicU64>,
    hasher: RandomState,
    rate: Rate,
}

impl Limiter {
    /// Allows `per_second` events of each source, and bursts of `burst_s` seconds' worth.
    #[must_use]
    pub fn new(per_second: u32, burst_s: u64) -> Self {
        let cells = std::iter::repeat_with(AtomicU64::default)
            .take(CELLS)
            .collect();
        Self {
            cells,
            hasher: RandomState::new(),
            rate: Rate::per_second(per_second, burst_s),
        }
    }

    /// Returns the cell of a source.
    fn cell(&self, source: (IpAddr, &str)) -> Option<&AtomicU64> {
        let cells = u64::try_from(CELLS).unwrap_or(1);
        self.cells
            .get(usize::try_from(self.hasher.hash_one(source) % cells).unwrap_or(0))
    }

    /// Returns whether one more event of this source would exceed the rate.
    #[must_use]
    pub fn is_exceeded(&self, source: (IpAddr, &str), now_ms: u64) -> bool {
        let now_us = now_ms.saturating_mul(1_000);
        self.cell(source).is_some_and(|cell| {
            self.rate
                .next(cell.load(Ordering::Relaxed), now_us)
                .is_none()
        })
    }

    /// Counts an event of this source. Returns false if it exceeds the rate.
    pub fn admit(&self, source: (IpAddr, &str), now_ms: u64) -> bool {
        self.cell(source)
            .is_none_or(|cell| self.rate.admit(cell, now_ms.saturating_mul(1_000)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allows_burst_then_rate() {
        let (rate, cell) = (Rate::per_second(10, 1), AtomicU64::new(0));
        let now = 1_000_000_000;
        assert_eq!((0..20).filter(|_| rate.admit(&cell, now)).count(), 10);
        assert!(!rate.admit(&cell, now + 99_999));
        assert!(rate.admit(&cell, now + 100_000));
    }

    #[test]
    fn limits_each_source_and_recovers() {
        let limiter = Limiter::new(1, 10);
        let (guesser, other) = (
            (IpAddr::from([10, 0, 0, 1]), "a"),
            (IpAddr::from([10, 0, 0, 1]), "b"),
        );
        let cells = [guesser, other].map(|source| limiter.cell(source).map(std::ptr::from_ref));
        let failures = (0..100)
            .take_while(|_| !limiter.is_exceeded(guesser, 5_000))
            .inspect(|_| assert!(limiter.admit(guesser, 5_000)))
            .count();
        assert_eq!(failures, 10);
        assert!(!limiter.is_exceeded(guesser, 6_001));
        assert!(cells[0] == cells[1] || !limiter.is_exceeded(other, 5_000));
    }
}
