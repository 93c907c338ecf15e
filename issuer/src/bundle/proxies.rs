//! Which proxy has what. A poll's `have` is the acknowledgement; sightings are kept here and written to the database in
//! batches, so that other replicas, and this one after a restart, know them too.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::clock::Clock;

/// Seconds after its last contact for which a proxy counts as live: its longest back-off (10 s) and some to spare.
pub const LIVE_S: u64 = 15;

/// Seconds after a start until every live proxy has reported again: as long as one that is silent counts as live.
pub const SETTLE_S: u64 = LIVE_S;

/// Seconds between sightings of a proxy that keeps waiting, as written to the database.
const SIGHTING_EVERY_S: u64 = 10;

/// Seconds by which the clocks of replicas may differ. Sightings are dated by the replica that writes them.
const CLOCK_SPREAD_S: u64 = 5;

/// Seconds after the last *written* sighting for which a proxy of another replica counts as live. Too long only delays.
const LIVE_ELSEWHERE_S: u64 = LIVE_S + SIGHTING_EVERY_S + 2 + CLOCK_SPREAD_S;

/// Most workers that are kept count of: ten times what one issuer is built to serve. The others are served too, and together
/// count as one that has confirmed nothing: nobody can say that every proxy has a key while some are not counted.
const MAX_WORKERS: usize = 100_000;

/// The node that the uncounted are shown as.
const UNCOUNTED: &str = "(more workers than are counted)";

/// What a worker has confirmed, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyRecord {
    /// 16 hexadecimal digits: one worker and trust store.
    pub worker: String,
    /// The proxy's node id.
    pub node: String,
    /// The version it has; 0 for none.
    pub version: u64,
    /// Last contact, Unix seconds.
    pub seen_at: u64,
}

struct Seen {
    node: Box<str>,
    version: u64,
    /// Steady seconds, as all times here.
    seen_at: u64,
    /// Polls being held right now.
    waiting: u32,
    saved_at: u64,
    changed: bool,
}

/// Live proxies at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// Their workers.
    pub proxies: Vec<ProxyRecord>,
    /// Whether the database could tell those of other replicas.
    pub all_known: bool,
}

impl Live {
    /// The version that all of them have; `u64::MAX` when there are none, 0 when some may be unknown.
    #[must_use]
    pub fn confirmed(&self) -> u64 {
        let least = self.proxies.iter().map(|proxy| proxy.version).min().unwrap_or(u64::MAX);
        if self.all_known { least } else { 0 }
    }

    /// Returns how many proxies state that they pin this bundle key, and how many state pins without it. The others speak a
    /// protocol that states none.
    #[must_use]
    pub fn pins(&self, _kid: &str) -> (usize, usize) {
        (0, 0)
    }

    /// How many have at least this version.
    #[must_use]
    pub fn holding(&self, version: u64) -> usize {
        self.proxies.iter().filter(|proxy| proxy.version >= version).count()
    }
}

/// The proxies that this replica has heard of.
pub struct Proxies {
    seen: Mutex<HashMap<u64, Seen>>,
    clock: Arc<dyn Clock>,
    moved: Notify,
    most: usize,
    /// Stands for the workers that are not counted; another one in each replica.
    uncounted: u64,
}

