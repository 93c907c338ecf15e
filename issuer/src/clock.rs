//! The only file that reads a clock. All other code receives the time, so that tests can choose it.
//!
//! The wall clock may step in either direction (NTP, an operator, a restored virtual machine); the
//! monotonic clock never does. [`Guard`] checks the first against the second (I38), so that the
//! time it returns never goes back and never jumps ahead unconfirmed. [`ClockMark`] carries this
//! knowledge over restarts. ADR 20 gives the reasons.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::config::MAX_TOKEN_LIFE_S;

/// Largest step of the wall clock, in milliseconds, that is accepted at once. Also the allowed
/// spread between replicas.
pub const MAX_STEP_MS: u64 = 5_000;

/// Longest time, in milliseconds, that a step forward must last before it is accepted without
/// confirmation. A step that the database server's clock contradicts is never accepted.
pub const CONFIRM_MS: u64 = 600_000;

/// Factor by which a small step forward must last longer than the step itself.
const CONFIRM_FACTOR: u64 = 10;

/// Largest difference, in milliseconds, between the machine's and the database server's clock at
/// start.
pub const MAX_DISAGREEMENT_MS: u64 = 60_000;

/// Longest gap, in milliseconds, between two leaders that counts as elapsed time.
const TAKEOVER_MS: u64 = 60_000;

/// Milliseconds of agreement between the clocks after which no entry is left that was stored before
/// they disagreed.
const SETTLE_MS: u64 = (MAX_TOKEN_LIFE_S + 3_600) * 1_000;

/// Source of time.
pub trait Clock: Send + Sync {
    /// Reads both clocks.
    fn read(&self) -> Time;

    /// Records a reading of the database server's clock. The arguments after it are the monotonic
    /// times (milliseconds) of the question and the answer.
    fn heard(&self, _database_ms: Option<u64>, _asked_ms: u64, _answered_ms: u64) {}

    /// Continues after a restart. It never returns a time earlier than the mark's, unless the
    /// database server's clock confirms it. A mark of this boot determines the expected time.
    fn resume(&self, _mark: &ClockMark) {}

    /// Returns the identifier of the boot since which monotonic time counts; 0 if it is unknown.
    fn boot(&self) -> u64 {
        0
    }

    /// Returns milliseconds since the Unix epoch; never less than before.
    fn now_ms(&self) -> u64 {
        self.read().now_ms
    }

    /// Returns seconds since the Unix epoch; never less than before.
    fn now(&self) -> u64 {
        self.now_ms() / 1000
    }

    /// Returns milliseconds since a fixed moment, independent of the time of day: for rates,
    /// timeouts and freshness.
    fn steady_ms(&self) -> u64 {
        self.read().steady_ms
    }

    /// Returns seconds since that moment.
    fn steady(&self) -> u64 {
        self.steady_ms() / 1000
    }
}

/// One reading of the clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// Milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// Milliseconds since a fixed moment.
    pub steady_ms: u64,
    /// Milliseconds by which the wall clock is behind `now_ms`, because it was put back.
    pub behind_ms: u64,
    /// Milliseconds by which the wall clock is ahead of `now_ms`, because a step forward is not
    /// confirmed.
    pub ahead_ms: u64,
    /// Bounds of the database server's clock; `None` for a file.
    pub database: Option<Bounds>,
}

/// Bounds of the database server's clock (Unix milliseconds).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Lower bound.
    pub earliest_ms: u64,
    /// Upper bound.
    pub latest_ms: u64,
}

impl Time {
    /// Returns whether tokens may be dated by this reading.
    #[must_use]
    pub const fn is_sound(&self) -> bool {
        self.behind_ms <= MAX_STEP_MS && self.ahead_ms <= MAX_STEP_MS
    }

    /// Returns the date of a token that is issued now (Unix milliseconds). It is not after the
    /// machine's clock, nor after the database server's if the two agree, so that all replicas date
    /// by one clock.
    #[must_use]
    pub fn issue_ms(&self) -> u64 {
        let shared = self.database.map(|database| database.earliest_ms);
        let shared =
            shared.filter(|shared| self.now_ms.saturating_sub(*shared) <= MAX_DISAGREEMENT_MS);
        shared.map_or(self.now_ms, |shared| shared.min(self.now_ms))
    }

