//! Memory of the assertions used at this process. They are grouped by minute of expiry, so that a
//! whole minute is dropped at once. The database records the uses of all processes.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};

use crate::store::AssertionUse;

/// Largest number of remembered assertions, which take some 50 MB. With a lifetime of five minutes
/// this allows 6 000 assertions a second; with the usual minute, 30 000.
const CAPACITY: usize = 2_000_000;

/// Result of using an assertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// First use at this process.
    Fresh,
    /// Used before, or expired.
    Seen,
    /// The memory is full, so the assertion must be rejected.
    Full,
}

/// Assertions that were used and have not expired.
///
/// One client cannot use up the memory of the others: it may fill one half, and each client has a
/// guaranteed share of the other half.
#[derive(Debug)]
pub struct Replays {
    used: Mutex<Used>,
    capacity: usize,
    share: usize,
}

/// State guarded by the lock of [`Replays`].
#[derive(Debug, Default)]
struct Used {
    /// Assertions by minute of expiry.
    minutes: BTreeMap<u64, Minute>,
    total: usize,
    by_client: HashMap<String, usize>,
    /// Latest time (Unix seconds) by which assertions were forgotten.
    now: u64,
    /// Uses that the database has recorded, newest last.
    ///
    /// INVARIANT: each use expires before all older ones. So the last is the newest that has not
    /// expired.
    witnesses: Vec<AssertionUse>,
}

/// Assertions that expire within one minute.
#[derive(Debug, Default)]
struct Minute {
    ids: HashSet<u128>,
    by_client: HashMap<String, usize>,
}

impl Replays {
    /// Creates an empty memory for this number of clients.
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

    /// Marks an assertion of a client as used.
    pub fn use_once(&self, client: &str, one: &AssertionUse, now: u64) -> Replay {
        let mut used = self.lock();
        used.forget(now);
        // `used.now` never falls: a clock that went back must not make a forgotten assertion fresh.
        let is_over = one.expires_at <= used.now;
        if is_over
            || used
                .minutes
                .values()
                .any(|minute| minute.ids.contains(&one.id))
        {
            return Replay::Seen;
        }
        // In the second half each client is limited to its share.
        let own = used.by_client.get(client).copied().unwrap_or(0);
        if used.total >= self.capacity || (used.total >= self.capacity / 2 && own >= self.share) {
            return Replay::Full;
        }
        used.add(client, one.id, one.expires_at);
        Replay::Fresh
    }

    /// Marks these uses as recorded by the database.
    pub(super) fn recorded(&self, uses: &[AssertionUse]) {
        let mut used = self.lock();
        for one in uses {
            // An older use that expires first can never be the witness again.
            while used
                .witnesses
                .last()
                .is_some_and(|older| older.expires_at <= one.expires_at)
            {
                used.witnesses.pop();
            }
            used.witnesses.push(*one);
        }
    }

    /// Returns the witness: the most recently recorded use that has not expired. While the database
    /// holds it, it has lost no use of this process.
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

    /// Returns all uses that have not expired. The memory keeps only the minute of expiry, so each
    /// use gets the last second of its minute.
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
    /// Drops every minute that lies completely in the past.
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

    /// Adds an assertion and counts it for its client.
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

/// Returns the id of an assertion: the first half of a SHA-256 over client and `jti`. Finding two
/// assertions with the same id is infeasible.
pub(super) fn assertion_id(client: &str, jti: &str) -> u128 {
    // The NUL separates the texts: else client `a` with `jti` `bc` and client `ab` with `jti` `c`
    // would share an id.
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
    fn accepts_assertion_once() {
        let replays = Replays::new(2);
        assert_eq!(take(&replays, "a", "1", 1_090, 1_000), Replay::Fresh);
        assert_eq!(take(&replays, "a", "1", 1_090, 1_089), Replay::Seen);
        assert_eq!(
            take(&replays, "a", "1", 1_300, 1_089),
            Replay::Seen,
            "also with another expiry"
        );
        assert_eq!(
            take(&replays, "b", "1", 1_089, 1_000),
            Replay::Seen,
            "expired by the latest time"
        );
        assert_eq!(
            take(&replays, "b", "1", 1_100, 1_000),
            Replay::Fresh,
            "of another client"
        );
    }

    #[test]
    fn memory_is_bounded_and_reused() {
        let replays = Replays::with_capacity(2, 1);
        assert_eq!(take(&replays, "a", "1", 1_060, 1_000), Replay::Fresh);
        assert_eq!(take(&replays, "a", "2", 1_060, 1_000), Replay::Full);
        assert_eq!(take(&replays, "b", "2", 1_060, 1_000), Replay::Fresh);
        assert_eq!(take(&replays, "c", "3", 1_060, 1_000), Replay::Full);
        assert_eq!(take(&replays, "c", "3", 1_300, 1_080), Replay::Fresh);
        assert_eq!(take(&replays, "a", "2", 1_300, 1_080), Replay::Fresh);
    }

    #[test]
    fn greedy_client_leaves_shares_of_others() {
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
    fn witness_is_newest_unexpired_use() {
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
    fn lists_unexpired_uses() {
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