impl Proxies {
    /// None yet.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::of_at_most(MAX_WORKERS, clock)
    }

    fn of_at_most(most: usize, clock: Arc<dyn Clock>) -> Self {
        let mut random = [0; 8];
        // Without randomness replicas share one row, which says the same.
        let _shared = aws_lc_rs::rand::fill(&mut random);
        Self { seen: Mutex::default(), clock, moved: Notify::new(), most, uncounted: u64::from_le_bytes(random) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker polls and has this version. It counts as waiting until the guard is dropped.
    #[must_use]
    pub fn enter(self: &Arc<Self>, worker: u64, node: &str, version: u64) -> Presence {
        let now = self.clock.steady();
        let mut seen = self.lock();
        let counted = seen.len() < self.most || seen.contains_key(&worker);
        let (worker, node, version) = if counted { (worker, node, version) } else { (self.uncounted, UNCOUNTED, 0) };
        let entry = seen.entry(worker).or_insert_with(|| {
            if !counted {
                tracing::error!(
                    most = self.most,
                    "too many proxies to count: nothing counts as confirmed by all of them"
                );
            }
            Seen { node: node.into(), version, seen_at: now, waiting: 0, saved_at: 0, changed: true }
        });
        if &*entry.node != node {
            entry.node = node.into();
        }
        entry.changed |= entry.version != version || entry.saved_at == 0;
        entry.version = version;
        entry.seen_at = now;
        entry.waiting = entry.waiting.saturating_add(1);
        drop(seen);
        self.moved.notify_waiters();
        Presence { proxies: Arc::clone(self), worker }
    }

    /// Resolves when some proxy polls after this call.
    pub fn moved(&self) -> Notified<'_> {
        self.moved.notified()
    }

    fn leave(&self, worker: u64) {
        let now = self.clock.steady();
        if let Some(entry) = self.lock().get_mut(&worker) {
            entry.waiting = entry.waiting.saturating_sub(1);
            entry.seen_at = now;
        }
    }

    /// Takes what the database does not know yet, and forgets who has long gone.
    #[must_use]
    pub fn take_unsaved(&self) -> Vec<ProxyRecord> {
        let (now, date) = (self.clock.steady(), self.dates());
        let mut seen = self.lock();
        seen.retain(|_, entry| entry.changed || entry.waiting > 0 || now <= entry.seen_at.saturating_add(4 * LIVE_S));
        let mut unsaved = Vec::new();
        for (worker, entry) in seen.iter_mut() {
            let stale = entry.last_contact(now) >= entry.saved_at.saturating_add(SIGHTING_EVERY_S);
            if entry.changed || stale {
                entry.changed = false;
                entry.saved_at = now;
                unsaved.push(entry.record(*worker, now, &date));
            }
        }
        unsaved
    }

    /// Puts back what could not be written.
    pub fn not_saved(&self, records: &[ProxyRecord]) {
        let mut seen = self.lock();
        for record in records {
            if let Some(entry) = u64::from_str_radix(&record.worker, 16).ok().and_then(|worker| seen.get_mut(&worker)) {
                entry.changed = true;
            }
        }
    }

    /// Who is live, here and, by what the database says, elsewhere.
    #[must_use]
    pub fn live(&self, elsewhere: Option<&[ProxyRecord]>) -> Live {
        let (now, today, date) = (self.clock.steady(), self.clock.now(), self.dates());
        let seen = self.lock();
        let mut live: HashMap<u64, ProxyRecord> = HashMap::new();
        for record in elsewhere.unwrap_or_default() {
            if let Ok(worker) = u64::from_str_radix(&record.worker, 16)
                && today <= record.seen_at.saturating_add(LIVE_ELSEWHERE_S)
                && seen.get(&worker).is_none_or(|entry| date(entry.last_contact(now)) < record.seen_at)
            {
                live.insert(worker, record.clone());
            }
        }
        for (worker, entry) in seen.iter() {
            if now <= entry.last_contact(now).saturating_add(LIVE_S) && !live.contains_key(worker) {
                live.insert(*worker, entry.record(*worker, now, &date));
            }
        }
        drop(seen);
        let mut proxies: Vec<_> = live.into_values().collect();
        proxies.sort_by(|one, other| (&one.node, &one.worker).cmp(&(&other.node, &other.worker)));
        Live { proxies, all_known: elsewhere.is_some() }
    }

    /// From steady seconds to Unix seconds.
    fn dates(&self) -> impl Fn(u64) -> u64 {
        let (now, today) = (self.clock.steady(), self.clock.now());
        move |at| today.saturating_sub(now.saturating_sub(at))
    }

    /// Whether workers poll, or lately did, that are not counted.
    #[must_use]
    pub fn too_many(&self) -> bool {
        let now = self.clock.steady();
        self.lock().get(&self.uncounted).is_some_and(|entry| now <= entry.last_contact(now).saturating_add(LIVE_S))
    }

    /// How many polls are being held.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.lock().values().map(|entry| u64::from(entry.waiting)).sum()
    }

    /// The earliest sighting in the database that can still count as live.
    #[must_use]
    pub fn relevant_since(&self) -> u64 {
        self.clock.now().saturating_sub(LIVE_ELSEWHERE_S)
    }
}

impl Seen {
    fn last_contact(&self, now: u64) -> u64 {
        if self.waiting > 0 { now } else { self.seen_at }
    }

    fn record(&self, worker: u64, now: u64, date: &impl Fn(u64) -> u64) -> ProxyRecord {
        let (node, version, seen_at) = (self.node.to_string(), self.version, date(self.last_contact(now)));
        ProxyRecord { worker: format!("{worker:016x}"), node, version, seen_at }
    }
}

/// A poll being held.
pub struct Presence {
    proxies: Arc<Proxies>,
    worker: u64,
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.proxies.leave(self.worker);
    }
}

#[cfg(test)]
#[path = "proxies_tests.rs"]
mod tests;
