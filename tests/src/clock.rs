//! The only file of this crate that reads a clock.
#![expect(clippy::disallowed_methods, reason = "the one clock of this crate")]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Unix time in seconds. A machine whose clock stands before 1970 gets 0.
pub fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Measures how long something took.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since the start.
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}
