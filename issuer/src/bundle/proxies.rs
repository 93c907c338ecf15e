//! Registry of workers: the version that each has confirmed, and the time until which it may accept
//! tokens by an older bundle (ADR 23). Every worker is recorded in the database before it is given
//! a bundle. Other replicas then know the worker, and so does this replica after a restart.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use meshseal_core::bundle::StalenessBound;
use tokio::sync::futures::Notified;
use tokio::sync::{Mutex as AsyncMutex, Notify, watch};

use super::book::Book;
use super::live::{Behind, Counted, Live};
use super::worker::{ProxyRecord, Validity, Worker};
use crate::clock::Clock;
use crate::store::{Store, StoreError};

/// Seconds after its last contact for which a proxy counts as reachable: its longest back-off (10
/// s) and a margin.
pub const LIVE_S: u64 = 15;

/// Seconds after a start until every reachable proxy has polled again.
pub const SETTLE_S: u64 = LIVE_S;

/// Seconds between two database writes about a proxy whose poll is held without a change.
const SIGHTING_EVERY_S: u64 = 10;

/// Seconds by which the clocks of replicas may differ. The replica that writes a record dates it.
const CLOCK_SPREAD_S: u64 = 5;

/// Seconds after the last *written* contact for which a proxy of another replica counts as
/// reachable. A value that is too long only delays the state `unreachable`.
pub(super) const LIVE_ELSEWHERE_S: u64 = LIVE_S + SIGHTING_EVERY_S + 2 + CLOCK_SPREAD_S;

/// Largest number of workers that are counted one by one: ten times the number that one issuer is
/// designed for. Further workers are served, too, and count together as one worker that has
/// confirmed nothing.
const MAX_WORKERS: usize = 100_000;

/// Largest number of rows with only a newer version that one transaction writes.
const MAX_CONFIRMATIONS_SAVED: usize = 500;

/// Node name shown for the workers beyond [`MAX_WORKERS`].
const UNCOUNTED: &str = "(more workers than are counted)";

/// A poll, as the registry records it.
#[derive(Clone, Copy, Debug)]
pub struct Contact<'a> {
    /// Id of the worker.
    pub worker: u64,
    /// Node id of the proxy.
    pub node: &'a str,
    /// Version that counts as held; 0 if the worker holds none or proved none.
    pub version: u64,
    /// True if the poll proves that version.
    pub proven: bool,
    /// Poll protocol of the worker.
    pub protocol: u32,
    /// Longest time for which the worker's rules accept tokens by one bundle.
    pub staleness: StalenessBound,
    /// Ids of the bundle keys that the worker pins, separated by commas.
    pub pins: &'a str,
}

/// Registry of the workers that this replica knows.
pub struct Proxies {
    book: Mutex<Book>,
    clock: Arc<dyn Clock>,
    moved: Notify,
    /// Lowest version that a worker holds.
    floor: watch::Sender<u64>,
    /// Held while records are written to the database.
    saving: AsyncMutex<()>,
    /// Name of this replica.
    replica: String,
    not_after_s: u64,
    most: usize,
    /// Worker id that stands for the workers beyond `most`; random, so that replicas differ.
    uncounted: u64,
}

