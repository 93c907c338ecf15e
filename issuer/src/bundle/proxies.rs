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

/// Seconds after the last *written* sighting for which a proxy of another replica counts as live.
const LIVE_ELSEWHERE_S: u64 = LIVE_S + SIGHTING_EVERY_S + 2;

/// Most workers that are kept count of: ten times what one issuer is built to serve. More are served uncounted.
const MAX_WORKERS: usize = 100_000;

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
    seen_at: u64,
    /// Polls being held right now.
    waiting: u32,
    saved_at: u64,
    changed: bool,
}

/// Live proxies at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Live(pub Vec<ProxyRecord>);

impl Live {
    /// The version that all of them have; `u64::MAX` when there are none.
    #[must_use]
    pub fn confirmed(&self) -> u64 {
        self.0.iter().map(|proxy| proxy.version).min().unwrap_or(u64::MAX)
    }

    /// How many have at least this version.
    #[must_use]
    pub fn holding(&self, version: u64) -> usize {
        self.0.iter().filter(|proxy| proxy.version >= version).count()
    }
}

/// The proxies that this replica has heard of.
pub struct Proxies {
    seen: Mutex<HashMap<u64, Seen>>,
    clock: Arc<dyn Clock>,
    moved: Notify,
}

impl Proxies {
    /// None yet.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { seen: Mutex::default(), clock, moved: Notify::new() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker polls and has this version. It counts as waiting until the guard is dropped.
    #[must_use]
    pub fn enter(self: &Arc<Self>, worker: u64, node: &str, version: u64) -> Option<Presence> {
        let now = self.clock.now();
        let mut seen = self.lock();
        if seen.len() >= MAX_WORKERS && !seen.contains_key(&worker) {
            return None;
        }
        let entry = seen.entry(worker).or_insert_with(|| Seen {
            node: node.into(),
            version,
            seen_at: now,
            waiting: 0,
            saved_at: 0,
            changed: true,
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
        Some(Presence { proxies: Arc::clone(self), worker })
    }

    /// Resolves when some proxy polls after this call.
    pub fn moved(&self) -> Notified<'_> {
        self.moved.notified()
    }

    fn leave(&self, worker: u64) {
        let now = self.clock.now();
        if let Some(entry) = self.lock().get_mut(&worker) {
            entry.waiting = entry.waiting.saturating_sub(1);
            entry.seen_at = now;
        }
    }

    /// Takes what the database does not know yet, and forgets who has long gone.
    #[must_use]
    pub fn take_unsaved(&self) -> Vec<ProxyRecord> {
        let now = self.clock.now();
        let mut seen = self.lock();
        seen.retain(|_, entry| entry.changed || entry.waiting > 0 || now <= entry.seen_at.saturating_add(4 * LIVE_S));
        let mut unsaved = Vec::new();
        for (worker, entry) in seen.iter_mut() {
            let stale = entry.last_contact(now) >= entry.saved_at.saturating_add(SIGHTING_EVERY_S);
            if entry.changed || stale {
                entry.changed = false;
                entry.saved_at = now;
                unsaved.push(entry.record(*worker, now));
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
    pub fn live(&self, elsewhere: Vec<ProxyRecord>) -> Live {
        let now = self.clock.now();
        let seen = self.lock();
        let mut live: HashMap<u64, ProxyRecord> = HashMap::new();
        for record in elsewhere {
            if let Ok(worker) = u64::from_str_radix(&record.worker, 16)
                && now <= record.seen_at.saturating_add(LIVE_ELSEWHERE_S)
                && seen.get(&worker).is_none_or(|entry| entry.last_contact(now) < record.seen_at)
            {
                live.insert(worker, record);
            }
        }
        for (worker, entry) in seen.iter() {
            if now <= entry.last_contact(now).saturating_add(LIVE_S) && !live.contains_key(worker) {
                live.insert(*worker, entry.record(*worker, now));
            }
        }
        drop(seen);
        let mut live: Vec<_> = live.into_values().collect();
        live.sort_by(|one, other| (&one.node, &one.worker).cmp(&(&other.node, &other.worker)));
        Live(live)
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

    fn record(&self, worker: u64, now: u64) -> ProxyRecord {
        let (node, version, seen_at) = (self.node.to_string(), self.version, self.last_contact(now));
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
mod tests {
    use super::*;
    use crate::clock::FixedClock;

    fn proxies() -> (Arc<FixedClock>, Arc<Proxies>) {
        let clock = Arc::new(FixedClock::at(1_000));
        (clock.clone(), Arc::new(Proxies::new(clock)))
    }

    #[test]
    fn a_waiting_proxy_is_live_and_one_that_left_is_until_its_back_off_is_over() {
        let (clock, proxies) = proxies();
        let poll = proxies.enter(1, "edge", 7);
        clock.advance(1_000);
        assert_eq!(proxies.live(Vec::new()).holding(7), 1, "however long it waits");
        drop(poll);
        clock.advance(LIVE_S);
        assert_eq!(proxies.live(Vec::new()).0.len(), 1);
        clock.advance(1);
        assert_eq!(proxies.live(Vec::new()), Live::default());
    }

    #[test]
    fn the_slowest_decides_what_is_confirmed() {
        let (_clock, proxies) = proxies();
        assert_eq!(proxies.live(Vec::new()).confirmed(), u64::MAX);
        let _one = proxies.enter(1, "edge", 7);
        let _two = proxies.enter(2, "edge", 9);
        let live = proxies.live(Vec::new());
        assert_eq!((live.confirmed(), live.holding(8), live.holding(7)), (7, 1, 2));
    }

    #[test]
    fn each_change_is_written_once_and_a_long_wait_now_and_then() {
        let (clock, proxies) = proxies();
        let poll = proxies.enter(0xabc, "edge", 7);
        let unsaved = proxies.take_unsaved();
        let expected =
            ProxyRecord { worker: "0000000000000abc".into(), node: "edge".into(), version: 7, seen_at: 1_000 };
        assert_eq!(unsaved, [expected]);
        assert_eq!(proxies.take_unsaved(), []);
        clock.advance(SIGHTING_EVERY_S);
        assert_eq!(proxies.take_unsaved().len(), 1);
        proxies.not_saved(&unsaved);
        assert_eq!(proxies.take_unsaved().len(), 1, "what failed is tried again");
        drop(poll);
        let _next = proxies.enter(0xabc, "edge", 8);
        assert_eq!(proxies.take_unsaved().first().map(|record| record.version), Some(8));
    }

    #[test]
    fn a_worker_that_moved_to_another_replica_is_counted_once() {
        let (clock, proxies) = proxies();
        drop(proxies.enter(1, "edge", 7));
        clock.advance(5);
        let elsewhere = ProxyRecord { worker: format!("{:016x}", 1), node: "edge".into(), version: 9, seen_at: 1_005 };
        let live = proxies.live(vec![elsewhere.clone()]);
        assert_eq!(live.0, std::slice::from_ref(&elsewhere));
        let _back = proxies.enter(1, "edge", 10);
        assert_eq!(proxies.live(vec![elsewhere]).confirmed(), 10);
    }
}
