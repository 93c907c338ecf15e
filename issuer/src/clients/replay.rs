//! Assertions are used once. Kept in memory, by minute of expiry, so that forgetting is dropping a
//! whole minute.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};

/// Most assertions remembered: some 50 MB. At five minutes each this is 6 000 a second; with the
/// usual minute, 30 000.
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
///
/// One client cannot use up the memory of the others: it may fill half of it, and of the other half
/// each client has a share.
#[derive(Debug)]
pub struct Replays {
    used: Mutex<Used>,
    capacity: usize,
    share: usize,
}

#[derive(Debug, Default)]
struct Used {
    minutes: BTreeMap<u64, Minute>,
    total: usize,
    by_client: HashMap<String, usize>,
}

/// What expires within one minute.
#[derive(Debug, Default)]
struct Minute {
    ids: HashSet<u128>,
    by_client: HashMap<String, usize>,
}

impl Replays {
    /// For so many clients.
    #[must_use]
    pub fn new(clients: usize) -> Self {
        Self::with_capacity(CAPACITY, clients)
    }

    fn with_capacity(capacity: usize, clients: usize) -> Self {
        let share = (capacity / 2).checked_div(clients).unwrap_or(capacity);
        Self {
            used: Mutex::default(),
            capacity,
            share,
        }
    }

    /// Uses an assertion that is good until `expires_at` (Unix seconds).
    pub fn use_once(&self, client: &str, jti: &str, expires_at: u64, now: u64) -> Replay {
        let id = digest(client, jti);
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.forget(now);
        if used.minutes.values().any(|minute| minute.ids.contains(&id)) {
            return Replay::Seen;
        }
        let own = used.by_client.get(client).copied().unwrap_or(0);
        if used.total >= self.capacity || (used.total >= self.capacity / 2 && own >= self.share) {
            return Replay::Full;
        }
        used.add(client, id, expires_at);
        Replay::Fresh
    }
}

impl Used {
    fn forget(&mut self, now: u64) {
        while let Some(first) = self.minutes.first_entry() {
            if first.key().saturating_add(1).saturating_mul(60) > now {
                return;
            }
            for (client, count) in first.remove().by_client {
                self.total = self.total.saturating_sub(count);
                if let Entry::Occupied(mut all) = self.by_client.entry(client) {
                    *all.get_mut() = all.get().saturating_sub(count);
                    if *all.get() == 0 {
                        all.remove();
                    }
                }
            }
        }
    }

    fn add(&mut self, client: &str, id: u128, expires_at: u64) {
        let minute = self.minutes.entry(expires_at / 60).or_default();
        minute.ids.insert(id);
        self.total = self.total.saturating_add(1);
        for counts in [&mut minute.by_client, &mut self.by_client] {
            match counts.get_mut(client) {
                Some(count) => *count = count.saturating_add(1),
                None => {
                    counts.insert(client.to_owned(), 1);
                }
            }
        }
    }
}

/// Half a SHA-256: nobody finds two clients' assertions that collide. The NUL keeps the two texts
/// apart.
fn digest(client: &str, jti: &str) -> u128 {
    let mut context = Context::new(&SHA256);
    context.update(client.as_bytes());
    context.update(&[0]);
    context.update(jti.as_bytes());
    context
        .finish()
        .as_ref()
        .first_chunk()
        .map_or(0, |half| u128::from_le_bytes(*half))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assertion_is_good_once_until_it_expires() {
        let replays = Replays::new(2);
        assert_eq!(replays.use_once("a", "1", 1_090, 1_000), Replay::Fresh);
        assert_eq!(replays.use_once("a", "1", 1_090, 1_089), Replay::Seen);
        assert_eq!(
            replays.use_once("a", "1", 1_300, 1_089),
            Replay::Seen,
            "whatever expiry it says now"
        );
        assert_eq!(
            replays.use_once("b", "1", 1_090, 1_000),
            Replay::Fresh,
            "another client's"
        );
    }

    #[test]
    fn memory_is_bounded_and_comes_back() {
        let replays = Replays::with_capacity(2, 1);
        assert_eq!(replays.use_once("a", "1", 1_060, 1_000), Replay::Fresh);
        assert_eq!(replays.use_once("a", "2", 1_060, 1_000), Replay::Full);
        assert_eq!(replays.use_once("b", "2", 1_060, 1_000), Replay::Fresh);
        assert_eq!(replays.use_once("c", "3", 1_060, 1_000), Replay::Full);
        assert_eq!(replays.use_once("c", "3", 1_300, 1_080), Replay::Fresh);
        assert_eq!(replays.use_once("a", "2", 1_300, 1_080), Replay::Fresh);
    }

    #[test]
    fn greedy_client_leaves_every_other_its_share() {
        let replays = Replays::with_capacity(100, 5);
        let fill = |client: &str| {
            let fresh =
                |at: &u32| replays.use_once(client, &at.to_string(), 1_060, 1_000) == Replay::Fresh;
            (0..200).filter(fresh).count()
        };
        assert_eq!(fill("greedy"), 50, "half");
        for client in ["b", "c", "d", "e"] {
            assert_eq!(fill(client), 10, "{client}");
        }
        assert_eq!(fill("greedy"), 0);
        let used = replays.used.lock().unwrap();
        assert_eq!(
            (used.total, used.by_client.values().sum::<usize>()),
            (90, 90)
        );
    }
}
