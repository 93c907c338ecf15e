//! Detection of state that the database lost and this replica remembers, and the change that
//! restores it (ADR 0019).

use std::collections::{BTreeMap, HashMap};

use crate::clock::MAX_STEP_MS;
use crate::config::MAX_TOKEN_LIFE_S;
use crate::keys::{KeyChange, KeyRecord, KeyState, Purpose, key_epoch};
use crate::revocation::{EpochKind, EpochRecord, RevokedToken};
use crate::store::{Change, Incident, Persisted};
use crate::tokens::index_floor;

/// Seconds for which a revocation is kept after its expiry. A replica whose clock is behind would
/// otherwise take the absence of the revocation for a loss.
pub(crate) const PRUNE_SPREAD_S: u64 = 60;

/// Largest number of tokens that one change restores: about a second of database work.
const TOKENS_PER_CHANGE: usize = 50_000;

/// Largest number of epochs that one change restores.
const EPOCHS_PER_CHANGE: usize = 1_000;

/// State that this replica remembers and the database lacks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Loss {
    /// True if the version of the database does not follow the remembered one.
    pub(super) went_back: bool,
    tokens: Vec<RevokedToken>,
    epochs: Vec<EpochRecord>,
}

impl Loss {
    /// Compares the remembered state with the loaded one. Returns `None` if the database holds
    /// every remembered revocation that has not expired, and did not go back.
    pub(super) fn between(memory: &Persisted, loaded: &Persisted, now: u64) -> Option<Self> {
        let epochs: HashMap<_, _> = loaded
            .epochs
            .iter()
            .map(|epoch| ((epoch.kind.name(), &*epoch.name), epoch))
            .collect();
        // INVARIANT: both lists of tokens are sorted by index, so one pass over both suffices.
        let mut present = loaded.revoked.iter().peekable();
        let lost_tokens = memory.revoked.iter().filter(|token| {
            while present.next_if(|other| other.index < token.index).is_some() {}
            let is_kept = present.peek().is_some_and(|other| {
                other.index == token.index && other.expires_at >= token.expires_at
            });
            token.expires_at > now && !is_kept
        });
        // A later epoch or a later expiry is no loss: revocations only grow.
        let lost_epochs = memory.epochs.iter().filter(|epoch| {
            let kept = epochs.get(&(epoch.kind.name(), &*epoch.name));
            let is_kept = kept.is_some_and(|kept| {
                kept.before >= epoch.before && kept.expires_at >= epoch.expires_at
            });
            epoch.expires_at > now && !is_kept
        });
        let loss = Self {
            went_back: !loaded.follows(memory.version),
            tokens: lost_tokens.copied().collect(),
            epochs: lost_epochs.cloned().collect(),
        };
        (loss != Self::default()).then_some(loss)
    }

    /// Returns the finding, for the log and for operators.
    pub(super) fn reason(&self, memory: &Persisted, loaded: &Persisted) -> String {
        format!(
            "the database went back from version {} to {} and lost {} revoked tokens and {} \
             epochs; a replica restored them from memory",
            memory.version,
            loaded.version,
            self.tokens.len(),
            self.epochs.len()
        )
    }

    /// Returns the change that restores the lost state, or the first part of it.
    pub(super) fn restoration(
        mut self,
        memory: &Persisted,
        loaded: &Persisted,
        now_ms: u64,
    ) -> Change {
        let reason = self.reason(memory, loaded);
        self.tokens.truncate(TOKENS_PER_CHANGE);
        self.epochs.truncate(EPOCHS_PER_CHANGE);
        // If the database did not go back, its keys are the newest ones.
        let keys = if self.went_back {
            restored_keys(memory, loaded, now_ms / 1_000)
        } else {
            Vec::new()
        };
        // The remembered versions become part of the history again. Otherwise a proxy that holds
        // one of them would count as holding a lost version.
        let merge = memory
            .recent
            .iter()
            .copied()
            .chain([memory.version])
            .collect();
        Change {
            expected_version: Some(loaded.version),
            keys,
            revoke: self.tokens,
            epochs: self.epochs,
            merge,
            next_index: index_floor(now_ms).max(memory.next_index),
            incident: Some(Some(Incident {
                since: now_ms / 1_000,
                reason,
            })),
            ..Change::default()
        }
    }
}

