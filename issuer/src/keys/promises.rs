//! Records how long readers may cache copies of `/jwks`, across restarts and configurations (ADR
//! 21).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{KeyPolicy, MasterKey, Purpose};
use crate::clock::Clock;
use crate::config::MAX_JWKS_AGE_S;
use crate::store::{Store, StoreError};

/// Name of the entry in the database.
const NAME: &str = "jwks max-age";

/// Purpose of the entry's MAC.
const PURPOSE: &str = "jwks max-age v1";

/// Seconds between two renewals of the record.
const RENEW_EVERY_S: u64 = 60;

/// Seconds after a renewal during which a replica serves copies with the full `max-age`.
const LENDS_FOR_S: u64 = 120;

/// Seconds by which the clock of another replica may be ahead.
const CLOCK_SPREAD_S: u64 = 60;

/// Most values of `max-age` that are recorded separately.
const MAX_PROMISES: usize = 8;

/// For each `max-age` (seconds) that some replica served: the time until which readers may keep
/// such a copy (Unix seconds).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Promises(BTreeMap<u64, u64>);

impl Promises {
    /// Returns the assumption for a missing or forged record: the longest configurable `max-age`
    /// was served until now.
    fn unknown(now: u64) -> Self {
        Self(BTreeMap::from([(
            MAX_JWKS_AGE_S,
            now.saturating_add(MAX_JWKS_AGE_S),
        )]))
    }

    /// Parses the form that [`fmt::Display`] writes.
    fn parse(text: &str) -> Option<Self> {
        text.split(',')
            .filter(|item| !item.is_empty())
            .map(|item| {
                let (max_age_s, until) = item.split_once(':')?;
                Some((max_age_s.parse().ok()?, until.parse().ok()?))
            })
            .collect::<Option<_>>()
            .map(Self)
    }

    /// Returns the promises that are still in effect at the `certain` time, and the promise of a
    /// replica that serves this `max-age` from now on.
    fn renewed(&self, max_age_s: u64, now: u64, certain: u64) -> Self {
        let mut kept = self.0.clone();
        // Only certain time ends a promise: readers may still keep their copies.
        kept.retain(|_, until| *until > certain);
        if max_age_s > 0 {
            let lends_until = now.saturating_add(LENDS_FOR_S + CLOCK_SPREAD_S);
            let until = kept.entry(max_age_s).or_default();
            *until = lends_until.saturating_add(max_age_s).max(*until);
        }
        while kept.len() > MAX_PROMISES {
            // Merging the shortest into the next longer one only makes new keys wait longer.
            let Some((_, shortest)) = kept.pop_first() else {
                break;
            };
            if let Some(mut next) = kept.first_entry() {
                let until = shortest.max(*next.get());
                next.insert(until);
            }
        }
        Self(kept)
    }

    /// Returns the longest `max-age` in effect (seconds).
    fn longest_s(&self, certain: u64) -> u64 {
        let in_effect = self.0.iter().filter(|(_, until)| **until > certain);
        in_effect
            .map(|(max_age_s, _)| *max_age_s)
            .max()
            .unwrap_or(0)
    }
}

impl fmt::Display for Promises {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (max_age_s, until)) in self.0.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            write!(out, "{comma}{max_age_s}:{until}")?;
        }
        Ok(())
    }
}

/// Promises of all replicas, and the renewal of this replica's own.
#[derive(Debug)]
pub struct JwksPromises {
    max_age_s: u64,
    last: Mutex<Last>,
}

/// Result of the last renewal.
#[derive(Clone, Debug, Default)]
struct Last {
    promises: Promises,
    /// Monotonic seconds of the last renewal.
    renewed_at: u64,
}

