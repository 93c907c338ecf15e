//! Finds state that the database lost and this replica remembers, and the change that restores it
//! (ADR 0019).

use std::collections::{BTreeMap, HashMap};

use crate::clock::MAX_STEP_MS;
use crate::config::MAX_TOKEN_LIFE_S;
use crate::keys::{KeyChange, KeyRecord, KeyState, Purpose, key_epoch};
use crate::revocation::{EpochKind, EpochRecord, RevokedToken};
use crate::store::{Change, Incident, Persisted};
use crate::tokens::index_floor;

/// Seconds for which a revocation is kept after its expiry: another replica, whose clock is behind,
/// would take its absence for a loss.
pub(crate) const PRUNE_SPREAD_S: u64 = 60;

/// Most tokens that one change restores: a second of database work.
const TOKENS_PER_CHANGE: usize = 50_000;

/// Most epochs that one change restores.
const EPOCHS_PER_CHANGE: usize = 1_000;

/// Difference between what this replica remembers and what the database holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Loss {
    /// The database is at a version that does not follow the remembered one.
    pub(super) went_back: bool,
    tokens: Vec<RevokedToken>,
    epochs: Vec<EpochRecord>,
}

impl Loss {
    /// Compares; `None` when the database holds all that is remembered and still needed.
    pub(super) fn between(memory: &Persisted, loaded: &Persisted, now: u64) -> Option<Self> {
        let epochs: HashMap<_, _> = loaded
            .epochs
            .iter()
            .map(|epoch| ((epoch.kind.name(), &*epoch.name), epoch))
            .collect();
        let kept_epoch = |epoch: &EpochRecord| {
            let kept = epochs.get(&(epoch.kind.name(), &*epoch.name));
            kept.is_some_and(|kept| {
                kept.before >= epoch.before && kept.expires_at >= epoch.expires_at
            })
        };
        // Both are in the order of indices.
        let mut present = loaded.revoked.iter().peekable();
        let mut kept_token = |token: &RevokedToken| {
            while present.next_if(|other| other.index < token.index).is_some() {}
            present.peek().is_some_and(|other| {
                other.index == token.index && other.expires_at >= token.expires_at
            })
        };
        let lost_tokens = memory
            .revoked
            .iter()
            .filter(|token| token.expires_at > now && !kept_token(token));
        let lost_epochs = memory
            .epochs
            .iter()
            .filter(|epoch| epoch.expires_at > now && !kept_epoch(epoch));
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
            "the database went back from version {} to {} and lost {} revoked tokens and {} epochs; \
             a replica restored them from memory",
            memory.version,
            loaded.version,
            self.tokens.len(),
            self.epochs.len()
        )
    }

    /// Returns the change that restores what was lost, or the first part of it.
    pub(super) fn restoration(
        mut self,
        memory: &Persisted,
        loaded: &Persisted,
        now_ms: u64,
    ) -> Change {
        let reason = self.reason(memory, loaded);
        self.tokens.truncate(TOKENS_PER_CHANGE);
        self.epochs.truncate(EPOCHS_PER_CHANGE);
        let keys = if self.went_back {
            restored_keys(memory, loaded, now_ms / 1_000)
        } else {
            Vec::new()
        };
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
    /// Returns whether this state includes a version: it is this one or an earlier one of the same
    /// history. One that is older than the remembered history counts as included.
    #[must_use]
    pub fn follows(&self, version: u64) -> bool {
        let oldest = self.recent.first().copied().unwrap_or(self.version);
        version == self.version || self.recent.contains(&version) || version < oldest
    }
}

/// Returns an epoch over every token issued so far, on the clock of any replica.
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

/// Returns whether the loss of a version un-revokes nothing. No token is accepted that was issued
/// when the version was published: an epoch covers them, as after an incident, or they have
/// expired. And every trusted key was made later: one that the version revoked would sign tokens of
/// any date. A version is the time of its publication (Unix milliseconds).
pub(super) fn is_harmless(memory: &Persisted, lost: u64, now_ms: u64) -> bool {
    let may_be_revoked = |key: &KeyRecord| is_trusted(key) && key.published <= lost;
    if memory.keys.iter().any(may_be_revoked) {
        return false;
    }
    let latest = lost.saturating_add(MAX_STEP_MS) / 1_000;
    let covers = |epoch: &EpochRecord| epoch.kind == EpochKind::All && epoch.before > latest;
    memory.epochs.iter().any(covers) || latest.saturating_add(MAX_TOKEN_LIFE_S) < now_ms / 1_000
}

/// Returns whether a key signs tokens, may sign them, or verifies them still.
fn is_trusted(key: &KeyRecord) -> bool {
    key.purpose == Purpose::Token && key.state != KeyState::Retired
}

/// Returns the change of an incident in which state was lost that no replica remembers: all tokens
/// are revoked, and so is each key that may sign or verify them. It may have been revoked in what
/// is lost, and whoever stole it could sign tokens that no epoch covers. The keeper makes another
/// one at once.
pub(crate) fn unproven(reason: String, lost: &[u64], now_ms: u64, keys: &[KeyRecord]) -> Change {
    let since = now_ms / 1_000;
    let trusted = || keys.iter().filter(|key| is_trusted(key));
    let retire = |key: &KeyRecord| KeyChange::Enter {
        kid: key.kid.clone(),
        state: KeyState::Retired,
        since,
    };
    Change {
        keys: trusted().map(retire).collect(),
        epochs: trusted()
            .map(|key| key_epoch(&key.kid, since))
            .chain([epoch_of_all(since)])
            .collect(),
        next_index: index_floor(now_ms),
        incident: Some(Some(Incident { since, reason })),
        above: lost.iter().copied().max().unwrap_or(0),
        ..Change::default()
    }
}

/// Finding of lost records of workers.
pub(super) const WORKERS: &str = "the database lost records of workers";

/// Finding of lost uses of client assertions.
pub(crate) const ASSERTIONS: &str = "the database lost uses of client assertions";

/// Returns the change of an incident in which records were lost that revoke nothing. What the
/// present one says stays.
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

fn age(state: KeyState) -> u8 {
    match state {
        KeyState::Next => 0,
        KeyState::Active => 1,
        KeyState::Draining => 2,
        KeyState::Retired => 3,
    }
}

/// Merges both key lists. A key is never younger than either says, drains for the longer of two
/// times, one that was deleted since does not come back, and one key of each purpose signs.
fn restored_keys(memory: &Persisted, loaded: &Persisted, now: u64) -> Vec<KeyChange> {
    let mut merged: BTreeMap<String, KeyRecord> = BTreeMap::new();
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
    for key in &memory.keys {
        let known = merged.get_mut(&*key.kid);
        if let Some(known) = known.filter(|known| age(known.state) >= age(key.state)) {
            known.drain_s = known.drain_s.max(key.drain_s);
        } else {
            // A branch may have made another key to sign, which this replica never knew.
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
    let held = |key: &&KeyRecord| loaded.keys.iter().any(|known| known.kid == key.kid);
    let deleted = changed.iter().filter(held).map(|key| KeyChange::Delete {
        kid: key.kid.clone(),
    });
    // A key that signs is deleted before another is written as the one that signs.
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
