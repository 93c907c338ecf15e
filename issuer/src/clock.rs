//! The only place that reads a clock. Everything else is told the time, so that tests can choose it.
//!
//! A machine has two clocks: one says what time it is and may be put back (NTP, an operator, a restored virtual machine), the
//! other only runs on. Here the first is held against the second (I38), so that the time that is told never goes back: nothing
//! that has expired is good again, and no token is dated before a revocation that should have killed it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds by which the machine's time may fall behind the time that is told before it is called wrong.
pub const MAX_BEHIND_MS: u64 = 5_000;

/// Where the time comes from.
pub trait Clock: Send + Sync {
    /// The time.
    fn read(&self) -> Time;

    /// Milliseconds since the Unix epoch; never less than before.
    fn now_ms(&self) -> u64 {
        self.read().now_ms
    }

    /// Seconds since the Unix epoch; never less than before.
    fn now(&self) -> u64 {
        self.now_ms() / 1000
    }

    /// Milliseconds since some moment, whatever happens to the time of day: for rates, patience and freshness.
    fn steady_ms(&self) -> u64 {
        self.read().steady_ms
    }

    /// Seconds since that moment.
    fn steady(&self) -> u64 {
        self.steady_ms() / 1000
    }
}

/// What a clock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    /// Milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// Milliseconds since some moment.
    pub steady_ms: u64,
    /// Milliseconds by which the machine's time of day is behind `now_ms`, because it was put back.
    pub behind_ms: u64,
}

impl Time {
    /// Whether tokens may be dated by it.
    #[must_use]
    pub const fn is_sound(&self) -> bool {
        self.behind_ms <= MAX_BEHIND_MS
    }
}

/// Makes of a machine's two clocks one time that never goes back.
#[derive(Debug, Default)]
struct Guard(Mutex<Line>);

#[derive(Debug, Default)]
struct Line {
    /// Time of day less steady time, as of the last reading that was believed.
    offset_ms: u64,
    told_ms: u64,
}

impl Guard {
    /// Takes one reading of both. A step forward, or a small one back, is believed; after a large one back the time runs on as
    /// if there had been none, until the time of day has caught up.
    fn tell(&self, wall_ms: u64, steady_ms: u64) -> Time {
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let expected_ms = steady_ms.saturating_add(line.offset_ms);
        let believed = wall_ms.saturating_add(MAX_BEHIND_MS) >= expected_ms;
        if believed {
            line.offset_ms = wall_ms.saturating_sub(steady_ms);
        }
        line.told_ms = line.told_ms.max(if believed { wall_ms } else { expected_ms });
        Time { now_ms: line.told_ms, steady_ms, behind_ms: line.told_ms.saturating_sub(wall_ms) }
    }
}

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
    guard: Guard,
}

impl SystemClock {
    /// Begins to watch it.
    #[expect(clippy::disallowed_methods, reason = "this is the clock file")]
    #[must_use]
    pub fn new() -> Self {
        Self { started: Instant::now(), guard: Guard::default() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock file")]
    fn read(&self) -> Time {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        self.guard.tell(ms(wall), ms(self.started.elapsed()))
    }
}

/// A clock that stands still until it is moved: for tests, and for commands that take `--at`.
#[derive(Debug)]
pub struct FixedClock {
    wall_ms: AtomicU64,
    steady_ms: AtomicU64,
    guard: Guard,
}

impl FixedClock {
    /// Stands at this many seconds since the Unix epoch.
    #[must_use]
    pub fn at(seconds: u64) -> Self {
        let wall_ms = AtomicU64::new(seconds.saturating_mul(1000));
        Self { wall_ms, steady_ms: AtomicU64::new(0), guard: Guard::default() }
    }

    /// So many seconds pass.
    pub fn advance(&self, seconds: u64) {
        self.wall_ms.fetch_add(seconds.saturating_mul(1000), Ordering::Relaxed);
        self.steady_ms.fetch_add(seconds.saturating_mul(1000), Ordering::Relaxed);
    }

    /// The time of day is put back by so many seconds, or forward by a negative number, while no time passes.
    pub fn put_back(&self, seconds: i64) {
        let put = |wall_ms: u64| Some(wall_ms.saturating_add_signed(seconds.saturating_mul(-1000)));
        let _always = self.wall_ms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, put);
    }
}

impl Clock for FixedClock {
    fn read(&self) -> Time {
        self.guard.tell(self.wall_ms.load(Ordering::Relaxed), self.steady_ms.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_step_back_the_time_runs_on_and_is_unsound_until_the_machine_has_caught_up() {
        let clock = FixedClock::at(1_000);
        assert_eq!(clock.read(), Time { now_ms: 1_000_000, steady_ms: 0, behind_ms: 0 });
        clock.put_back(60);
        assert_eq!((clock.now(), clock.read().behind_ms, clock.read().is_sound()), (1_000, 60_000, false));
        clock.advance(10);
        assert_eq!(
            (clock.now(), clock.steady(), clock.read().is_sound()),
            (1_010, 10, false),
            "as if nothing had been"
        );
        clock.put_back(-56);
        assert_eq!((clock.now(), clock.read().is_sound()), (1_010, true), "caught up, nearly");
        clock.advance(5);
        assert_eq!(clock.now(), 1_011, "the machine's time again");
    }

    #[test]
    fn small_steps_back_stop_the_time_for_a_moment_but_many_of_them_are_a_large_one() {
        let clock = FixedClock::at(1_000);
        clock.read();
        clock.put_back(3);
        assert_eq!((clock.now(), clock.read().is_sound()), (1_000, true));
        clock.put_back(3);
        assert_eq!((clock.now(), clock.read().is_sound()), (1_000, false));
        clock.advance(7);
        assert_eq!((clock.now(), clock.read().is_sound()), (1_001, true));
    }

    #[test]
    fn a_step_forward_is_believed() {
        let clock = FixedClock::at(1_000);
        clock.read();
        clock.put_back(-3_600);
        assert_eq!((clock.now(), clock.steady(), clock.read().is_sound()), (4_600, 0, true));
    }
}
