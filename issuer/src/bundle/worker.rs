//! State of one worker: its version, and the time until which it may act on its bundle.

use meshseal_core::bundle::StalenessBound;
use meshseal_core::limits::MAX_CLOCK_SKEW_S;

use super::proxies::{Contact, LIVE_ELSEWHERE_S, LIVE_S};
use crate::clock::Time;

/// Time without limit: some rule of the worker says `action: SERVE`.
pub const UNBOUNDED: u64 = i64::MAX.unsigned_abs();

/// Seconds by which a record reaches past the worker's present bundle, so that the next bundles
/// need no new record.
const RECORD_AHEAD_S: u64 = 60;

/// Record of a worker in the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyRecord {
    /// Id of one worker and trust store: 16 hexadecimal digits.
    pub worker: String,
    /// Node id of the proxy.
    pub node: String,
    /// Version that the worker holds; 0 for none.
    pub version: u64,
    /// Last contact (Unix seconds).
    pub seen_at: u64,
    /// Poll protocol of the worker.
    pub protocol: u32,
    /// Ids of the bundle keys that the worker pins, separated by commas; empty in protocol 1, which
    /// does not state them.
    pub pins: String,
    /// Time until which the worker may act on a bundle that it was given, clock skew included (Unix
    /// seconds). [`UNBOUNDED`] without limit; 0 if an operator declared the worker gone.
    pub accepts_until: u64,
}

impl ProxyRecord {
    /// Returns the worker's id as a number; `None` for a row that no issuer wrote.
    pub(super) fn id(&self) -> Option<u64> {
        u64::from_str_radix(&self.worker, 16).ok()
    }
}

/// Times of a bundle (Unix seconds).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Issue time.
    pub issued_at: u64,
    /// Not-after.
    pub not_after: u64,
}

impl Validity {
    /// Returns the time until which a worker may act on the bundle. The worker's clock may be
    /// behind, but not by more than the clock skew: otherwise the bundle would be issued in the
    /// worker's future, and the worker would reject it.
    fn deadline(self, staleness: StalenessBound) -> u64 {
        let end = match staleness {
            StalenessBound::Unbounded => return UNBOUNDED,
            StalenessBound::NotAfter => self.not_after,
            StalenessBound::Seconds(seconds) => {
                self.not_after.min(self.issued_at.saturating_add(seconds))
            }
        };
        end.saturating_add(MAX_CLOCK_SKEW_S)
    }
}

/// State of a worker in this replica's memory.
#[derive(Debug)]
pub(super) struct Worker {
    node: Box<str>,
    pub(super) version: u64,
    protocol: u32,
    pins: Box<str>,
    staleness: StalenessBound,
    /// True if the worker has polled this replica, or another replica has recorded it.
    is_introduced: bool,
    /// Last contact with this replica (steady seconds).
    seen_at: Option<u64>,
    /// Last contact with another replica, or before the last start (Unix seconds).
    seen_elsewhere: u64,
    /// Number of held polls.
    pub(super) waiting: u32,
    /// Time until which the worker may act on its bundle, by the wall clock (Unix seconds). It has
    /// passed only if `passes_at_steady` has passed, too: a wall clock that is put forward releases
    /// no worker.
    accepts_until: u64,
    /// The same time by the steady clock (steady seconds, exclusive).
    passes_at_steady: u64,
    /// `accepts_until` as this replica wrote it. Another replica's record does not count, since
    /// that replica does not know of bundles that this one gives out.
    recorded_until: u64,
    /// True if a record was sent and not answered. The database may hold it as one of this replica,
    /// although it includes a bundle that another replica gave out.
    pub(super) is_record_unsure: bool,
    /// Time of the last write (steady seconds).
    pub(super) saved_at: Option<u64>,
    /// True if the worker was never written, or its version changed after the last write.
    pub(super) changed: bool,
}

