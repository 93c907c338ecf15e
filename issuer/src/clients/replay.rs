//! Memory of the assertions that this process has seen used, by minute of expiry, so that
//! forgetting is dropping a whole minute. The database has those of all processes.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};

use crate::store::AssertionUse;

/// Most assertions remembered: some 50 MB. At five minutes each this is 6 000 a second; with the
/// usual minute, 30 000.
const CAPACITY: usize = 2_000_000;

/// What became of an assertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// First use at this process.
    Fresh,
    /// Used before, or expired.
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
    /// Latest time (Unix seconds) by which assertions were forgotten.
    now: u64,
    /// Uses that the database has recorded, newest last. Each expires before all that are older, so
    /// that the last is the newest of those that have not expired.
    witnesses: Vec<AssertionUse>,
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

    /// Uses an assertion of a client.
    pub fn use_once(&self, client: &str, one: &AssertionUse, now: u64) -> Replay {
        let mut used = self.lock();
        used.forget(now);
        // A time that went back by a moment must not revive what was forgotten.
        let is_over = one.expires_at <= used.now;
        if is_over
            || used
                .minutes
                .values()
                .any(|minute| minute.ids.contains(&one.id))
        {
            return Replay::Seen;
        }
        let own = used.by_client.get(client).copied().unwrap_or(0);
        if used.total >= self.capacity || (used.total >= self.capacity / 2 && own >= self.share) {
            return Replay::Full;
        }
        used.add(client, one.id, one.expires_at);
        Replay::Fresh
    }

    /// Notes that the database has recorded these uses.
    pub(super) fn recorded(&self, uses: &[AssertionUse]) {
        let mut used = self.lock();
        for one in uses {
            let expires_first = |older: &AssertionUse| older.expires_at <= one.expires_at;
            while used.witnesses.last().is_some_and(expires_first) {
                used.witnesses.pop();
            }
            used.witnesses.push(*one);
        }
    }

    /// Returns the use that was recorded last of those that have not expired. While the database
    /// holds it, it has lost none.
    pub(super) fn witness(&self, now: u64) -> Option<u128> {
        let mut used = self.lock();
        while used
            .witnesses
            .last()
            .is_some_and(|last| last.expires_at <= now)
        {
            used.witnesses.pop();
        }
        used.witnesses.last().map(|last| last.id)
    }

    /// Returns all that have not expired, each with the last second of its minute of expiry.
    pub(super) fn unexpired(&self, now: u64) -> Vec<AssertionUse> {
        let mut used = self.lock();
        used.forget(now);
        let mut all = Vec::with_capacity(used.total);
        for (minute, held) in &used.minutes {
            let expires_at = minute.saturating_mul(60).saturating_add(59);
            all.extend(held.ids.iter().map(|id| AssertionUse {
                id: *id,
                expires_at,
            }));
        }
        all
    }

    fn lock(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Used {
    fn forget(&mut self, now: u64) {
        self.now = self.now.max(now);
        while let Some(first) = self.minutes.first_entry() {
            if first.key().saturating_add(1).saturating_mul(60) > self.now {
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

/// Identifies an assertion by half a SHA-256, since no two clients' assertions with one value can be
/// found. The NUL keeps the two texts apart.
pub(super) fn assertion_id(client: &str, jti: &str) -> u128 {
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

    fn take(replays: &Replays, client: &str, jti: &str, expires_at: u64, now: u64) -> Replay {
        let id = assertion_id(client, jti);
        replays.use_once(client, &AssertionUse { id, expires_at }, now)
    }

    #[test]
    fn an_assertion_is_good_once_until_it_expires() {
        let replays = Replays::new(2);
        assert_eq!(take(&replays, "a", "1", 1_090, 1_000), Replay::Fresh);
        assert_eq!(take(&replays, "a", "1", 1_090, 1_089), Replay::Seen);
        assert_eq!(
            take(&replays, "a", "1", 1_300, 1_089),
            Replay::Seen,
            "whatever expiry it says now"
        );
        assert_eq!(
            take(&replays, "b", "1", 1_089, 1_000),
            Replay::Seen,
            "by the latest time it has expired"
        );
        assert_eq!(
            take(&replays, "b", "1", 1_100, 1_000),
            Replay::Fresh,
            "another client's"
        );
    }

    #[test]
    fn memory_is_bounded_and_comes_back() {
        let replays = Replays::with_capacity(2, 1);
        assert_eq!(take(&replays, "a", "1", 1_060, 1_000), Replay::Fresh);
        assert_eq!(take(&replays, "a", "2", 1_060, 1_000), Replay::Full);
        assert_eq!(take(&replays, "b", "2", 1_060, 1_000), Replay::Fresh);
        assert_eq!(take(&replays, "c", "3", 1_060, 1_000), Replay::Full);
        assert_eq!(take(&replays, "c", "3", 1_300, 1_080), Replay::Fresh);
        assert_eq!(take(&replays, "a", "2", 1_300, 1_080), Replay::Fresh);
    }

    #[test]
    fn greedy_client_leaves_every_other_its_share() {
        let replays = Replays::with_capacity(100, 5);
        let fill = |client: &str| {
            let fresh =
                |at: &u32| take(&replays, client, &at.to_string(), 1_060, 1_000) == Replay::Fresh;
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

    #[test]
    fn witness_is_newest_that_has_not_expired() {
        let replays = Replays::new(1);
        assert_eq!(replays.witness(1_000), None);
        let uses = [(1, 1_300), (2, 1_100), (3, 1_200), (4, 1_060)];
        replays.recorded(&uses.map(|(id, expires_at)| AssertionUse { id, expires_at }));
        for (now, witness) in [(1_000, Some(4)), (1_060, Some(3)), (1_200, Some(1))] {
            assert_eq!(replays.witness(now), witness, "{now}");
        }
        assert_eq!(replays.witness(1_300), None);
    }

    #[test]
    fn lists_what_has_not_expired() {
        let replays = Replays::new(1);
        take(&replays, "a", "1", 1_030, 1_000);
        take(&replays, "a", "2", 1_090, 1_000);
        let one = AssertionUse {
            id: assertion_id("a", "2"),
            expires_at: 1_139,
        };
        assert_eq!(replays.unexpired(1_080), [one]);
    }
}