    /// Returns the latest date (Unix milliseconds) that any replica may have given to a token.
    #[must_use]
    pub fn latest_issue_ms(&self) -> u64 {
        let spread = self.now_ms.saturating_add(MAX_STEP_MS);
        self.database.map_or(self.now_ms, |database| {
            database.latest_ms.min(spread).max(self.now_ms)
        })
    }

    /// Returns the time (Unix seconds) by which client assertions are judged. It lags behind the
    /// database server's clock by no more than replicas may, because recorded uses are deleted by
    /// that clock.
    #[must_use]
    pub fn proof_s(&self) -> u64 {
        let database_ms = self.database.map_or(0, |database| database.latest_ms);
        self.now_ms
            .max(database_ms.saturating_sub(MAX_DISAGREEMENT_MS))
            / 1_000
    }

    /// Returns the milliseconds between `now_ms` and the database server's clock.
    #[must_use]
    pub fn disagreement_ms(&self) -> u64 {
        self.database.map_or(0, |database| {
            let early = self.now_ms.saturating_sub(database.latest_ms);
            early.max(database.earliest_ms.saturating_sub(self.now_ms))
        })
    }

    /// Returns the fault of the machine's clock and the remedy.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let remedy = "correct it, or restart with --accept-clock if it is right";
        if self.behind_ms > MAX_STEP_MS {
            let behind = self.behind_ms.div_ceil(1_000);
            return Some(format!(
                "the machine's clock is {behind} s behind; {remedy}"
            ));
        }
        if self.ahead_ms <= MAX_STEP_MS {
            return None;
        }
        let ahead = self.ahead_ms.div_ceil(1_000);
        let wall_ms = self.now_ms.saturating_add(self.ahead_ms);
        // A contradicted step is never accepted, so waiting is no remedy.
        let is_contradicted = self
            .database
            .is_some_and(|database| !is_nearer(database.earliest_ms, wall_ms, self.now_ms));
        if is_contradicted {
            return Some(format!(
                "the machine's clock stepped {ahead} s forward, \
                 and the database server's did not; {remedy}"
            ));
        }
        let wait = confirm_ms(self.ahead_ms) / 1_000;
        Some(format!(
            "the machine's clock stepped {ahead} s forward; \
             it is accepted after {wait} s; {remedy}"
        ))
    }
}

/// Returns the milliseconds that a step forward must last before it is accepted.
const fn confirm_ms(step_ms: u64) -> u64 {
    let wanted = step_ms.saturating_mul(CONFIRM_FACTOR);
    if wanted < CONFIRM_MS {
        wanted
    } else {
        CONFIRM_MS
    }
}

/// Returns whether the database server's clock is nearer to the wall clock than to the expected
/// time.
const fn is_nearer(database_ms: u64, wall_ms: u64, expected_ms: u64) -> bool {
    database_ms.abs_diff(wall_ms) < database_ms.abs_diff(expected_ms)
}

/// Combines a wall clock and a monotonic clock into one time that never goes back.
#[derive(Debug, Default)]
struct Guard(Mutex<Line>);

/// Relation between the wall clock and the monotonic clock.
#[derive(Debug, Default)]
struct Line {
    /// Wall time minus monotonic time at the last accepted reading.
    offset_ms: u64,
    /// Latest time that was returned.
    told_ms: u64,
    /// Step forward that waits for confirmation.
    suspect: Option<Suspect>,
    /// Database server's time minus monotonic time: the latest lower bound, and the highest upper
    /// bound so far.
    database: Option<(u64, u64)>,
}

/// Unconfirmed step forward.
#[derive(Clone, Copy, Debug)]
struct Suspect {
    offset_ms: u64,
    /// Monotonic milliseconds at which the step was noticed.
    since_ms: u64,
}

