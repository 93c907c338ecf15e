//! Decides the next step for the keys of one purpose. The decision is a pure function of the facts,
//! so every replica decides alike, and each step is one compare-and-swap.

use super::{Algorithm, KeyRecord, KeyState, Purpose};

/// Most keys that drain at the same time. It bounds the published set (I25), which also has one
/// active key and one standby.
pub const MAX_DRAINING: usize = 16;

/// Seconds by which the clock of another replica may be ahead.
const CLOCK_SPREAD_S: u64 = 60;

/// Seconds for which a retired key stays listed for operators.
const RETIRED_FOR_S: u64 = 7 * 86_400;

/// Rules for the keys of one purpose.
#[derive(Clone, Copy, Debug)]
pub struct KeyPolicy {
    /// Purpose of the keys.
    pub purpose: Purpose,
    /// Algorithm of new keys.
    pub algorithm: Algorithm,
    /// Seconds for which a key signs; `None` if keys rotate only on request.
    pub rotate_every_s: Option<u64>,
    /// Seconds to wait for confirmations before a forced rotation.
    pub ack_timeout_s: u64,
    /// Seconds after a key's last signature until everything that it signed under this
    /// configuration has expired.
    pub drain_s: u64,
    /// Longest time for which readers keep a document of `/jwks` (seconds).
    pub cached_s: u64,
}

/// Facts that decide the next step.
pub struct Facts<'a> {
    /// Wall clock (Unix seconds).
    pub now: u64,
    /// Certain time (Unix seconds), which does not depend on a wall clock alone.
    pub certain: u64,
    /// Keys of all purposes.
    pub keys: &'a [KeyRecord],
    /// Time at which a rotation of the keys of this purpose was requested (Unix seconds).
    pub rotation_requested: Option<u64>,
    /// True if this replica has run long enough for every live proxy to have polled.
    pub settled: bool,
    /// Version that every live proxy has confirmed; `u64::MAX` without proxies.
    pub confirmed: u64,
    /// True if every proxy pins the standby bundle key.
    pub pinned: bool,
}

/// Step in the life cycle of the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Generate a key in this state.
    Generate(KeyState),
    /// Make the standby sign; the previous active key drains.
    Promote {
        /// Standby.
        kid: String,
        /// Previous active key.
        from: Option<String>,
        /// True if confirmations are missing.
        forced: bool,
    },
    /// Extend the draining time, because the key signs longer-lived tokens now.
    Extend(String),
    /// Remove the key from the published set.
    Retire(String),
    /// Delete the key.
    Delete(String),
    /// Wait: a rotation is due, but too many keys drain.
    Full,
}

/// Returns the next step, if one is due.
#[must_use]
pub fn next_step(policy: &KeyPolicy, facts: &Facts<'_>) -> Option<Step> {
    let (keys, purpose) = (facts.keys, policy.purpose);
    let in_state = |state: KeyState| {
        keys.iter()
            .filter(move |key| key.purpose == purpose && key.state == state)
    };
    let due = |key: &&KeyRecord, after_s: u64| facts.certain > key.since.saturating_add(after_s);
    // Remove old keys.
    if let Some(done) = in_state(KeyState::Draining).find(|key| due(key, key.drain_s)) {
        return Some(Step::Retire(done.kid.clone()));
    }
    if let Some(old) = in_state(KeyState::Retired).find(|key| due(key, RETIRED_FOR_S)) {
        return Some(Step::Delete(old.kid.clone()));
    }
    // Remove standby keys that must not sign.
    if let Some(unwanted) = in_state(KeyState::Next)
        .find(|key| key.algorithm != policy.algorithm || is_misdated(policy, facts.now, key))
    {
        return Some(Step::Delete(unwanted.kid.clone()));
    }
    // A replica may have made a second standby while the database was restored.
    if policy.purpose == Purpose::Token
        && let Some(surplus) = in_state(KeyState::Next).nth(1)
    {
        return Some(Step::Delete(surplus.kid.clone()));
    }
    // Complete the pair of active key and standby.
    let standby = in_state(KeyState::Next).next();
    let Some(active) = in_state(KeyState::Active).next() else {
        return Some(standby.map_or(Step::Generate(KeyState::Active), |standby| {
            promote(standby, None, !standby.is_first())
        }));
    };
    let Some(standby) = standby else {
        return Some(Step::Generate(KeyState::Next));
    };
    // Follow a longer token lifetime in the configuration.
    if policy.purpose == Purpose::Token && active.drain_s < policy.drain_s {
        return Some(Step::Extend(active.kid.clone()));
    }
    // Rotate, if a rotation is due and every verifier has the standby.
    let wanted_since = wanted_since(policy, facts, active, standby)?;
    let confirmed = is_confirmed(policy, facts, standby);
    let begun = wanted_since.max(standby.since).max(standby.ready_at);
    // INVARIANT: no time-out makes an unpinned bundle key sign. A bundle that proxies cannot
    // verify stops all of them.
    let patience_over =
        policy.purpose == Purpose::Token && facts.now >= begun.saturating_add(policy.ack_timeout_s);
    // The wall clock counts too, because the certain time jumps when a lag ends.
    let kept_until = standby.since.saturating_add(policy.cached_s);
    let is_ready =
        standby.is_first() || (facts.certain >= standby.ready_at && facts.now >= kept_until);
    let is_cached = policy.purpose == Purpose::Token && !is_ready;
    if !facts.settled || is_cached || !(confirmed || patience_over) {
        return None;
    }
    if in_state(KeyState::Draining).count() >= MAX_DRAINING {
        return Some(Step::Full);
    }
    Some(promote(standby, Some(active), !confirmed))
}

