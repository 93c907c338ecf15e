//! Substitute for the monotonic clock on hosts without one.

use std::time::Duration;

/// Maximum plausible time between two readings. The root context reads the clock at each tick, at
/// least once a second.
const LONGEST_GAP: Duration = Duration::from_secs(3);

/// Monotonic time derived from a wall clock that may be set to any time. A step back, or a step
/// forward by more than [`LONGEST_GAP`], counts as zero.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guarded {
    wall: Option<Duration>,
    elapsed: Duration,
}

impl Guarded {
    pub(crate) const fn new() -> Self {
        Self {
            wall: None,
            elapsed: Duration::ZERO,
        }
    }

    /// Returns the elapsed time when the wall clock shows `wall`.
    pub(crate) fn read(&mut self, wall: Duration) -> Duration {
        let passed = self
            .wall
            .replace(wall)
            .and_then(|before| wall.checked_sub(before))
            .unwrap_or_default();
        if passed <= LONGEST_GAP {
            self.elapsed = self.elapsed.saturating_add(passed);
        }
        self.elapsed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignores_steps_of_the_wall_clock() {
        let mut clock = Guarded::new();
        let (second, day) = (Duration::from_secs(1), Duration::from_secs(86_400));
        let mut wall = day * 20_000;
        assert_eq!(clock.read(wall), Duration::ZERO);
        wall += second;
        assert_eq!(clock.read(wall), second);
        for step in [wall + day * 400, wall - day * 400, Duration::ZERO] {
            assert_eq!(clock.read(step), second, "{step:?}");
        }
        assert_eq!(clock.read(second), second * 2, "goes on after the step");
    }
}