impl Guard {
    fn lock(&self) -> std::sync::MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Combines one reading of both clocks. A small step is accepted. After a large one the time
    /// continues without the step, until the wall clock has caught up or a step forward is
    /// confirmed.
    fn tell(&self, wall_ms: u64, steady_ms: u64) -> Time {
        let mut line = self.lock();
        // Compare the wall clock with the time that the monotonic clock predicts.
        let expected_ms = steady_ms.saturating_add(line.offset_ms);
        // The first reading has no prediction to be compared with.
        let is_first = line.told_ms == 0;
        let behind = wall_ms.saturating_add(MAX_STEP_MS) < expected_ms;
        let ahead = !is_first && wall_ms > expected_ms.saturating_add(MAX_STEP_MS);
        line.suspect = if ahead {
            Some(line.suspect_at(wall_ms, steady_ms))
        } else {
            None
        };
        // A step forward is confirmed if it lasts and the database server does not contradict it.
        let lasts = line.suspect.is_some_and(|suspect| {
            let lasted_ms = steady_ms.saturating_sub(suspect.since_ms);
            lasted_ms >= confirm_ms(wall_ms.saturating_sub(expected_ms))
        });
        let database_ms = line
            .database
            .map(|(earliest_ms, _)| earliest_ms.saturating_add(steady_ms));
        let contradicted =
            database_ms.is_some_and(|database_ms| !is_nearer(database_ms, wall_ms, expected_ms));
        let confirmed = lasts && !contradicted;
        if confirmed || !(behind || ahead) {
            line.accept(wall_ms, steady_ms);
        } else {
            // INVARIANT: `told_ms` never falls.
            line.told_ms = line.told_ms.max(expected_ms);
        }
        let database = line.database.map(|(earliest_ms, latest_ms)| Bounds {
            earliest_ms: earliest_ms.saturating_add(steady_ms),
            latest_ms: latest_ms.saturating_add(steady_ms),
        });
        let now_ms = line.told_ms;
        let (behind_ms, ahead_ms) = (
            now_ms.saturating_sub(wall_ms),
            wall_ms.saturating_sub(now_ms),
        );
        Time {
            now_ms,
            steady_ms,
            behind_ms,
            ahead_ms,
            database,
        }
    }

    /// Records the database server's clock. It confirms a pending step forward if it is nearer to
    /// the wall clock than to the expected time.
    fn heard(&self, wall_ms: u64, database_ms: u64, asked_ms: u64, answered_ms: u64) {
        let mut line = self.lock();
        // The server read its clock at some moment between question and answer.
        let (earliest, latest) = (
            database_ms.saturating_sub(answered_ms),
            database_ms.saturating_sub(asked_ms),
        );
        // INVARIANT: the upper bound never falls, so it covers all dates given before.
        let latest = line.database.map_or(latest, |(_, known)| known.max(latest));
        line.database = Some((earliest, latest));
        let expected_ms = answered_ms.saturating_add(line.offset_ms);
        if line.suspect.is_some() && is_nearer(database_ms, wall_ms, expected_ms) {
            line.accept(wall_ms, answered_ms);
        }
    }

    /// Sets the relation of the clocks in a process that has just started.
    fn resume(&self, wall_ms: u64, steady_ms: u64, boot: u64, mark: &ClockMark) {
        let expected_ms = mark
            .expected_ms(boot, steady_ms)
            .filter(|expected| expected.abs_diff(wall_ms) > MAX_STEP_MS);
        let mut line = self.lock();
        let database_ms = line
            .database
            .map(|(earliest, _)| earliest.saturating_add(steady_ms));
        // The database server's clock outranks the mark: it ran while no issuer did.
        let start_ms = match database_ms {
            Some(database_ms) if database_ms.abs_diff(wall_ms) > MAX_DISAGREEMENT_MS => database_ms,
            Some(_) => wall_ms,
            None => expected_ms.unwrap_or_else(|| wall_ms.max(mark.seen_ms)),
        };
        // A process that has just started may go back: it has issued nothing yet.
        line.told_ms = 0;
        line.accept(start_ms, steady_ms);
    }
}