/// Returns whether a replica whose clock was ahead made the key, which would never become ready.
/// Bundle keys are exempt, because they may be pinned already.
fn is_misdated(policy: &KeyPolicy, now: u64, key: &KeyRecord) -> bool {
    let latest = now.saturating_add(CLOCK_SPREAD_S);
    let ahead = key.since > latest || key.ready_at > latest.saturating_add(policy.cached_s);
    policy.purpose == Purpose::Token && ahead
}

/// Returns whether every verifier that counts has the key.
fn is_confirmed(policy: &KeyPolicy, facts: &Facts<'_>, standby: &KeyRecord) -> bool {
    match policy.purpose {
        Purpose::Token => facts.confirmed >= standby.published,
        Purpose::Bundle => facts.pinned,
    }
}

/// Returns whether a rotation is due, so that the confirmations of proxies matter.
#[must_use]
pub(super) fn is_wanted(policy: &KeyPolicy, facts: &Facts<'_>) -> bool {
    let find = |state: KeyState| {
        facts
            .keys
            .iter()
            .find(|key| key.purpose == policy.purpose && key.state == state)
    };
    let pair = find(KeyState::Active).zip(find(KeyState::Next));
    pair.is_some_and(|(active, standby)| wanted_since(policy, facts, active, standby).is_some())
}

/// Returns the time since which a rotation is due; `None` if none is.
fn wanted_since(
    policy: &KeyPolicy,
    facts: &Facts<'_>,
    active: &KeyRecord,
    standby: &KeyRecord,
) -> Option<u64> {
    let scheduled = policy
        .rotate_every_s
        .map(|every_s| active.since.saturating_add(every_s))
        .filter(|due| *due <= facts.now);
    let other_algorithm = (active.algorithm != policy.algorithm).then_some(standby.since);
    [facts.rotation_requested, scheduled, other_algorithm]
        .into_iter()
        .flatten()
        .min()
}

