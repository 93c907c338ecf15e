//! Workers of proxies, what each has proved to hold, and until when it may act on it (ADR 23).
//! Every worker is recorded in the database before it is given a bundle, so that other replicas,
//! and this one after a restart, know it too.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use meshseal_core::bundle::StalenessBound;
use tokio::sync::futures::Notified;
use tokio::sync::{Mutex as AsyncMutex, Notify, watch};

use super::book::Book;
use super::worker::{ProxyRecord, Validity, Worker};
use crate::clock::Clock;
use crate::store::{Store, StoreError};

/// Seconds after its last contact for which a proxy counts as reachable: its longest back-off (10
/// s) and some to spare.
pub const LIVE_S: u64 = 15;

/// Seconds after a start until every reachable proxy has reported again.
pub const SETTLE_S: u64 = LIVE_S;

/// Seconds between sightings of a proxy that keeps waiting, as written to the database.
const SIGHTING_EVERY_S: u64 = 10;

/// Seconds by which the clocks of replicas may differ. Sightings are dated by the replica that
/// writes them.
const CLOCK_SPREAD_S: u64 = 5;

/// Seconds after the last *written* sighting for which a proxy of another replica counts as
/// reachable. Too long only delays.
pub(super) const LIVE_ELSEWHERE_S: u64 = LIVE_S + SIGHTING_EVERY_S + 2 + CLOCK_SPREAD_S;

/// Most workers that are kept count of: ten times what one issuer is built to serve. The others are
/// served too, and together count as one that has confirmed nothing.
const MAX_WORKERS: usize = 100_000;

/// Most rows with nothing but a newer version that are written at a time.
const MAX_CONFIRMATIONS_SAVED: usize = 500;

/// The node that the uncounted are shown as.
const UNCOUNTED: &str = "(more workers than are counted)";

/// One poll, as it counts.
#[derive(Clone, Copy, Debug)]
pub struct Contact<'a> {
    /// The worker.
    pub worker: u64,
    /// The proxy's node id.
    pub node: &'a str,
    /// The version it holds; 0 for none, or for one that it did not prove.
    pub version: u64,
    /// Whether it proved that version.
    pub proven: bool,
    /// Poll protocol that it speaks.
    pub protocol: u32,
    /// Longest time for which its rules go on by one bundle.
    pub staleness: StalenessBound,
    /// Ids of the bundle keys that it pins, separated by commas.
    pub pins: &'a str,
}

/// A worker that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// The worker.
    pub record: ProxyRecord,
    /// Whether it polls, or did so lately.
    pub reachable: bool,
}

/// Workers that count and lack a version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Behind {
    /// How many of them poll, or did so lately.
    pub(crate) pending: usize,
    /// How many do not.
    pub(crate) unreachable: usize,
    /// By node.
    pub(crate) named: Vec<Counted>,
}

/// The workers that count at a moment: those that poll, and those that may still act on a bundle
/// that they were given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// The workers.
    pub proxies: Vec<Counted>,
    /// Whether the database could tell those of other replicas.
    pub all_known: bool,
}

impl Live {
    /// The version that all of them have; `u64::MAX` when there are none, 0 when some may be
    /// unknown.
    #[must_use]
    pub fn confirmed(&self) -> u64 {
        let least = self
            .proxies
            .iter()
            .map(|proxy| proxy.record.version)
            .min()
            .unwrap_or(u64::MAX);
        if self.all_known { least } else { 0 }
    }

    /// Returns how many proxies state that they pin this bundle key, and how many state pins
    /// without it. The others speak a protocol that states none.
    #[must_use]
    pub fn pins(&self, kid: &str) -> (usize, usize) {
        let stated = self
            .proxies
            .iter()
            .map(|proxy| &proxy.record.pins)
            .filter(|pins| !pins.is_empty());
        let with = stated
            .clone()
            .filter(|pins| pins.split(',').any(|pin| pin == kid))
            .count();
        (with, stated.count().saturating_sub(with))
    }

