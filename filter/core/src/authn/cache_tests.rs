use alloc::collections::BTreeMap;
use alloc::format;
use core::hash::BuildHasherDefault;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::authn::{Trust, validate};
use crate::bundle::{IssuerTrust, KeyState, PublishedKey, Snapshot, Times};
use crate::policy::Policy;
use crate::revocation::jti_with_index;
use crate::testing::{ISSUER, NOW, TestKey, bundle_policy, claims, inline_policy};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[derive(Clone, Default)]
struct Sum(u64);

impl core::hash::Hasher for Sum {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(u64::from(*byte))
        });
    }
}

type Hashing = BuildHasherDefault<Sum>;

/// Hasher with only eight values, so that every lookup meets other tokens in its chain.
fn crowded(token: &[u8]) -> usize {
    token.iter().fold(0, |sum: usize, byte| {
        sum.wrapping_mul(31).wrapping_add(usize::from(*byte))
    }) % 8
}

impl<V> Slots<V> {
    fn crowd(&mut self, token: &str, value: V, bytes: usize) {
        self.put(crowded(token.as_bytes()), token, value, bytes);
    }

    fn look(&mut self, token: &[u8]) -> Option<(&str, &mut V)> {
        self.get(crowded(token), token)
    }
}

/// A cache of notes under a policy and a trust.
struct Memory {
    verdicts: Verdicts<u32, Hashing>,
    policy: Policy,
    trust: Trust,
}

impl Memory {
    fn of(policy: Policy, trust: Trust) -> Self {
        Self {
            verdicts: Verdicts::new(Hashing::default()),
            policy,
            trust,
        }
    }

    fn inline() -> Self {
        Self::of(
            inline_policy(&[&key()], json!({}), Value::Null),
            Trust::new(),
        )
    }

    fn get(&mut self, token: &str, now: u64) -> Option<Result<Rc<u32>, Rejection>> {
        self.verdicts
            .get(token.as_bytes(), self.policy.authn(), &self.trust, || now)
    }

    fn accept(&mut self, token: &str) {
        let proof = validate(token, self.policy.authn(), &self.trust, NOW)
            .unwrap()
            .proof();
        self.verdicts
            .accept(token, proof, Rc::new(42), 0, &self.trust);
    }
}

fn key() -> TestKey {
    TestKey::new("k1", 1)
}

/// Builds a trust with this key, these revoked indices and this bundle version.
fn bundle(key: &TestKey, version: u64, revoked: &[u64]) -> Snapshot {
    let Value::Object(jwk) = key.jwk() else {
        panic!("an object")
    };
    let keys = alloc::vec![PublishedKey {
        jwk,
        state: KeyState::Active
    }];
    let trust = IssuerTrust {
        keys,
        revoked: revoked.iter().copied().collect(),
        ..IssuerTrust::default()
    };
    Snapshot {
        version,
        issuers: BTreeMap::from([(ISSUER.into(), trust)]),
    }
}

fn push(memory: &mut Memory, pin: &TestKey, snapshot: &Snapshot) {
    let payload = snapshot.full(Times {
        issuer: ISSUER.into(),
        issued_at: NOW,
        not_after: NOW + 3600,
    });
    let jws = pin.seal(payload.signing_input(pin.kid));
    memory
        .trust
        .accept_bundle(
            &jws,
            &memory.policy.authn().trust_bundle().unwrap().pins,
            NOW,
        )
        .unwrap();
}

#[test]
fn verdict_holds_until_expiry_for_exact_bytes() {
    let token = key().token(&claims(json!({ "exp": NOW + 10 })));
    let mut memory = Memory::inline();
    assert!(memory.get(&token, NOW).is_none());
    memory.accept(&token);
    assert_eq!(memory.get(&token, NOW), Some(Ok(Rc::new(42))));
    assert!(memory.get(&token[..token.len() - 1], NOW).is_none());
    assert!(memory.get(&token, NOW + 39).is_some());
    assert!(
        memory.get(&token, NOW + 40).is_none(),
        "exp and leeway have passed"
    );
}

#[test]
fn revocation_invalidates_only_affected_cached_tokens() {
    fn with_index(index: u64) -> alloc::string::String {
        key().token(&claims(json!({ "jti": jti_with_index(index, [7; 8]) })))
    }
    let pin = TestKey::new("pin", 200);
    let mut memory = Memory::of(bundle_policy(&pin, json!({}), Value::Null), Trust::new());
    push(&mut memory, &pin, &bundle(&key(), 1, &[]));
    let (one, other) = (with_index(1), with_index(2));
    memory.accept(&one);
    memory.accept(&other);
    push(&mut memory, &pin, &bundle(&key(), 2, &[1]));
    assert!(
        memory.get(&one, NOW).is_none(),
        "no longer known, so it is validated, and refused"
    );
    assert!(memory.get(&other, NOW).is_some());
    assert_eq!(memory.verdicts.len(), 1);
}