impl Line {
    /// Accepts the wall clock as right.
    fn accept(&mut self, wall_ms: u64, steady_ms: u64) {
        self.offset_ms = wall_ms.saturating_sub(steady_ms);
        self.told_ms = self.told_ms.max(wall_ms);
        self.suspect = None;
    }

    /// Returns the pending step, or a new one if the wall clock has stepped again.
    fn suspect_at(&self, wall_ms: u64, steady_ms: u64) -> Suspect {
        let offset_ms = wall_ms.saturating_sub(steady_ms);
        // INVARIANT: another step starts another wait.
        let same = self
            .suspect
            .filter(|known| known.offset_ms.abs_diff(offset_ms) <= MAX_STEP_MS);
        same.unwrap_or(Suspect {
            offset_ms,
            since_ms: steady_ms,
        })
    }
}

/// Time that the issuers of one database have observed together, stored in the database.
///
/// [`ClockMark::certain_ms`] advances no faster than the monotonic clock of the leading replica.
/// A wrong wall clock, for however long, therefore makes nothing expire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockMark {
    /// Latest time that a leader recorded (Unix milliseconds); 0 before the first.
    pub seen_ms: u64,
    /// Milliseconds by which `seen_ms` advanced without monotonic time: while no issuer ran, or by
    /// a step.
    pub lag_ms: u64,
    /// Milliseconds of monotonic time since the lag last grew.
    pub settled_ms: u64,
    /// Boot of the machine that made the mark; 0 if it is unknown.
    pub boot: u64,
    /// Monotonic milliseconds of that boot at the mark.
    pub steady_ms: u64,
}

impl fmt::Display for ClockMark {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            seen_ms,
            lag_ms,
            settled_ms,
            boot,
            steady_ms,
        } = self;
        write!(out, "{seen_ms} {lag_ms} {settled_ms} {boot} {steady_ms}")
    }
}

impl ClockMark {
    /// Parses the form that `Display` writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(' ').map(|number| number.parse().ok());
        let mark = Self {
            seen_ms: numbers.next()??,
            lag_ms: numbers.next()??,
            settled_ms: numbers.next()??,
            boot: numbers.next()??,
            steady_ms: numbers.next()??,
        };
        numbers.next().is_none().then_some(mark)
    }

    /// Returns a mark for a known time without certain time: nothing counts as expired.
    #[must_use]
    pub fn unobserved(now_ms: u64) -> Self {
        Self {
            seen_ms: now_ms,
            lag_ms: SETTLE_MS,
            ..Self::default()
        }
    }

    /// Returns the certain time (Unix milliseconds).
    #[must_use]
    pub const fn certain_ms(&self) -> u64 {
        self.seen_ms.saturating_sub(self.lag_ms)
    }

    /// Returns the expected time (Unix milliseconds) at this monotonic time of a boot; `None` for a
    /// mark of another boot.
    #[must_use]
    pub fn expected_ms(&self, boot: u64, steady_ms: u64) -> Option<u64> {
        let elapsed_ms = steady_ms.checked_sub(self.begun_ms(boot)?)?;
        Some(self.seen_ms.saturating_add(elapsed_ms))
    }

    /// Returns the monotonic time of the mark on this boot; `None` for a mark of another boot.
    #[must_use]
    pub const fn begun_ms(&self, boot: u64) -> Option<u64> {
        if boot != 0 && self.boot == boot && self.seen_ms > 0 {
            Some(self.steady_ms)
        } else {
            None
        }
    }

    /// Returns whether no issuer ran for some time between the mark and `now_ms`.
    #[must_use]
    pub const fn is_gap(&self, now_ms: u64) -> bool {
        self.seen_ms > 0 && now_ms.saturating_sub(self.seen_ms) > TAKEOVER_MS
    }

    /// Advances the mark to `now_ms`. `elapsed_ms` is the monotonic time since this leader's last
    /// mark; `None` for its first one.
    #[must_use]
    pub fn advanced(self, now_ms: u64, elapsed_ms: Option<u64>) -> Self {
        // The first mark of a database.
        if self.seen_ms == 0 {
            return Self {
                seen_ms: now_ms,
                ..Self::default()
            };
        }
        // A large step back reaches a mark only after it was confirmed.
        if now_ms.saturating_add(MAX_STEP_MS) < self.seen_ms {
            return self.put_back(now_ms);
        }
        // Time counts as certain if the monotonic clock or a quick takeover explains it.
        let gap_ms = now_ms.saturating_sub(self.seen_ms);
        let counted_ms = match elapsed_ms {
            Some(elapsed_ms) => elapsed_ms.min(gap_ms),
            None if self.is_gap(now_ms) => 0,
            None => gap_ms,
        };
        let unexplained_ms = gap_ms.saturating_sub(counted_ms);
        // One unexplained minute restarts the whole time of settling.
        let cost_ms = unexplained_ms.saturating_mul(SETTLE_MS / TAKEOVER_MS);
        let settled_ms = self
            .settled_ms
            .saturating_add(counted_ms)
            .saturating_sub(cost_ms);
        let (lag_ms, seen_ms) = (
            self.lag_ms.saturating_add(unexplained_ms),
            self.seen_ms.max(now_ms),
        );
        // After settling, every entry from before the lag has expired.
        if lag_ms == 0 || settled_ms >= SETTLE_MS {
            return Self {
                seen_ms,
                ..Self::default()
            };
        }
        Self {
            seen_ms,
            lag_ms,
            settled_ms,
            ..Self::default()
        }
    }

    /// Returns to an earlier time that the database server or an operator has confirmed. The
    /// certain time stays.
    fn put_back(self, now_ms: u64) -> Self {
        Self {
            seen_ms: now_ms,
            lag_ms: now_ms.saturating_sub(self.certain_ms()),
            ..Self::default()
        }
    }
}

