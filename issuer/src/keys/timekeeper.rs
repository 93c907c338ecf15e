//! Records the passage of time, so that no entry expires by a wall clock alone (ADR 20).

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::MasterKey;
use crate::clock::{CONFIRM_MS, Clock, ClockMark, Time};
use crate::store::{Store, StoreError};

/// Name of the mark in the database. Programs from before its MAC use the name `clock`.
const NAME: &str = "clock mark";

/// Milliseconds between two writes of the mark.
const MARK_EVERY_MS: u64 = 2_000;

/// Purpose of the mark's MAC. With it, an attacker who can write to the database cannot make time
/// pass.
const PURPOSE: &str = "clock mark v1";

/// Returns the text of a mark with its MAC.
fn sealed(mark: &ClockMark, master: &MasterKey) -> String {
    master.authenticated(PURPOSE, &mark.to_string())
}

/// Parses the text that [`sealed`] returned; `None` without a valid MAC.
fn unsealed(text: &str, master: &MasterKey) -> Option<ClockMark> {
    ClockMark::parse(master.verified(PURPOSE, text)?)
}

/// Reads the stored mark, and creates the first one of a database. A mark without a valid MAC is
/// replaced by one without any certain time. So is a missing mark, if the database has keys.
///
/// # Errors
/// [`StoreError::Unavailable`].
pub async fn stored_mark(
    store: &dyn Store,
    clock: &dyn Clock,
    master: &MasterKey,
) -> Result<ClockMark, StoreError> {
    loop {
        let text = store.constant(NAME, "").await?;
        if let Some(mark) = unsealed(&text, master) {
            return Ok(mark);
        }
        // An attacker must not be able to reset the time by deleting the mark.
        let is_new = text.is_empty() && store.load().await?.keys.is_empty();
        let (time, boot) = (clock.read(), clock.boot());
        let mark = if is_new {
            ClockMark {
                seen_ms: time.now_ms,
                boot,
                steady_ms: time.steady_ms,
                ..ClockMark::default()
            }
        } else {
            tracing::error!(
                "the stored clock is missing or has no valid MAC; entries are kept for longer"
            );
            let latest_ms = time
                .database
                .map_or(u64::MAX, |database| database.latest_ms);
            ClockMark::unobserved(time.now_ms.min(latest_ms))
        };
        // If another replica created it meanwhile, read again.
        if store.replace(NAME, &text, &sealed(&mark, master)).await? {
            return Ok(mark);
        }
    }
}

/// Mark of the replica that holds the lead.
#[derive(Debug, Default)]
pub(super) struct Timekeeper {
    held: Mutex<Option<Held>>,
    started_ms: Mutex<Option<u64>>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    mark: ClockMark,
    /// Monotonic milliseconds of the mark; `None` until this leader has written one.
    steady_ms: Option<u64>,
}

impl Timekeeper {
    fn lock(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Discards the mark, because another replica may hold the lead now.
    pub(super) fn leave(&self) {
        *self.lock() = None;
    }

    /// Advances the mark, at most every two seconds unless `now` is set. Only the leader calls
    /// this function.
    pub(super) async fn mark(
        &self,
        store: &dyn Store,
        clock: &dyn Clock,
        master: &MasterKey,
        now: bool,
    ) -> Result<(), StoreError> {
        let time = clock.read();
        // Read the mark once, when this replica takes the lead.
        let held = *self.lock();
        let held = match held {
            Some(held) => held,
            None => Held {
                mark: stored_mark(store, clock, master).await?,
                steady_ms: None,
            },
        };
        let is_due = held
            .steady_ms
            .is_none_or(|at_ms| time.steady_ms >= at_ms.saturating_add(MARK_EVERY_MS));
        *self.lock() = Some(held);
        // An unsound clock must not reach the database.
        if !(now || is_due) || !time.is_sound() || self.is_on_probation(&held, &time) {
            return Ok(());
        }
        // The monotonic clock also spans two processes during one boot.
        let begun_ms = held.steady_ms.or_else(|| held.mark.begun_ms(clock.boot()));
        let elapsed_ms = begun_ms.map(|at_ms| time.steady_ms.saturating_sub(at_ms));
        let advanced = held.mark.advanced(time.now_ms, elapsed_ms);
        let mark = ClockMark {
            boot: clock.boot(),
            steady_ms: time.steady_ms,
            ..advanced
        };
        if mark.lag_ms > held.mark.lag_ms.saturating_add(CONFIRM_MS) {
            let seconds = mark.lag_ms / 1_000;
            tracing::warn!(
                seconds,
                "no issuer observed a part of the elapsed time; \
                 entries are kept longer by that much"
            );
        }
        // A failed replacement means that another replica leads: read the mark again.
        let replaced = store
            .replace(NAME, &sealed(&held.mark, master), &sealed(&mark, master))
            .await?;
        *self.lock() = replaced.then_some(Held {
            mark,
            steady_ms: Some(time.steady_ms),
        });
        Ok(())
    }

    /// Returns whether a gap before the start is still unconfirmed. Without a second clock, a wall
    /// clock that is wrong since the start must not become the floor of the next start.
    fn is_on_probation(&self, held: &Held, time: &Time) -> bool {
        let mut started_ms = self
            .started_ms
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let started_ms = *started_ms.get_or_insert(time.steady_ms);
        let up_ms = time.steady_ms.saturating_sub(started_ms);
        held.steady_ms.is_none()
            && time.database.is_none()
            && held.mark.is_gap(time.now_ms)
            && up_ms < CONFIRM_MS
    }

    /// Returns the certain time (Unix seconds): the least of the stored clock as advanced by the
    /// monotonic clock, the wall clock and the database server's clock.
    pub(super) fn certain(&self, time: &Time) -> u64 {
        let Some(held) = *self.lock() else { return 0 };
        let database_ms = time
            .database
            .map_or(u64::MAX, |database| database.earliest_ms);
        let mark = match held.steady_ms {
            Some(at_ms) if time.is_sound() => held
                .mark
                .advanced(time.now_ms, Some(time.steady_ms.saturating_sub(at_ms))),
            Some(_) | None => held.mark,
        };
        mark.certain_ms().min(time.now_ms).min(database_ms) / 1_000
    }

    /// Returns the milliseconds for which entries are kept longer than their expiry.
    pub(super) fn lag_ms(&self) -> u64 {
        self.lock().map_or(0, |held| held.mark.lag_ms)
    }
}