#[test]
fn cached_token_is_invalid_without_its_key() {
    let pin = TestKey::new("pin", 200);
    let mut memory = Memory::of(bundle_policy(&pin, json!({}), Value::Null), Trust::new());
    push(&mut memory, &pin, &bundle(&key(), 1, &[]));
    let token = key().token(&claims(json!({})));
    memory.accept(&token);
    push(&mut memory, &pin, &bundle(&TestKey::new("k1", 2), 2, &[]));
    assert!(memory.get(&token, NOW).is_none());
}

#[test]
fn key_change_clears_cached_rejections() {
    let pin = TestKey::new("pin", 200);
    let mut memory = Memory::of(bundle_policy(&pin, json!({}), Value::Null), Trust::new());
    push(&mut memory, &pin, &bundle(&key(), 1, &[]));
    assert!(memory.get("bad", NOW).is_none());
    memory.verdicts.refuse("bad", &memory.trust);
    assert_eq!(
        memory.get("bad", NOW),
        Some(Err(Rejection::SignatureInvalid))
    );
    push(&mut memory, &pin, &bundle(&key(), 2, &[]));
    memory.verdicts.refuse("worse", &memory.trust);
    assert!(memory.get("bad", NOW).is_none());
    assert!(
        memory.get("worse", NOW).is_none(),
        "found out under another trust than the last one asked for"
    );
}

#[test]
fn bad_signatures_evict_no_good_token() {
    let token = key().token(&claims(json!({})));
    let mut memory = Memory::inline();
    memory.accept(&token);
    for at in 0..3 * limits::MAX_CACHED_REFUSALS {
        memory.verdicts.refuse(&format!("bad {at}"), &memory.trust);
    }
    assert_eq!(memory.verdicts.refused.len(), limits::MAX_CACHED_REFUSALS);
    let last = format!("bad {}", 3 * limits::MAX_CACHED_REFUSALS - 1);
    assert_eq!(
        memory.get(&last, NOW),
        Some(Err(Rejection::SignatureInvalid))
    );
    assert!(memory.get(&token, NOW).is_some());
}

#[test]
fn caches_last_rejection_per_token_end() {
    fn forged(start: char) -> alloc::string::String {
        format!("{start}{}", "x".repeat(HASHED_BYTES))
    }
    let mut memory = Memory::inline();
    for start in ['a', 'b', 'c'] {
        memory.verdicts.refuse(&forged(start), &memory.trust);
    }
    assert_eq!(
        ['a', 'b', 'c'].map(|start| memory.get(&forged(start), NOW).is_some()),
        [false, false, true]
    );
    assert_eq!(memory.verdicts.refused.len(), 1);
}

#[test]
fn lookup_compares_every_byte() {
    for length in 1..40 {
        let token: Vec<u8> = (0..length).map(|at| b'a' + at % 26).collect();
        let mut slots = Slots::new(4, 100_000);
        slots.crowd(core::str::from_utf8(&token).unwrap(), (), 0);
        assert!(slots.look(&token).is_some());
        for at in 0..token.len() {
            let mut other = token.clone();
            other[at] = other[at].wrapping_add(8);
            assert!(slots.look(&other).is_none(), "{length} {at}");
        }
    }
}

#[test]
fn clock_spares_used_entries() {
    let mut slots = Slots::new(4, 100_000);
    for token in ["a", "b", "c", "d"] {
        slots.crowd(token, token, 0);
    }
    slots.look(b"b");
    slots.crowd("e", "e", 0);
    slots.crowd("f", "f", 0);
    slots.crowd("g", "g", 0);
    assert!(slots.look(b"b").is_some());
    assert_eq!(
        ["a", "c", "d"]
            .iter()
            .filter(|token| slots.look(token.as_bytes()).is_some())
            .count(),
        0
    );
}

#[test]
fn skips_entry_larger_than_budget() {
    let mut slots = Slots::new(4, 300);
    slots.crowd("a", (), 0);
    slots.crowd("b", (), 1000);
    assert!(slots.look(b"a").is_some() && slots.look(b"b").is_none());
}

proptest! {
    #[test]
    fn answers_exact_token_within_budget(
        steps in proptest::collection::vec((0..60_u8, any::<bool>(), 0..200_usize), 0..300),
    ) {
        let mut slots = Slots::new(40, 8000);
        let mut model = BTreeMap::new();
        for (name, write, bytes) in steps {
            let token = format!("t{name}");
            if write {
                slots.crowd(&token, bytes, bytes);
                model.insert(token, bytes);
            } else if let Some((_, found)) = slots.look(token.as_bytes()) {
                prop_assert_eq!(model.get(&token), Some(&*found));
            }
            let live: usize = slots.slots.iter().flatten().map(|slot| slot.bytes).sum();
            prop_assert_eq!(live, slots.held_bytes);
            prop_assert!(slots.held_bytes <= 8000 && slots.len() <= 40 && slots.slots.len() <= 40);
            prop_assert_eq!(slots.len(), slots.slots.iter().flatten().count());
            let tokens: Vec<_> = slots.slots.iter().flatten().map(|slot| slot.token.clone())
                .collect();
            let all_found = tokens.iter().all(|token| {
                let hash = crowded(token.as_bytes());
                slots.find(hash, |known| *known == **token).is_some()
            });
            prop_assert!(all_found);
        }
    }
}
