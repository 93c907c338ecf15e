//! Assertions are used once. Kept in memory, by minute of expiry, so that forgetting is dropping a whole minute.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};

/// Most assertions remembered: some 50 MB. At five minutes each this is 6 000 a second; with the usual minute, 30 000.
const CAPACITY: usize = 2_000_000;

/// What became of an assertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// First use.
    Fresh,
    /// Used before.
    Seen,
    /// Nothing more can be remembered now, so nothing can be let in.
    Full,
}

/// The assertions used lately.
#[derive(Debug)]
pub struct Replays {
    minutes: Mutex<BTreeMap<u64, HashSet<u128>>>,
    capacity: usize,
}

impl Default for Replays {
    fn default() -> Self {
        Self::with_capacity(CAPACITY)
    }
}

impl Replays {
    /// Remembers at most so many.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self { minutes: Mutex::default(), capacity }
    }

    /// Uses an assertion that is good until `expires_at` (Unix seconds).
    pub fn use_once(&self, client: &str, jti: &str, expires_at: u64, now: u64) -> Replay {
        let id = digest(client, jti);
        let mut minutes = self.minutes.lock().unwrap_or_else(PoisonError::into_inner);
        while minutes.first_key_value().is_some_and(|(minute, _)| minute.saturating_add(1).saturating_mul(60) <= now) {
            minutes.pop_first();
        }
        if minutes.values().any(|used| used.contains(&id)) {
            return Replay::Seen;
        }
        if minutes.values().map(HashSet::len).sum::<usize>() >= self.capacity {
            return Replay::Full;
        }
        minutes.entry(expires_at / 60).or_default().insert(id);
        Replay::Fresh
    }
}

/// Half a SHA-256: nobody finds two clients' assertions that collide. The NUL keeps the two texts apart.
fn digest(client: &str, jti: &str) -> u128 {
    let mut context = Context::new(&SHA256);
    context.update(client.as_bytes());
    context.update(&[0]);
    context.update(jti.as_bytes());
    context.finish().as_ref().first_chunk().map_or(0, |half| u128::from_le_bytes(*half))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assertion_is_good_once_until_it_expires() {
        let replays = Replays::default();
        assert_eq!(replays.use_once("a", "1", 1_090, 1_000), Replay::Fresh);
        assert_eq!(replays.use_once("a", "1", 1_090, 1_089), Replay::Seen);
        assert_eq!(replays.use_once("a", "1", 1_300, 1_089), Replay::Seen, "whatever expiry it says now");
        assert_eq!(replays.use_once("b", "1", 1_090, 1_000), Replay::Fresh, "another client's");
    }

    #[test]
    fn memory_is_bounded_and_comes_back() {
        let replays = Replays::with_capacity(2);
        assert_eq!(replays.use_once("a", "1", 1_060, 1_000), Replay::Fresh);
        assert_eq!(replays.use_once("a", "2", 1_060, 1_000), Replay::Fresh);
        assert_eq!(replays.use_once("a", "3", 1_060, 1_000), Replay::Full);
        assert_eq!(replays.use_once("a", "3", 1_300, 1_080), Replay::Fresh);
    }
}
