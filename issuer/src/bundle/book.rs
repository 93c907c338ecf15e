//! Index of a replica's workers by id, by version and by reachability.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::worker::Worker;
use crate::clock::Time;

/// Workers by id. Receipts ask how many workers lack a version, and which of those do not poll. The
/// additional orders keep the cost of both questions independent of the number of workers.
#[derive(Default)]
pub(super) struct Book {
    pub(super) workers: HashMap<u64, Worker>,
    /// Version and id of each worker.
    by_version: BTreeSet<(u64, u64)>,
    /// Number of workers at each version.
    levels: BTreeMap<u64, usize>,
    /// Ids of workers without a held poll. All other workers are reachable.
    silent: BTreeSet<u64>,
    /// Steady second of the last sweep.
    pub(super) swept_at: Option<u64>,
}

impl Book {
    /// Changes a worker, which is created if it is unknown, and updates the orders.
    pub(super) fn change<T>(&mut self, id: u64, change: impl FnOnce(&mut Worker) -> T) -> T {
        let worker = self.workers.entry(id).or_default();
        let before = worker.version;
        let result = change(worker);
        // INVARIANT: `by_version`, `levels` and `silent` agree with `workers` after every change.
        let (version, is_silent) = (worker.version, worker.waiting == 0);
        if version != before {
            self.forget_version(before, id);
        }
        if self.by_version.insert((version, id)) {
            *self.levels.entry(version).or_default() += 1;
        }
        self.note_silence(id, is_silent);
        result
    }

    /// Records the end of a poll.
    pub(super) fn leave(&mut self, id: u64, now: Time) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        worker.leave(now);
        let is_silent = worker.waiting == 0;
        self.note_silence(id, is_silent);
    }

    fn note_silence(&mut self, id: u64, is_silent: bool) {
        if is_silent {
            self.silent.insert(id);
        } else {
            self.silent.remove(&id);
        }
    }

    fn forget_version(&mut self, version: u64, id: u64) {
        if !self.by_version.remove(&(version, id)) {
            return;
        }
        if let Some(count) = self.levels.get_mut(&version) {
            *count -= 1;
            if *count == 0 {
                self.levels.remove(&version);
            }
        }
    }

    pub(super) fn remove(&mut self, id: u64) {
        if let Some(worker) = self.workers.remove(&id) {
            self.forget_version(worker.version, id);
            self.silent.remove(&id);
        }
    }

    /// Drops the workers that no longer count, at most once a second.
    pub(super) fn sweep(&mut self, now: Time) {
        let second = now.steady_ms / 1000;
        if self.swept_at == Some(second) {
            return;
        }
        self.swept_at = Some(second);
        // Collected first, since `remove` changes the map.
        let gone: Vec<u64> = self
            .workers
            .iter()
            .filter(|(_, worker)| !worker.counts(now))
            .map(|(id, _)| *id)
            .collect();
        gone.into_iter().for_each(|id| self.remove(id));
    }

    /// Returns the lowest version that a worker holds; `u64::MAX` without workers.
    pub(super) fn floor(&self) -> u64 {
        self.levels
            .first_key_value()
            .map_or(u64::MAX, |(version, _)| *version)
    }

    /// Returns the number of workers below a version.
    pub(super) fn count_below(&self, version: u64) -> usize {
        self.levels.range(..version).map(|(_, count)| count).sum()
    }

    /// Returns the ids of the workers below a version, lowest version first.
    pub(super) fn below(&self, version: u64) -> impl Iterator<Item = u64> + '_ {
        self.by_version.range(..(version, 0)).map(|(_, id)| *id)
    }

    /// Returns the ids of the workers that are below a version and unreachable.
    pub(super) fn unreachable(&self, version: u64, now: Time) -> BTreeSet<u64> {
        self.silent
            .iter()
            .filter(|id| {
                // A worker between two polls is silent but still reachable.
                self.workers
                    .get(id)
                    .is_some_and(|worker| worker.version < version && !worker.is_reachable(now))
            })
            .copied()
            .collect()
    }
}