impl Default for Worker {
    fn default() -> Self {
        Self {
            node: Box::default(),
            version: 0,
            protocol: 1,
            pins: Box::default(),
            staleness: StalenessBound::NotAfter,
            is_introduced: false,
            seen_at: None,
            seen_elsewhere: 0,
            waiting: 0,
            accepts_until: 0,
            passes_at_steady: 0,
            recorded_until: 0,
            is_record_unsure: false,
            saved_at: None,
            changed: false,
        }
    }
}

const fn steady(time: Time) -> u64 {
    time.steady_ms / 1000
}

const fn wall(time: Time) -> u64 {
    time.now_ms / 1000
}

/// Returns the times of a bundle that is issued `seconds` from now.
const fn ahead(now: Time, seconds: u64, not_after_s: u64) -> Validity {
    let issued_at = wall(now).saturating_add(seconds);
    Validity {
        issued_at,
        not_after: issued_at.saturating_add(not_after_s),
    }
}

impl Worker {
    /// Records a poll. The first poll introduces a worker. After a worker has introduced itself
    /// with protocol 2, any client that knows its id can send a poll without proof. Such a poll
    /// only counts as a contact, and can only lengthen the staleness bound.
    pub(super) fn note(&mut self, contact: &Contact<'_>, now: Time) {
        self.seen_at = Some(steady(now));
        self.waiting = self.waiting.saturating_add(1);
        // INVARIANT: a poll without proof never shortens the time for which the worker counts.
        if self.is_introduced && self.protocol >= 2 && !contact.proven {
            self.staleness = self.staleness.longer(contact.staleness);
            return;
        }
        // The first proof replaces a version that was only stated, in protocol 1.
        let was = self.version;
        self.version = if self.protocol < 2 && contact.proven {
            contact.version
        } else {
            was.max(contact.version)
        };
        self.changed |= self.version != was || self.saved_at.is_none();
        self.is_introduced = true;
        self.protocol = contact.protocol;
        self.staleness = contact.staleness;
        if *self.node != *contact.node {
            self.node = contact.node.into();
        }
        if *self.pins != *contact.pins {
            self.pins = contact.pins.into();
        }
    }

    /// Records the end of a poll.
    pub(super) fn leave(&mut self, now: Time) {
        self.waiting = self.waiting.saturating_sub(1);
        self.seen_at = Some(steady(now));
    }

    /// Records that the worker was given a bundle.
    pub(super) fn gave(&mut self, validity: Validity, now: Time) {
        self.extend(validity.deadline(self.staleness), now);
    }

    /// Moves the deadline to `until` by both clocks, unless it is later already.
    fn extend(&mut self, until: u64, now: Time) {
        self.accepts_until = self.accepts_until.max(until);
        if let Some(ahead) = until.checked_sub(wall(now)) {
            let passes_at = steady(now).saturating_add(ahead).saturating_add(1);
            self.passes_at_steady = self.passes_at_steady.max(passes_at);
        }
    }

    /// Merges a record of this worker from the database. A version that was proved to another
    /// replica replaces a version that was only stated to this one, in protocol 1.
    pub(super) fn learn(&mut self, record: &ProxyRecord, now: Time) {
        let outweighs = self.protocol < 2 && record.protocol >= 2;
        let first = outweighs || (self.seen_at.is_none() && self.seen_elsewhere == 0);
        let is_weaker = self.is_introduced && record.protocol < self.protocol;
        if first {
            self.version = record.version;
        } else if !is_weaker {
            self.version = self.version.max(record.version);
        }
        self.extend(record.accepts_until, now);
        // Contacts with this replica are newer knowledge about the worker than any record.
        if first || (!is_weaker && self.seen_at.is_none() && record.seen_at > self.seen_elsewhere) {
            self.node = record.node.as_str().into();
            self.pins = record.pins.as_str().into();
            self.protocol = record.protocol;
            self.is_introduced = true;
        }
        self.seen_elsewhere = self.seen_elsewhere.max(record.seen_at);
    }