impl Persisted {
    /// Returns whether this state includes a version: the version is the present one or an earlier
    /// one of the same history. A version older than the remembered history counts as included.
    #[must_use]
    pub fn follows(&self, version: u64) -> bool {
        let oldest = self.recent.first().copied().unwrap_or(self.version);
        version == self.version || self.recent.contains(&version) || version < oldest
    }
}

/// Returns an epoch over every token issued so far by any replica, whose clock may be ahead.
pub(super) fn epoch_of_all(now: u64) -> EpochRecord {
    let before = now.saturating_add(MAX_STEP_MS / 1_000).saturating_add(1);
    let expires_at = before.saturating_add(MAX_TOKEN_LIFE_S);
    EpochRecord {
        kind: EpochKind::All,
        name: String::new(),
        before,
        expires_at,
    }
}

/// Returns whether the loss of a version un-revokes nothing, which needs two conditions.
///
/// - Tokens that were issued before the version was published are rejected anyway: an epoch covers
///   them, as after an incident, or they have expired. A version is the time of its publication
///   (Unix milliseconds).
/// - Every trusted key was published after the version. The version may have revoked an older key,
///   and a thief of that key can sign tokens of any date.
pub(super) fn is_harmless(memory: &Persisted, lost: u64, now_ms: u64) -> bool {
    if memory
        .keys
        .iter()
        .any(|key| is_trusted(key) && key.published <= lost)
    {
        return false;
    }
    // Another replica's clock, and so the `iat` of its tokens, may have been ahead.
    let latest = lost.saturating_add(MAX_STEP_MS) / 1_000;
    memory
        .epochs
        .iter()
        .any(|epoch| epoch.kind == EpochKind::All && epoch.before > latest)
        || latest.saturating_add(MAX_TOKEN_LIFE_S) < now_ms / 1_000
}

/// Returns whether a key signs tokens, will sign them, or still verifies them.
fn is_trusted(key: &KeyRecord) -> bool {
    key.purpose == Purpose::Token && key.state != KeyState::Retired
}

/// Returns the change of an incident in which state was lost that no replica remembers. It revokes
/// all tokens, and each key that may sign or verify them. Such a key may have been revoked in the
/// lost state, and a thief of the key could sign tokens that no epoch covers. The key manager
/// generates a new key at once.
pub(crate) fn unproven(reason: String, lost: &[u64], now_ms: u64, keys: &[KeyRecord]) -> Change {
    let since = now_ms / 1_000;
    let trusted: Vec<&KeyRecord> = keys.iter().filter(|key| is_trusted(key)).collect();
    Change {
        keys: trusted
            .iter()
            .map(|key| KeyChange::Enter {
                kid: key.kid.clone(),
                state: KeyState::Retired,
                since,
            })
            .collect(),
        epochs: trusted
            .iter()
            .map(|key| key_epoch(&key.kid, since))
            .chain([epoch_of_all(since)])
            .collect(),
        next_index: index_floor(now_ms),
        incident: Some(Some(Incident { since, reason })),
        above: lost.iter().copied().max().unwrap_or(0),
        ..Change::default()
    }
}

/// Incident reason for lost worker records.
pub(super) const WORKERS: &str = "the database lost records of workers";

/// Incident reason for lost uses of client assertions.
pub(crate) const ASSERTIONS: &str = "the database lost uses of client assertions";