/// Clock of the machine.
#[derive(Debug, Default)]
pub struct SystemClock {
    guard: Guard,
    is_accepted: bool,
    boot: u64,
}

impl SystemClock {
    /// Creates the clock.
    #[must_use]
    pub fn new() -> Self {
        Self {
            boot: boot_id(),
            ..Self::default()
        }
    }

    /// Creates the clock, and accepts the machine's time at the start without checking it against
    /// the database.
    #[must_use]
    pub fn accepted() -> Self {
        Self {
            is_accepted: true,
            ..Self::new()
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the clock file")]
fn wall_ms() -> u64 {
    milliseconds(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO),
    )
}

/// Returns whole milliseconds.
fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Reads the monotonic clock that also runs while the machine is suspended, so that waking up is
/// not a step.
#[cfg(target_os = "linux")]
fn steady_ms() -> u64 {
    let read = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(read.tv_sec).unwrap_or(0);
    seconds
        .saturating_mul(1_000)
        .saturating_add(u64::try_from(read.tv_nsec).unwrap_or(0) / 1_000_000)
}

/// Returns an identifier of the boot: half of the kernel's random boot id.
#[cfg(target_os = "linux")]
fn boot_id() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text
        .chars()
        .filter(char::is_ascii_hexdigit)
        .take(16)
        .collect();
    u64::from_str_radix(&digits, 16).unwrap_or(0)
}

/// Returns 0: the monotonic clock of other systems counts from the start of the process.
#[cfg(not(target_os = "linux"))]
fn boot_id() -> u64 {
    0
}

#[cfg(not(target_os = "linux"))]
#[expect(clippy::disallowed_methods, reason = "this is the clock file")]
fn steady_ms() -> u64 {
    static STARTED: std::sync::LazyLock<std::time::Instant> =
        std::sync::LazyLock::new(std::time::Instant::now);
    milliseconds(STARTED.elapsed())
}

impl Clock for SystemClock {
    fn read(&self) -> Time {
        self.guard.tell(wall_ms(), steady_ms())
    }

    fn heard(&self, database_ms: Option<u64>, asked_ms: u64, answered_ms: u64) {
        if let Some(database_ms) = database_ms {
            self.guard
                .heard(wall_ms(), database_ms, asked_ms, answered_ms);
        }
    }

