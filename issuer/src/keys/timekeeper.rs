//! Records how time passes, so that nothing expires by a wall clock alone (ADR 20).

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::MasterKey;
use crate::clock::{CONFIRM_MS, Clock, ClockMark, Time};
use crate::store::{Store, StoreError};

/// Name of the mark in the database. Programs before it carried a MAC keep theirs as `clock`.
const NAME: &str = "clock mark";

/// Milliseconds between two marks.
const MARK_EVERY_MS: u64 = 2_000;

/// Purpose of the mark's MAC: who can write to the database cannot make time pass.
const PURPOSE: &str = "clock mark v1";

fn sealed(mark: &ClockMark, master: &MasterKey) -> String {
    master.authenticated(PURPOSE, &mark.to_string())
}

/// Reads what [`sealed`] returned; `None` without a right MAC.
fn unsealed(text: &str, master: &MasterKey) -> Option<ClockMark> {
    ClockMark::parse(master.verified(PURPOSE, text)?)
}

/// Reads the stored mark, and makes the first one of a database. One without a right MAC is
/// replaced by a mark by which no time has passed for certain; so is one that is missing where
/// there are keys.
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
                "the clock mark is missing or lacks its MAC; entries are kept for longer"
            );
            let latest_ms = time
                .database
                .map_or(u64::MAX, |database| database.latest_ms);
            ClockMark::unobserved(time.now_ms.min(latest_ms))
        };
        // Another replica may have made it.
        if store.replace(NAME, &text, &sealed(&mark, master)).await? {
            return Ok(mark);
        }
    }
}

/// Keeps the mark of the leading replica.
#[derive(Debug, Default)]
pub(super) struct Timekeeper {
    held: Mutex<Option<Held>>,
    started_ms: Mutex<Option<u64>>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    mark: ClockMark,
    /// Monotonic milliseconds at the mark; `None` until this leader has made one.
    steady_ms: Option<u64>,
}

impl Timekeeper {
    fn lock(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the mark, because another replica may lead now.
    pub(super) fn leave(&self) {
        *self.lock() = None;
    }

    /// Advances the mark, at most every two seconds unless `now` is set. Only the leader calls
    /// this.
    pub(super) async fn mark(
        &self,
        store: &dyn Store,
        clock: &dyn Clock,
        master: &MasterKey,
        now: bool,
    ) -> Result<(), StoreError> {
        let time = clock.read();
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
        if !(now || is_due) || !time.is_sound() || self.is_on_probation(&held, &time) {
            return Ok(());
        }
        // The monotonic clock also runs between two processes on one boot.
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
                "time passed that no issuer observed; entries are kept for longer by as much"
            );
        }
        let replaced = store
            .replace(NAME, &sealed(&held.mark, master), &sealed(&mark, master))
            .await?;
        *self.lock() = replaced.then_some(Held {
            mark,
            steady_ms: Some(time.steady_ms),
        });
        Ok(())
    }

    /// Returns whether a gap before the start is still unconfirmed: without a second clock, a wall
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

    /// Returns the time that has passed for certain (Unix seconds): by the monotonic clock, the
    /// wall clock and the database server's clock.
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