fn promote(standby: &KeyRecord, from: Option<&KeyRecord>, forced: bool) -> Step {
    Step::Promote {
        kid: standby.kid.clone(),
        from: from.map(|key| key.kid.clone()),
        forced,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: KeyPolicy = KeyPolicy {
        purpose: Purpose::Token,
        algorithm: Algorithm::EdDsa,
        rotate_every_s: Some(1_000),
        ack_timeout_s: 60,
        drain_s: 300,
        cached_s: 360,
    };

    fn key(kid: &str, state: KeyState, since: u64, published: u64) -> KeyRecord {
        let (purpose, algorithm) = (Purpose::Token, Algorithm::EdDsa);
        KeyRecord {
            kid: kid.into(),
            purpose,
            algorithm,
            state,
            since,
            published,
            ready_at: 0,
            drain_s: 300,
            public_jwk: String::new(),
            sealed: None,
        }
    }

    fn pair() -> Vec<KeyRecord> {
        vec![
            key("a", KeyState::Active, 100, 1),
            key("n", KeyState::Next, 100, 5),
        ]
    }

    fn facts(keys: &[KeyRecord]) -> Facts<'_> {
        Facts {
            now: 200,
            certain: 200,
            keys,
            rotation_requested: None,
            settled: true,
            confirmed: u64::MAX,
            pinned: false,
        }
    }

    fn rotation(forced: bool) -> Option<Step> {
        Some(Step::Promote {
            kid: "n".into(),
            from: Some("a".into()),
            forced,
        })
    }

    #[test]
    fn makes_signing_key_then_standby() {
        let mut keys = Vec::new();
        assert_eq!(
            next_step(&POLICY, &facts(&keys)),
            Some(Step::Generate(KeyState::Active))
        );
        keys.push(key("a", KeyState::Active, 100, 1));
        assert_eq!(
            next_step(&POLICY, &facts(&keys)),
            Some(Step::Generate(KeyState::Next))
        );
        keys.push(key("n", KeyState::Next, 100, 2));
        assert_eq!(next_step(&POLICY, &facts(&keys)), None);
    }

    #[test]
    fn rotation_waits_for_last_proxy() {
        let keys = pair();
        let asked = |confirmed| Facts {
            rotation_requested: Some(190),
            confirmed,
            ..facts(&keys)
        };
        assert_eq!(
            next_step(&POLICY, &asked(4)),
            None,
            "one proxy has version 4, the standby came with 5"
        );
        assert_eq!(next_step(&POLICY, &asked(5)), rotation(false));
        assert_eq!(
            next_step(&POLICY, &asked(u64::MAX)),
            rotation(false),
            "no proxies at all"
        );
    }

    #[test]
    fn rotation_is_forced_after_timeout() {
        let keys = pair();
        let at = |now| Facts {
            now,
            rotation_requested: Some(190),
            confirmed: 0,
            ..facts(&keys)
        };
        assert_eq!(next_step(&POLICY, &at(249)), None);
        assert_eq!(next_step(&POLICY, &at(250)), rotation(true));
    }

    #[test]
    fn timeout_starts_when_standby_is_published() {
        let keys = [
            key("a", KeyState::Active, 100, 1),
            key("n", KeyState::Next, 240, 9),
        ];
        let at = |now| Facts {
            now,
            rotation_requested: Some(190),
            confirmed: 0,
            ..facts(&keys)
        };
        assert_eq!(next_step(&POLICY, &at(299)), None);
        assert_eq!(next_step(&POLICY, &at(300)), rotation(true));
    }

    #[test]
    fn no_rotation_before_proxies_can_poll() {
        let keys = pair();
        let early = Facts {
            rotation_requested: Some(1),
            settled: false,
            ..facts(&keys)
        };
        assert_eq!(
            next_step(&POLICY, &early),
            None,
            "neither on confirmations nor on the timeout"
        );
    }

    #[test]
    fn rotates_on_schedule() {
        let keys = pair();
        assert_eq!(
            next_step(
                &POLICY,
                &Facts {
                    now: 1_099,
                    ..facts(&keys)
                }
            ),
            None
        );
        assert_eq!(
            next_step(
                &POLICY,
                &Facts {
                    now: 1_100,
                    ..facts(&keys)
                }
            ),
            rotation(false)
        );
        let never = KeyPolicy {
            rotate_every_s: None,
            ..POLICY
        };
        assert_eq!(
            next_step(
                &never,
                &Facts {
                    now: 1_000_000,
                    ..facts(&keys)
                }
            ),
            None
        );
    }

    #[test]
    fn rotates_to_configured_algorithm() {
        let policy = KeyPolicy {
            algorithm: Algorithm::Es256,
            ..POLICY
        };
        let mut keys = pair();
        assert_eq!(
            next_step(&policy, &facts(&keys)),
            Some(Step::Delete("n".into())),
            "the standby of the old algorithm"
        );
        keys.pop();
        assert_eq!(
            next_step(&policy, &facts(&keys)),
            Some(Step::Generate(KeyState::Next))
        );
        keys.push(KeyRecord {
            algorithm: Algorithm::Es256,
            ..key("n", KeyState::Next, 150, 7)
        });
        assert_eq!(next_step(&policy, &facts(&keys)), rotation(false));
    }

    #[test]
    fn old_key_drains_retires_and_is_deleted() {
        let mut keys = pair();
        keys.push(key("old", KeyState::Draining, 0, 0));
        assert_eq!(
            next_step(
                &POLICY,
                &Facts {
                    now: 900,
                    certain: 300,
                    ..facts(&keys)
                }
            ),
            None,
            "its last token may live, by one of the clocks"
        );
        assert_eq!(
            next_step(
                &POLICY,
                &Facts {
                    certain: 301,
                    ..facts(&keys)
                }
            ),
            Some(Step::Retire("old".into()))
        );
        keys[2] = key("old", KeyState::Retired, 301, 0);
        let never = KeyPolicy {
            rotate_every_s: None,
            ..POLICY
        };
        assert_eq!(
            next_step(
                &never,
                &Facts {
                    certain: 301 + RETIRED_FOR_S,
                    ..facts(&keys)
                }
            ),
            None
        );
        assert_eq!(
            next_step(
                &never,
                &Facts {
                    certain: 302 + RETIRED_FOR_S,
                    ..facts(&keys)
                }
            ),
            Some(Step::Delete("old".into()))
        );
    }

    #[test]
    fn standby_replaces_missing_active_key_unconfirmed() {
        let keys = [key("n", KeyState::Next, 100, 5)];
        let emergency = Facts {
            settled: false,
            confirmed: 0,
            ..facts(&keys)
        };
        assert_eq!(
            next_step(&POLICY, &emergency),
            Some(Step::Promote {
                kid: "n".into(),
                from: None,
                forced: false
            })
        );
    }

    #[test]
    fn limits_draining_keys() {
        let mut keys = pair();
        keys.extend((0..MAX_DRAINING).map(|at| key(&format!("d{at}"), KeyState::Draining, 190, 0)));
        assert_eq!(
            next_step(
                &POLICY,
                &Facts {
                    rotation_requested: Some(190),
                    ..facts(&keys)
                }
            ),
            Some(Step::Full)
        );
    }

    #[test]
    fn ignores_keys_of_other_purpose() {
        let mut keys = pair();
        keys.push(KeyRecord {
            purpose: Purpose::Bundle,
            ..key("b", KeyState::Active, 0, 0)
        });
        let bundle = KeyPolicy {
            purpose: Purpose::Bundle,
            rotate_every_s: None,
            ..POLICY
        };
        assert_eq!(
            next_step(&bundle, &facts(&keys)),
            Some(Step::Generate(KeyState::Next))
        );
        assert_eq!(next_step(&POLICY, &facts(&keys)), None);
    }

    #[test]
    fn standby_waits_for_cached_key_sets() {
        let mut keys = pair();
        keys[1].ready_at = 500;
        let at = |now, confirmed| Facts {
            now,
            certain: now,
            confirmed,
            rotation_requested: Some(190),
            ..facts(&[])
        };
        let step = |facts: Facts<'_>| {
            next_step(
                &POLICY,
                &Facts {
                    keys: &keys,
                    ..facts
                },
            )
        };
        assert_eq!(
            step(at(79, u64::MAX)),
            Some(Step::Delete("n".into())),
            "dated by a clock that was ahead"
        );
        assert_eq!(
            step(at(499, u64::MAX)),
            None,
            "confirmed by proxies, but not ready"
        );
        assert_eq!(step(at(500, u64::MAX)), rotation(false));
        assert_eq!(step(at(559, 0)), None, "patience begins when it is ready");
        assert_eq!(step(at(560, 0)), rotation(true));
    }

    #[test]
    fn drains_for_longest_signed_lifetime() {
        let mut keys = pair();
        keys[0].drain_s = 600;
        keys.push(KeyRecord {
            drain_s: 600,
            ..key("old", KeyState::Draining, 0, 0)
        });
        assert_eq!(
            next_step(
                &POLICY,
                &Facts {
                    certain: 600,
                    ..facts(&keys)
                }
            ),
            None,
            "300 s are configured now"
        );
        assert_eq!(
            next_step(
                &POLICY,
                &Facts {
                    certain: 601,
                    ..facts(&keys)
                }
            ),
            Some(Step::Retire("old".into()))
        );
        keys.pop();
        let longer = KeyPolicy {
            drain_s: 900,
            ..POLICY
        };
        assert_eq!(
            next_step(&longer, &facts(&keys)),
            Some(Step::Extend("a".into()))
        );
    }

    #[test]
    fn bundle_key_waits_for_pins() {
        let bundle = KeyPolicy {
            purpose: Purpose::Bundle,
            rotate_every_s: None,
            ..POLICY
        };
        let keys: Vec<_> = pair()
            .into_iter()
            .map(|key| KeyRecord {
                purpose: Purpose::Bundle,
                ..key
            })
            .collect();
        let wanted = |pinned| Facts {
            now: 100_000,
            pinned,
            rotation_requested: Some(190),
            ..facts(&keys)
        };
        assert_eq!(
            next_step(&bundle, &wanted(false)),
            None,
            "not after any time"
        );
        assert_eq!(next_step(&bundle, &wanted(true)), rotation(false));
    }
}