impl Proxies {
    /// Creates an empty registry. `not_after_s` is the time in seconds from the issue of a bundle
    /// to its not-after.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, replica: String, not_after_s: u64) -> Self {
        Self::of_at_most(MAX_WORKERS, clock, replica, not_after_s)
    }

    fn of_at_most(most: usize, clock: Arc<dyn Clock>, replica: String, not_after_s: u64) -> Self {
        let mut random = [0; 8];
        // Without random bytes all replicas share one row, which has the same effect.
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

    /// Notifies the subscribers of the lowest version.
    ///
    /// INVARIANT: called before the book is unlocked, so that the last value sent is the newest.
    fn tell_floor(&self, book: &Book) {
        let floor = book.floor();
        self.floor
            .send_if_modified(|known| std::mem::replace(known, floor) != floor);
    }

    /// Records a poll. The worker counts as waiting until the guard is dropped. The version that a
    /// worker holds never falls (V17), so a poll that proves a lower version changes nothing.
    #[must_use]
    pub fn enter(self: &Arc<Self>, contact: &Contact<'_>) -> Presence {
        let now = self.clock.read();
        let mut book = self.lock();
        let known = book.workers.contains_key(&contact.worker);
        let counted = known || book.workers.len() < self.most;
        // Logged once: the stand-in exists from then on.
        if !counted && !book.workers.contains_key(&self.uncounted) {
            tracing::error!(
                most = self.most,
                "too many proxies to count: no version counts as confirmed by all of them"
            );
        }
        // A further worker is recorded as a poll of the stand-in, which has confirmed nothing.
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

    /// Returns a future that resolves when a proxy polls after this call.
    pub fn moved(&self) -> Notified<'_> {
        self.moved.notified()
    }

    /// Subscribes to the lowest version that a worker holds; `u64::MAX` without workers.
    pub(crate) fn floor_changes(&self) -> watch::Receiver<u64> {
        self.floor.subscribe()
    }

    /// Returns the lowest version that a worker holds; `u64::MAX` without workers. The cost does
    /// not depend on the number of workers.
    #[must_use]
    pub fn floor(&self) -> u64 {
        let now = self.clock.read();
        let mut book = self.lock();
        book.sweep(now);
        self.tell_floor(&book);
        book.floor()
    }

    /// Merges worker records from the database. The record of a worker that was declared gone
    /// removes the worker, unless the worker polled later.
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
        // The records may hold expired workers, which must not lower the floor.
        book.swept_at = None;
        book.sweep(now);
        self.tell_floor(&book);
    }

    /// Writes the record that a worker needs before it is given a bundle with these times. Returns
    /// whether the record is new. Then the replica must refresh its state before it answers:
    /// another replica, which did not see the record yet, may have called a receipt complete.
    ///
    /// # Errors
    /// [`StoreError`]; then the worker must not be given a bundle.
    pub async fn record(
        &self,
        worker: u64,
        validity: Validity,
        store: &dyn Store,
    ) -> Result<bool, StoreError> {
        if self.is_recorded(worker, validity) {
            return Ok(false);
        }
        // The previous holder of the lock may have written this record, too.
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

    /// Writes all records that are due.
    ///
    /// # Errors
    /// [`StoreError`]; the next call writes the same records again.
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
        // Records of this replica, which the database now has.
        for record in &unsaved {
            if let Some(worker) = record.id().and_then(|id| book.workers.get_mut(&id)) {
                worker.saved(record);
            }
        }
        // Records of the same workers that another replica had written.
        for record in &others {
            if let Some(id) = record.id().filter(|id| book.workers.contains_key(id)) {
                book.change(id, |worker| worker.learn(record, now));
            }
        }
        self.tell_floor(&book);
        Ok(())
    }

    /// Reads the records whose write was sent and not answered. The database may hold such a record
    /// as one of this replica, although it includes a bundle that another replica gave out.
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
            let Some(id) = record.id() else { continue };
            if book
                .workers
                .get(&id)
                .is_some_and(|worker| worker.is_record_unsure)
            {
                book.change(id, |worker| worker.learn(record, now));
            }
        }
        Ok(())
    }

    /// Returns the records that are due, and drops workers that no longer count. The number of
    /// records with only a newer version is limited; those written longest ago come first.
    fn take_unsaved(&self) -> Vec<ProxyRecord> {
        let now = self.clock.read();
        let mut book = self.lock();
        book.sweep(now);
        self.tell_floor(&book);
        // Receipts and restarts depend on urgent records; a confirmation may be written later.
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
        // Mark the records as sent before the lock is released.
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

    /// Returns all workers that count.
    #[must_use]
    pub fn live(&self, all_known: bool) -> Live {
        Live {
            proxies: self.below(u64::MAX),
            all_known,
        }
    }

    /// Returns the workers that count and are below a version, in the order of their nodes.
    #[must_use]
    pub fn below(&self, version: u64) -> Vec<Counted> {
        self.behind(version, usize::MAX).named
    }

    /// Returns the workers that count and are below a version. Every unreachable worker is named,
    /// and at most `most` of the pending ones.
    #[must_use]
    pub(crate) fn behind(&self, version: u64, most: usize) -> Behind {
        let now = self.clock.read();
        let mut book = self.lock();
        book.sweep(now);
        self.tell_floor(&book);
        // Count first, then name: the counts do not depend on `most`.
        let unreachable = book.unreachable(version, now);
        let pending = book.count_below(version).saturating_sub(unreachable.len());
        let polling = book
            .below(version)
            .filter(|id| !unreachable.contains(id))
            .take(most);
        let mut named: Vec<Counted> = unreachable
            .iter()
            .copied()
            .chain(polling)
            .filter_map(|id| {
                let worker = book.workers.get(&id)?;
                Some(Counted {
                    record: worker.record(id, now),
                    reachable: worker.is_reachable(now),
                })
            })
            .collect();
        let unreachable = unreachable.len();
        // Sorting may take long, so the lock is released first.
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

    /// Returns the number of known workers.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().workers.len()
    }

    /// Drops workers that an operator declared gone, unless they poll at this moment.
    pub(crate) fn drop_gone(&self, workers: &[String]) {
        let mut book = self.lock();
        for id in workers
            .iter()
            .filter_map(|worker| u64::from_str_radix(worker, 16).ok())
        {
            // A worker with a held poll is not gone.
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

    /// Returns whether workers beyond the limit poll, or may still act on their bundles.
    #[must_use]
    pub fn too_many(&self) -> bool {
        let now = self.clock.read();
        self.lock()
            .workers
            .get(&self.uncounted)
            .is_some_and(|worker| worker.counts(now))
    }

    /// Returns whether some worker may act on an old bundle without limit (`action: SERVE`).
    #[must_use]
    pub fn has_unbounded(&self) -> bool {
        self.lock().workers.values().any(Worker::is_unbounded)
    }

    /// Returns the number of held polls.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.lock()
            .workers
            .values()
            .map(|worker| u64::from(worker.waiting))
            .sum()
    }

    /// Returns the name of this replica.
    #[must_use]
    pub fn replica(&self) -> &str {
        &self.replica
    }
}

/// Guard of a held poll: dropping it records the end of the poll.
pub struct Presence {
    proxies: Arc<Proxies>,
    worker: u64,
}

impl Presence {
    /// Returns the id of the worker that polls.
    #[must_use]
    pub const fn worker(&self) -> u64 {
        self.worker
    }

    /// Records that the worker is given a bundle. The caller must do so before it sends the answer.
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