    fn resume(&self, mark: &ClockMark) {
        if !self.is_accepted {
            self.guard.resume(wall_ms(), steady_ms(), self.boot, mark);
        }
    }

    fn boot(&self) -> u64 {
        self.boot
    }
}

/// Clock that stands still until it is moved: for tests, and for commands with `--at`.
#[derive(Debug)]
pub struct FixedClock {
    wall_ms: AtomicU64,
    steady_ms: AtomicU64,
    /// Database server's time minus monotonic time; 0 without such a clock.
    database_ms: AtomicU64,
    boot: AtomicU64,
    guard: Guard,
}

impl FixedClock {
    /// Creates a clock that stands at this many seconds since the Unix epoch.
    #[must_use]
    pub fn at(seconds: u64) -> Self {
        let wall_ms = AtomicU64::new(seconds.saturating_mul(1000));
        Self {
            wall_ms,
            steady_ms: AtomicU64::new(0),
            database_ms: AtomicU64::new(0),
            boot: AtomicU64::new(0),
            guard: Guard::default(),
        }
    }

    /// Lets this many seconds pass.
    pub fn advance(&self, seconds: u64) {
        self.advance_ms(seconds.saturating_mul(1000));
    }

    /// Lets this many milliseconds pass.
    pub fn advance_ms(&self, milliseconds: u64) {
        self.wall_ms.fetch_add(milliseconds, Ordering::Relaxed);
        self.steady_ms.fetch_add(milliseconds, Ordering::Relaxed);
    }

    /// Puts the time of day back by this many seconds, or forward by a negative number, without
    /// letting time pass.
    pub fn put_back(&self, seconds: i64) {
        let _always = self
            .wall_ms
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |wall_ms| {
                Some(wall_ms.saturating_add_signed(seconds.saturating_mul(-1000)))
            });
    }

    /// Sets the identifier of the boot since which its monotonic time counts.
    pub fn set_boot(&self, boot: u64) {
        self.boot.store(boot, Ordering::Relaxed);
    }

    /// Gives the database server a clock, which reads this many seconds now and runs from there.
    pub fn set_database(&self, seconds: u64) {
        let steady_ms = self.steady_ms.load(Ordering::Relaxed);
        self.database_ms.store(
            seconds.saturating_mul(1000).saturating_sub(steady_ms),
            Ordering::Relaxed,
        );
    }
}

impl Clock for FixedClock {
    fn read(&self) -> Time {
        self.guard.tell(
            self.wall_ms.load(Ordering::Relaxed),
            self.steady_ms.load(Ordering::Relaxed),
        )
    }

    /// Records the database server's clock that was set; the reading takes no real time.
    fn heard(&self, _database_ms: Option<u64>, asked_ms: u64, answered_ms: u64) {
        let offset_ms = self.database_ms.load(Ordering::Relaxed);
        if offset_ms > 0 {
            let database_ms = offset_ms.saturating_add(answered_ms);
            self.guard.heard(
                self.wall_ms.load(Ordering::Relaxed),
                database_ms,
                asked_ms,
                answered_ms,
            );
        }
    }

    fn resume(&self, mark: &ClockMark) {
        let (wall_ms, steady_ms) = (
            self.wall_ms.load(Ordering::Relaxed),
            self.steady_ms.load(Ordering::Relaxed),
        );
        self.guard.resume(wall_ms, steady_ms, self.boot(), mark);
    }