/// Returns the change of an incident in which only records were lost, so that nothing is revoked.
/// The reason of a present incident is kept.
pub(crate) fn lost_records(lost: &str, present: Option<&Incident>, now_ms: u64) -> Change {
    let reason = match present {
        Some(present) if present.reason.contains(lost) => present.reason.clone(),
        Some(present) => format!("{}; {lost}", present.reason),
        None => lost.to_owned(),
    };
    let incident = Some(Some(Incident {
        since: now_ms / 1_000,
        reason,
    }));
    Change {
        incident,
        next_index: index_floor(now_ms),
        ..Change::default()
    }
}

/// Returns the position of a state in a key's life.
fn age(state: KeyState) -> u8 {
    match state {
        KeyState::Next => 0,
        KeyState::Active => 1,
        KeyState::Draining => 2,
        KeyState::Retired => 3,
    }
}

/// Merges the remembered and the loaded keys, and returns the steps that lead from the loaded keys
/// to the merged ones. A key gets the later of its two states and the longer of its two draining
/// times. A key that was deleted stays deleted. One key of each purpose stays active.
fn restored_keys(memory: &Persisted, loaded: &Persisted, now: u64) -> Vec<KeyChange> {
    let mut merged: BTreeMap<String, KeyRecord> = BTreeMap::new();
    // Start with the loaded keys. A key that this replica must have known and no longer has was
    // deleted after the loaded version.
    for key in &loaded.keys {
        let deleted =
            key.published <= memory.version && memory.keys.iter().all(|known| known.kid != key.kid);
        let key = if deleted {
            key.clone().entering(KeyState::Retired, now)
        } else {
            key.clone()
        };
        merged.insert(key.kid.clone(), key);
    }
    // Merge the remembered keys into them.
    for key in &memory.keys {
        let known = merged.get_mut(&*key.kid);
        if let Some(known) = known.filter(|known| age(known.state) >= age(key.state)) {
            known.drain_s = known.drain_s.max(key.drain_s);
        } else {
            // After the jump back another replica may have activated a key that this replica never
            // knew. That key stays active, and the remembered one drains.
            let rival = key.state == KeyState::Active
                && merged.values().any(|other| {
                    other.purpose == key.purpose
                        && other.state == KeyState::Active
                        && other.published > memory.version
                });
            let key = if rival {
                key.clone().entering(KeyState::Draining, now)
            } else {
                key.clone()
            };
            let drain_s = merged
                .get(&*key.kid)
                .map_or(0, |known| known.drain_s)
                .max(key.drain_s);
            let key = KeyRecord { drain_s, ..key };
            merged.insert(key.kid.clone(), key);
        }
    }
    let changed: Vec<KeyRecord> = merged
        .into_values()
        .filter(|key| !loaded.keys.contains(key))
        .collect();
    let deleted = changed
        .iter()
        .filter(|key| loaded.keys.iter().any(|known| known.kid == key.kid))
        .map(|key| KeyChange::Delete {
            kid: key.kid.clone(),
        });
    // INVARIANT: at most one key of a purpose is active in the database. All rows that change are
    // deleted first, so that no row becomes active beside an old one.
    deleted
        .chain(changed.iter().cloned().map(KeyChange::Restore))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_is_harmless_without_living_tokens() {
        let (lost, now) = (1_000_000, 1_000);
        let mut memory = Persisted::default();
        assert!(!is_harmless(
            &memory,
            lost,
            (now + MAX_TOKEN_LIFE_S) * 1_000
        ));
        assert!(
            is_harmless(&memory, lost, (now + MAX_TOKEN_LIFE_S + 10) * 1_000),
            "they have expired"
        );
        memory.epochs.push(EpochRecord {
            before: now,
            ..epoch_of_all(now)
        });
        assert!(
            !is_harmless(&memory, lost, lost),
            "a replica's clock may have been ahead"
        );
        memory.epochs.push(epoch_of_all(now));
        assert!(is_harmless(&memory, lost, lost));
    }
}