impl JwksPromises {
    /// Records the promise of a replica before it serves `/jwks` with this `max-age`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn begin(
        max_age_s: u64,
        store: &dyn Store,
        clock: &dyn Clock,
        master: &MasterKey,
        certain: u64,
    ) -> Result<Self, StoreError> {
        let begun = Self {
            max_age_s,
            last: Mutex::default(),
        };
        begun.renew(store, clock, master, certain).await?;
        Ok(begun)
    }

    fn lock(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the last renewal is a minute ago.
    pub(super) fn is_due(&self, steady: u64) -> bool {
        steady >= self.lock().renewed_at.saturating_add(RENEW_EVERY_S)
    }

    /// Reads the promises of all replicas and renews that of this replica.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) async fn renew(
        &self,
        store: &dyn Store,
        clock: &dyn Clock,
        master: &MasterKey,
        certain: u64,
    ) -> Result<(), StoreError> {
        loop {
            let (now, steady) = (clock.now(), clock.steady());
            let text = store.constant(NAME, "").await?;
            // A missing record is expected only in a database that has no keys.
            let known = match master.verified(PURPOSE, &text).and_then(Promises::parse) {
                Some(known) => known,
                None if text.is_empty() && store.load().await?.keys.is_empty() => {
                    Promises::default()
                }
                None => {
                    tracing::warn!(
                        "the record of /jwks max-age is missing or has no valid MAC; \
                         new keys wait a day before they sign"
                    );
                    Promises::unknown(now)
                }
            };
            let promises = known.renewed(self.max_age_s, now, certain);
            let renewed = master.authenticated(PURPOSE, &promises.to_string());
            // If another replica renewed its promise meanwhile, read again.
            if renewed == text || store.replace(NAME, &text, &renewed).await? {
                *self.lock() = Last {
                    promises,
                    renewed_at: steady,
                };
                return Ok(());
            }
        }
    }

    /// Returns the policy with the longest time for which readers may cache a key set without a new
    /// key: the policy's own, or that of a promise in effect at the `certain` time (Unix seconds).
    #[must_use]
    pub fn in_effect(&self, policy: &KeyPolicy, certain: u64) -> KeyPolicy {
        let promised_s = match policy.purpose {
            Purpose::Token => self.lock().promises.longest_s(certain),
            Purpose::Bundle => 0,
        };
        KeyPolicy {
            cached_s: policy.cached_s.max(promised_s),
            ..*policy
        }
    }

    /// Returns the seconds by which this replica must shorten the `max-age` that it serves, because
    /// it could not renew its promise.
    #[must_use]
    pub fn overdue_s(&self, steady: u64) -> u64 {
        steady.saturating_sub(self.lock().renewed_at.saturating_add(LENDS_FOR_S))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longer_promise_lasts_until_copies_expire() {
        let long = Promises::default().renewed(3_600, 1_000, 0);
        let both = long.renewed(360, 2_000, 2_000);
        let end = 1_000 + 3_600 + LENDS_FOR_S + CLOCK_SPREAD_S;
        assert_eq!(
            [both.longest_s(end - 1), both.longest_s(end)],
            [3_600, 0],
            "{both}"
        );
        assert_eq!(both.longest_s(2_500), 3_600);
        assert_eq!(Promises::parse(&both.to_string()), Some(both.clone()));
        assert_eq!(both.renewed(360, end, end).0.len(), 1, "and is forgotten");
        assert_eq!(both.renewed(0, 2_000, 2_000), both, "no copy, no promise");
    }

    #[test]
    fn many_promises_become_fewer_and_longer() {
        let mut promises = Promises::default();
        for max_age_s in 1..=20 {
            promises = promises.renewed(max_age_s, 1_000 - max_age_s, 0);
        }
        assert_eq!(promises.0.len(), MAX_PROMISES);
        let latest = 1_000 + LENDS_FOR_S + CLOCK_SPREAD_S;
        assert_eq!(promises.0.first_key_value(), Some((&13, &latest)));
    }

    #[test]
    fn rejects_malformed_promises() {
        for text in ["1", "1:", ":1", "1:2:3", "-1:2", "1:2 3:4"] {
            assert_eq!(Promises::parse(text), None, "{text}");
        }
    }
}