    fn boot(&self) -> u64 {
        self.boot.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600;

    #[test]
    fn step_back_is_unsound_until_caught_up() {
        let clock = FixedClock::at(1_000);
        assert_eq!(
            clock.read(),
            Time {
                now_ms: 1_000_000,
                ..Time::default()
            }
        );
        clock.put_back(60);
        assert_eq!(
            (clock.now(), clock.read().behind_ms, clock.read().is_sound()),
            (1_000, 60_000, false)
        );
        clock.advance(10);
        assert_eq!(
            (clock.now(), clock.steady(), clock.read().is_sound()),
            (1_010, 10, false),
            "as if nothing had been"
        );
        clock.put_back(-56);
        assert_eq!(
            (clock.now(), clock.read().is_sound()),
            (1_010, true),
            "caught up, nearly"
        );
        clock.advance(5);
        assert_eq!(clock.now(), 1_011, "the machine's time again");
    }

    #[test]
    fn small_steps_back_add_up() {
        let clock = FixedClock::at(1_000);
        clock.read();
        clock.put_back(3);
        assert_eq!((clock.now(), clock.read().is_sound()), (1_000, true));
        clock.put_back(3);
        assert_eq!((clock.now(), clock.read().is_sound()), (1_000, false));
        clock.advance(7);
        assert_eq!((clock.now(), clock.read().is_sound()), (1_001, true));
    }

    #[test]
    fn step_forward_must_last() {
        let clock = FixedClock::at(1_000);
        clock.read();
        clock.put_back(-4);
        assert_eq!(
            (clock.now(), clock.read().is_sound()),
            (1_004, true),
            "small"
        );
        clock.put_back(-90_000);
        assert_eq!((clock.now(), clock.read().is_sound()), (1_004, false));
        clock.advance(599);
        assert_eq!((clock.now(), clock.read().is_sound()), (1_603, false));
        clock.put_back(60);
        assert!(
            !clock.read().is_sound(),
            "another step, which must last itself"
        );
        clock.advance(599);
        assert!(!clock.read().is_sound());
        clock.advance(1);
        assert_eq!(
            (clock.now(), clock.read().is_sound()),
            (1_004 + 90_000 - 60 + 1_199, true)
        );
        clock.put_back(-6);
        clock.read();
        clock.advance(60);
        assert!(clock.read().is_sound(), "a small one need not last so long");
    }

    #[test]
    fn reverted_step_forward_leaves_no_trace() {
        let clock = FixedClock::at(1_000);
        clock.read();
        clock.put_back(-90_000);
        clock.advance(75);
        assert_eq!((clock.now(), clock.read().ahead_ms), (1_075, 90_000_000));
        clock.put_back(90_000);
        assert_eq!((clock.now(), clock.read().is_sound()), (1_075, true));
    }

    #[test]
    fn database_clock_confirms_step_forward() {
        for (database, sound) in [(1_002, false), (90_998, true)] {
            let clock = FixedClock::at(1_000);
            clock.read();
            clock.put_back(-90_000);
            clock.read();
            clock.set_database(database);
            clock.heard(None, 0, 0);
            assert_eq!(clock.read().is_sound(), sound, "{database}");
        }
    }

    #[test]
    fn never_accepts_step_that_database_contradicts() {
        let clock = FixedClock::at(1_000);
        clock.set_database(1_001);
        clock.heard(None, 0, 0);
        clock.read();
        clock.put_back(-90_000);
        clock.read();
        clock.advance(10_000);
        assert_eq!((clock.now(), clock.read().is_sound()), (11_000, false));
        let fault = clock.read().fault().unwrap_or_default();
        assert!(fault.contains("the database server's did not"), "{fault}");
    }

    #[test]
    fn notices_step_over_restart_on_same_boot() {
        let resumed = |wall: u64, boot: u64| {
            let clock = FixedClock::at(wall);
            clock.set_boot(boot);
            clock.resume(&ClockMark {
                seen_ms: 1_000_000,
                boot: 7,
                ..ClockMark::default()
            });
            (clock.now(), clock.read().is_sound())
        };
        for wall in [10, 100_000] {
            assert_eq!(resumed(wall, 7), (1_000, false), "no time has passed");
            assert_eq!(
                resumed(wall, 8),
                (wall.max(1_000), wall > 1_000),
                "another boot may have begun at any time"
            );
            assert_eq!(
                resumed(wall, 0),
                (wall.max(1_000), wall > 1_000),
                "an unknown one, too"
            );
        }
        assert_eq!(resumed(1_003, 7), (1_003, true), "a small step is accepted");
    }

    #[test]
    fn restart_keeps_stored_floor() {
        let resumed = |wall: u64, floor: u64, database: Option<u64>| {
            let clock = FixedClock::at(wall);
            if let Some(database) = database {
                clock.set_database(database);
                clock.heard(None, 0, 0);
            }
            clock.resume(&ClockMark {
                seen_ms: floor * 1_000,
                ..ClockMark::default()
            });
            (clock.now(), clock.read().is_sound())
        };
        assert_eq!(
            resumed(9_000, 1_000, None),
            (9_000, true),
            "the machine was off"
        );
        assert_eq!(
            resumed(998, 1_000, None),
            (1_000, true),
            "no time is told twice"
        );
        assert_eq!(resumed(900, 1_000, None), (1_000, false));
        assert_eq!(
            resumed(900, 1_000, Some(901)),
            (900, true),
            "the floor was wrong"
        );
        assert_eq!(resumed(900, 100, Some(1_000)), (1_000, false));
        assert_eq!(
            resumed(9_000, 100, Some(1_000)),
            (1_000, false),
            "ahead of everybody"
        );
    }

    #[test]
    fn replicas_date_by_the_database_clock() {
        let time = |database_ms: u64| {
            let bounds = Bounds {
                earliest_ms: database_ms,
                latest_ms: database_ms + 10,
            };
            Time {
                now_ms: 1_000_000,
                database: Some(bounds),
                ..Time::default()
            }
        };
        let dates = |time: Time| (time.issue_ms(), time.latest_issue_ms());
        assert_eq!(
            dates(time(999_000)),
            (999_000, 1_000_000),
            "ahead of the database"
        );
        assert_eq!(dates(time(1_003_000)), (1_000_000, 1_003_010), "behind it");
        assert_eq!(
            dates(time(9_000_000)),
            (1_000_000, 1_005_000),
            "a database clock that is wrong"
        );
        assert_eq!(
            dates(time(500_000)),
            (1_000_000, 1_000_000),
            "and one that is wrong the other way"
        );
        assert_eq!(time(999_000).disagreement_ms(), 990);
    }

    #[test]
    fn certain_time_needs_monotonic_time() {
        let start = ClockMark::default().advanced(HOUR * 1_000, None);
        assert_eq!(start.certain_ms(), HOUR * 1_000, "a new database");
        let ticked = start.advanced((HOUR + 10) * 1_000, Some(10_000));
        assert_eq!(
            (ticked.certain_ms(), ticked.lag_ms),
            ((HOUR + 10) * 1_000, 0)
        );
        let stepped = ticked.advanced((26 * HOUR) * 1_000, Some(10_000));
        assert_eq!(stepped.certain_ms(), (HOUR + 20) * 1_000);
        let off = ticked.advanced((26 * HOUR) * 1_000, None);
        assert_eq!(off.certain_ms(), (HOUR + 10) * 1_000, "the machine was off");
        let restarted = ticked.advanced((HOUR + 40) * 1_000, None);
        assert_eq!(restarted.certain_ms(), (HOUR + 40) * 1_000, "a restart");
        assert_eq!(
            off.advanced(2 * HOUR * 1_000, Some(0)).certain_ms(),
            off.certain_ms(),
            "put back, and confirmed"
        );
    }

    #[test]
    fn lag_ends_once_older_entries_have_gone() {
        let mut mark = ClockMark {
            seen_ms: HOUR * 1_000,
            ..ClockMark::default()
        }
        .advanced(50 * HOUR * 1_000, None);
        let mut hours = 0;
        while mark.lag_ms > 0 && hours < 100 {
            hours += 1;
            mark = mark.advanced(mark.seen_ms + HOUR * 1_000, Some(HOUR * 1_000));
        }
        assert_eq!(hours, MAX_TOKEN_LIFE_S.div_ceil(HOUR) + 1);
        let drifting = (0..100).fold(mark, |mark, _| {
            mark.advanced(mark.seen_ms + HOUR * 1_000 + 3_000, Some(HOUR * 1_000))
        });
        assert!(
            drifting.lag_ms > 100_000,
            "a clock that gains is not believed: {drifting:?}"
        );
    }
}