    /// Returns the last contact with this replica (steady seconds): now, if a poll is held.
    fn last_contact(&self, now: Time) -> Option<u64> {
        if self.waiting > 0 {
            Some(steady(now))
        } else {
            self.seen_at
        }
    }

    /// Returns the last contact with any replica (Unix seconds).
    pub(super) fn last_seen(&self, now: Time) -> u64 {
        let here = self
            .last_contact(now)
            .map(|at| wall(now).saturating_sub(steady(now).saturating_sub(at)));
        self.seen_elsewhere.max(here.unwrap_or(0))
    }

    /// Returns whether the worker polls, or polled lately.
    pub(super) fn is_reachable(&self, now: Time) -> bool {
        let here = self
            .last_contact(now)
            .is_some_and(|at| steady(now) <= at.saturating_add(LIVE_S));
        here || (self.seen_elsewhere > 0
            && wall(now) <= self.seen_elsewhere.saturating_add(LIVE_ELSEWHERE_S))
    }

    /// Returns whether the worker counts: it polls, or may still act on a bundle from any replica.
    pub(super) fn counts(&self, now: Time) -> bool {
        let accepts = wall(now) <= self.accepts_until || steady(now) < self.passes_at_steady;
        accepts || self.is_reachable(now) || self.is_record_unsure
    }

    /// Returns whether the worker may act on a bundle without limit.
    pub(super) const fn is_unbounded(&self) -> bool {
        self.accepts_until >= UNBOUNDED
    }

    /// Returns whether a record is due before the worker is given a bundle.
    pub(super) fn needs_record(&self, validity: Validity) -> bool {
        self.recorded_until < validity.deadline(self.staleness)
    }

    /// Returns whether a record is due: after an unanswered write, after a new contact once every
    /// `every_s` seconds, and before the present record lapses.
    pub(super) fn must_be_saved(&self, now: Time, not_after_s: u64, every_s: u64) -> bool {
        if self.is_record_unsure {
            return true;
        }
        let Some(contact) = self.last_contact(now) else {
            return false;
        };
        let due = self
            .saved_at
            .is_none_or(|saved_at| contact >= saved_at.saturating_add(every_s));
        due || self.lapses(now, not_after_s)
    }

    /// Returns whether the worker polls and its record reaches less than half of
    /// [`RECORD_AHEAD_S`] ahead.
    pub(super) fn lapses(&self, now: Time, not_after_s: u64) -> bool {
        self.waiting > 0 && self.needs_record(ahead(now, RECORD_AHEAD_S / 2, not_after_s))
    }

    /// Returns the record to write, which reaches [`RECORD_AHEAD_S`] ahead.
    pub(super) fn to_save(&self, worker: u64, now: Time, not_after_s: u64) -> ProxyRecord {
        let later = ahead(now, RECORD_AHEAD_S, not_after_s).deadline(self.staleness);
        let accepts_until = self.accepts_until.max(later);
        ProxyRecord {
            accepts_until,
            ..self.record(worker, now)
        }
    }

    /// Records that the database holds a record.
    pub(super) fn saved(&mut self, record: &ProxyRecord) {
        self.is_record_unsure = false;
        self.recorded_until = self.recorded_until.max(record.accepts_until);
    }

    /// Records that a write is sent. The record stays due until the database answers, because the
    /// caller that waits for the answer may be cancelled.
    pub(super) const fn being_saved(&mut self) {
        self.changed = false;
        self.is_record_unsure = true;
    }

    /// Returns a record of the present state.
    pub(super) fn record(&self, worker: u64, now: Time) -> ProxyRecord {
        ProxyRecord {
            worker: format!("{worker:016x}"),
            node: self.node.to_string(),
            version: self.version,
            seen_at: self.last_seen(now),
            protocol: self.protocol,
            pins: self.pins.to_string(),
            accepts_until: self.accepts_until,
        }
    }
}
