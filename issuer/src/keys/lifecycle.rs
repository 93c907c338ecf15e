//! What to do next with the keys of one purpose: a pure function of what is known, one step at a
//! time, so that every replica comes to the same answer and each step is one compare-and-swap.

use super::{Algorithm, KeyRecord, KeyState, Purpose};

/// Most keys that drain at a time. Bounds the published set (I25): with these, one signs and one
/// stands by.
pub const MAX_DRAINING: usize = 16;

/// Seconds by which the clock of another replica may be ahead.
const CLOCK_SPREAD_S: u64 = 60;

/// Seconds that a retired key stays in the list for the operator to see.
const RETIRED_FOR_S: u64 = 7 * 86_400;

/// How keys of a purpose are to live.
#[derive(Clone, Copy, Debug)]
pub struct KeyPolicy {
    /// What they sign.
    pub purpose: Purpose,
    /// How new ones sign.
    pub algorithm: Algorithm,
    /// Seconds that a key signs; `None` for as long as nobody asks.
    pub rotate_every_s: Option<u64>,
    /// Seconds to wait for confirmations before rotating without them.
    pub ack_timeout_s: u64,
    /// Seconds after its last signature until nothing that a key signed under this configuration
    /// can be alive.
    pub drain_s: u64,
    /// Longest time in seconds for which readers keep a document of `/jwks`.
    pub cached_s: u64,
}

/// What is known now.
pub struct Facts<'a> {
    /// Unix seconds.
    pub now: u64,
    /// Time that has passed for certain (Unix seconds), whatever wall clocks say.
    pub certain: u64,
    /// Every key.
    pub keys: &'a [KeyRecord],
    /// When a rotation of the keys of this purpose was requested.
    pub rotation_requested: Option<u64>,
    /// Whether this replica has been up long enough to have heard of every live proxy.
    pub settled: bool,
    /// The version that every live proxy has confirmed; `u64::MAX` without proxies.
    pub confirmed: u64,
    /// Whether every proxy pins the standby among the bundle keys.
    pub pinned: bool,
}

/// A step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make a key in this state.
    Generate(KeyState),
    /// The standby signs from now on; the key that signed until now drains.
    Promote {
        /// The standby.
        kid: String,
        /// The key that signed.
        from: Option<String>,
        /// Confirmations were missing when the time was up.
        forced: bool,
    },
    /// It signs longer-lived tokens under the present configuration: it will drain for longer.
    Extend(String),
    /// Publish it no more.
    Retire(String),
    /// Forget it.
    Delete(String),
    /// A rotation is wanted, but too many keys drain: wait.
    Full,
}

/// The next step, if one is due.
#[must_use]
pub fn next_step(policy: &KeyPolicy, facts: &Facts<'_>) -> Option<Step> {
    let ours = || {
        facts
            .keys
            .iter()
            .filter(|key| key.purpose == policy.purpose)
    };
    let in_state = |state: KeyState| ours().filter(move |key| key.state == state);
    let due = |key: &&KeyRecord, after_s: u64| facts.certain > key.since.saturating_add(after_s);
    if let Some(done) = in_state(KeyState::Draining).find(|key| due(key, key.drain_s)) {
        return Some(Step::Retire(done.kid.clone()));
    }
    if let Some(old) = in_state(KeyState::Retired).find(|key| due(key, RETIRED_FOR_S)) {
        return Some(Step::Delete(old.kid.clone()));
    }
    let is_unwanted =
        |key: &&KeyRecord| key.algorithm != policy.algorithm || is_misdated(policy, facts.now, key);
    if let Some(unwanted) = in_state(KeyState::Next).find(is_unwanted) {
        return Some(Step::Delete(unwanted.kid.clone()));
    }
    // A database that went back and was restored may have made a second one meanwhile.
    if policy.purpose == Purpose::Token
        && let Some(surplus) = in_state(KeyState::Next).nth(1)
    {
        return Some(Step::Delete(surplus.kid.clone()));
    }
    let standby = in_state(KeyState::Next).next();
    let Some(active) = in_state(KeyState::Active).next() else {
        return Some(standby.map_or(Step::Generate(KeyState::Active), |standby| {
            promote(standby, None, !standby.is_first())
        }));
    };
    let Some(standby) = standby else {
        return Some(Step::Generate(KeyState::Next));
    };
    if policy.purpose == Purpose::Token && active.drain_s < policy.drain_s {
        return Some(Step::Extend(active.kid.clone()));
    }
    let wanted_since = wanted_since(policy, facts, active, standby)?;
    let confirmed = is_confirmed(policy, facts, standby);
    let begun = wanted_since.max(standby.since).max(standby.ready_at);
    // A bundle that proxies cannot verify stops them all: no time-out makes an unpinned key sign.
    let patience_over =
        policy.purpose == Purpose::Token && facts.now >= begun.saturating_add(policy.ack_timeout_s);
    // By the wall clock, too: what counts as certain jumps when a lag ends.
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

/// Returns whether a replica whose clock was ahead made the key: it would never be ready. A bundle
/// key may be pinned already.
fn is_misdated(policy: &KeyPolicy, now: u64, key: &KeyRecord) -> bool {
    let latest = now.saturating_add(CLOCK_SPREAD_S);
    let ahead = key.since > latest || key.ready_at > latest.saturating_add(policy.cached_s);
    policy.purpose == Purpose::Token && ahead
}

/// Returns whether every verifier that counts holds the key.
fn is_confirmed(policy: &KeyPolicy, facts: &Facts<'_>, standby: &KeyRecord) -> bool {
    match policy.purpose {
        Purpose::Token => facts.confirmed >= standby.published,
        Purpose::Bundle => facts.pinned,
    }
}

/// Whether a rotation is wanted, so that it matters what proxies have confirmed.
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

/// Since when the active key should have been replaced; `None` while it is fine.
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
    fn an_empty_database_gets_a_signing_key_then_a_standby_then_rest() {
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
    fn a_rotation_waits_for_the_last_proxy() {
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
    fn after_the_timeout_it_is_forced() {
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
    fn a_standby_that_was_just_published_gets_its_full_time() {
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
    fn after_a_restart_nobody_is_overlooked() {
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
    fn the_schedule_asks_by_itself() {
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
    fn another_algorithm_in_the_configuration_rotates_to_it() {
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
    fn an_old_key_drains_retires_and_is_forgotten() {
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
    fn without_a_signing_key_the_standby_takes_over_unconfirmed() {
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
    fn keys_do_not_pile_up() {
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
    fn keys_of_another_purpose_do_not_matter() {
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
    fn standby_waits_for_readers_of_the_key_set() {
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
    fn key_drains_by_the_longest_life_it_signed() {
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
    fn bundle_key_signs_only_where_it_is_pinned() {
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
