//! Clocks. No other file of this crate reads one.
#![expect(clippy::disallowed_methods, reason = "the one clock of this crate")]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Returns the Unix time in seconds; 0 if the clock stands before 1970.
pub fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Measures elapsed time.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts a stopwatch.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since the start.
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}