    /// How many have at least this version.
    #[must_use]
    pub fn holding(&self, version: u64) -> usize {
        self.proxies
            .iter()
            .filter(|proxy| proxy.record.version >= version)
            .count()
    }
}

/// The proxies that this replica has heard of.
pub struct Proxies {
    book: Mutex<Book>,
    clock: Arc<dyn Clock>,
    moved: Notify,
    /// The lowest version of all.
    floor: watch::Sender<u64>,
    saving: AsyncMutex<()>,
    /// Name of this replica.
    replica: String,
    not_after_s: u64,
    most: usize,
    /// Stands for the workers that are not counted; another one in each replica.
    uncounted: u64,
}

impl Proxies {
    /// None yet. `not_after_s` is how long a bundle may be used after its issue.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, replica: String, not_after_s: u64) -> Self {
        Self::of_at_most(MAX_WORKERS, clock, replica, not_after_s)
    }

    fn of_at_most(most: usize, clock: Arc<dyn Clock>, replica: String, not_after_s: u64) -> Self {
        let mut random = [0; 8];
        // Without randomness replicas share one row, which says the same.
        let _shared = aws_lc_rs::rand::fill(&mut random);
        Self {
            book: Mutex::default(),
            clock,
            moved: Notify::new(),
            floor: watch::Sender::new(u64::MAX),
            saving: AsyncMutex::default(),
            replica,
            not_after_s,
            most,
            uncounted: u64::from_le_bytes(random),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells who waits for the lowest version. Called before the book is unlocked, so that the last
    /// word is the newest.
    fn tell_floor(&self, book: &Book) {
        let floor = book.floor();
        self.floor
            .send_if_modified(|known| std::mem::replace(known, floor) != floor);
    }

    /// Notes a poll. The worker counts as waiting until the guard is dropped. What a worker holds
    /// never falls (V17), so a poll that proves less than an earlier one changes nothing.
    #[must_use]
    pub fn enter(self: &Arc<Self>, contact: &Contact<'_>) -> Presence {
        let now = self.clock.read();
        let mut book = self.lock();
        let known = book.workers.contains_key(&contact.worker);
        let counted = known || book.workers.len() < self.most;
        if !counted && !book.workers.contains_key(&self.uncounted) {
            tracing::error!(
                most = self.most,
                "too many proxies to count: nothing counts as confirmed by all of them"
            );
        }
        let uncounted = Contact {
            worker: self.uncounted,
            node: UNCOUNTED,
            version: 0,
            ..*contact
        };
        let contact = if counted { contact } else { &uncounted };
        book.change(contact.worker, |worker| worker.note(contact, now));
        self.tell_floor(&book);
        drop(book);
        self.moved.notify_waiters();
        Presence {
            proxies: Arc::clone(self),
            worker: contact.worker,
        }
    }

    /// Resolves when some proxy polls after this call.
    pub fn moved(&self) -> Notified<'_> {
        self.moved.notified()
    }

    /// The lowest version that a worker holds, now and whenever it changes; `u64::MAX` without
    /// workers.
    pub(crate) fn floor_changes(&self) -> watch::Receiver<u64> {
        self.floor.subscribe()
    }

    /// The lowest version that a worker holds; `u64::MAX` without workers. Costs the same with ten
    /// and ten thousand of them.
    #[must_use]
    pub fn floor(&self) -> u64 {
        let now = self.clock.read();
        let mut book = self.lock();
        book.sweep(now);
        self.tell_floor(&book);
        book.floor()
    }

    /// Takes over rows of the database. A row of a worker that was declared gone removes that
    /// worker, unless it was seen later.
    pub fn learn(&self, records: &[ProxyRecord]) {
        let now = self.clock.read();
        let mut book = self.lock();
        for record in records {
            let Some(id) = record.id() else { continue };
            if record.accepts_until > 0 {
                book.change(id, |worker| worker.learn(record, now));
            } else if book.workers.get(&id).is_some_and(|worker| {
                worker.waiting == 0 && worker.last_seen(now) <= record.seen_at
            }) {
                book.remove(id);
            }
        }
        book.swept_at = None;
        book.sweep(now);
        self.tell_floor(&book);
    }

    /// Records a worker, so that it may be given a bundle with these times. Returns whether it was
    /// not recorded before: then the replica must look at the newest state before it answers,
    /// because another replica that does not see the record yet may call a receipt complete.
    ///
    /// # Errors
    /// [`StoreError`]; the worker must not be given a bundle.
    pub async fn record(
        &self,
        worker: u64,
        validity: Validity,
        store: &dyn Store,
    ) -> Result<bool, StoreError> {
        if self.is_recorded(worker, validity) {
            return Ok(false);
        }
        let turn = self.saving.lock().await;
        if !self.is_recorded(worker, validity) {
            self.save_in_turn(store).await?;
        }
        drop(turn);
        Ok(true)
    }

    fn is_recorded(&self, worker: u64, validity: Validity) -> bool {
        self.lock()
            .workers
            .get(&worker)
            .is_some_and(|worker| !worker.needs_record(validity))
    }

    /// Writes what the database does not know yet.
    ///
    /// # Errors
    /// [`StoreError`]; what was not written is tried again next time.
    pub async fn save(&self, store: &dyn Store) -> Result<(), StoreError> {
        let _turn = self.saving.lock().await;
        self.save_in_turn(store).await
    }

    async fn save_in_turn(&self, store: &dyn Store) -> Result<(), StoreError> {
        self.relearn_unsure(store).await?;
        let unsaved = self.take_unsaved();
        if unsaved.is_empty() {
            return Ok(());
        }
        let written = store.save_proxies(&self.replica, &unsaved).await;
        let (others, now) = (written?, self.clock.read());
        let mut book = self.lock();
        for record in &unsaved {
            if let Some(worker) = record.id().and_then(|id| book.workers.get_mut(&id)) {
                worker.saved(record);
            }
        }
        for record in &others {
            if let Some(id) = record.id().filter(|id| book.workers.contains_key(id)) {
                book.change(id, |worker| worker.learn(record, now));
            }
        }
        self.tell_floor(&book);
        Ok(())
    }

    /// Reads records of workers that were sent and not answered. The database may hold them as
    /// ours, with what another replica gave the worker.
    async fn relearn_unsure(&self, store: &dyn Store) -> Result<(), StoreError> {
        if !self
            .lock()
            .workers
            .values()
            .any(|worker| worker.is_record_unsure)
        {
            return Ok(());
        }
        let records = store.proxies("").await?;
        let now = self.clock.read();
        let mut book = self.lock();
        for record in &records {
            let is_unsure = |id: &u64| {
                book.workers
                    .get(id)
                    .is_some_and(|worker| worker.is_record_unsure)
            };
            if let Some(id) = record.id().filter(is_unsure) {
                book.change(id, |worker| worker.learn(record, now));
            }
        }
        Ok(())
    }

    /// Takes what the database does not know yet, and drops those that count no more. Of rows with
    /// nothing but a newer version, those written longest ago come first, a limited number at a
    /// time.
    fn take_unsaved(&self) -> Vec<ProxyRecord> {
        let now = self.clock.read();
        let mut book = self.lock();
        book.sweep(now);
        self.tell_floor(&book);
        let (mut urgent, mut confirmations) = (Vec::new(), Vec::new());
        for (id, worker) in &book.workers {
            if worker.must_be_saved(now, self.not_after_s, SIGHTING_EVERY_S) {
                urgent.push(*id);
            } else if worker.changed {
                confirmations.push((worker.saved_at, *id));
            }
        }
        if confirmations.len() > MAX_CONFIRMATIONS_SAVED {
            confirmations.sort_unstable();
            confirmations.truncate(MAX_CONFIRMATIONS_SAVED);
        }
        let mut unsaved = Vec::new();
        for id in urgent
            .into_iter()
            .chain(confirmations.into_iter().map(|(_, id)| id))
        {
            if let Some(worker) = book.workers.get_mut(&id) {
                worker.being_saved();
                worker.saved_at = Some(now.steady_ms / 1000);
                unsaved.push(worker.to_save(id, now, self.not_after_s));
            }
        }
        unsaved
    }

    /// The workers that count.
    #[must_use]
    pub fn live(&self, all_known: bool) -> Live {
        Live {
            proxies: self.below(u64::MAX),
            all_known,
        }
    }

    /// The workers that count and hold less than a version, by node.
    #[must_use]
    pub fn below(&self, version: u64) -> Vec<Counted> {
        self.behind(version, usize::MAX).named
    }

    /// Those that count and hold less than a version. Every one that does not poll is named, and
    /// `most` of the others.
    #[must_use]
    pub(crate) fn behind(&self, version: u64, most: usize) -> Behind {
        let now = self.clock.read();
        let mut book = self.lock();
        book.sweep(now);
        self.tell_floor(&book);
        let unreachable = book.unreachable(version, now);
        let pending = book.count_below(version).saturating_sub(unreachable.len());
        let counted = |id: u64| {
            let worker = book.workers.get(&id)?;
            Some(Counted {
                record: worker.record(id, now),
                reachable: worker.is_reachable(now),
            })
        };
        let polling = book
            .below(version)
            .filter(|id| !unreachable.contains(id))
            .take(most);
        let mut named: Vec<Counted> = unreachable
            .iter()
            .copied()
            .chain(polling)
            .filter_map(counted)
            .collect();
        let unreachable = unreachable.len();
        drop(book);
        named.sort_by(|one, other| {
            (&one.record.node, &one.record.worker).cmp(&(&other.record.node, &other.record.worker))
        });
        Behind {
            pending,
            unreachable,
            named,
        }
    }

    /// How many workers count.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().workers.len()
    }

    /// Drops workers that an operator declared gone.
    pub(crate) fn drop_gone(&self, workers: &[String]) {
        let mut book = self.lock();
        for id in workers
            .iter()
            .filter_map(|worker| u64::from_str_radix(worker, 16).ok())
        {
            // One that polls again is not gone.
            if book
                .workers
                .get(&id)
                .is_some_and(|worker| worker.waiting == 0)
            {
                book.remove(id);
            }
        }
        self.tell_floor(&book);
    }

    /// Whether workers poll, or may act on what they were given, that are not counted.
    #[must_use]
    pub fn too_many(&self) -> bool {
        let now = self.clock.read();
        self.lock()
            .workers
            .get(&self.uncounted)
            .is_some_and(|worker| worker.counts(now))
    }

    /// Returns whether some worker goes on by an old bundle without limit.
    #[must_use]
    pub fn has_unbounded(&self) -> bool {
        self.lock().workers.values().any(Worker::is_unbounded)
    }

    /// How many polls are being held.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.lock()
            .workers
            .values()
            .map(|worker| u64::from(worker.waiting))
            .sum()
    }

    /// Name of this replica.
    #[must_use]
    pub fn replica(&self) -> &str {
        &self.replica
    }
}

/// A poll being held.
pub struct Presence {
    proxies: Arc<Proxies>,
    worker: u64,
}

impl Presence {
    /// The worker that polls.
    #[must_use]
    pub const fn worker(&self) -> u64 {
        self.worker
    }

    /// Notes that the worker is given a bundle. To be called before the answer leaves.
    pub fn gave(&self, validity: Validity) {
        let now = self.proxies.clock.read();
        if let Some(worker) = self.proxies.lock().workers.get_mut(&self.worker) {
            worker.gave(validity, now);
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let now = self.proxies.clock.read();
        self.proxies.lock().leave(self.worker, now);
    }
}

#[cfg(test)]
#[path = "proxies_tests.rs"]
mod tests;
