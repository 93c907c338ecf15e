use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use core::hash::BuildHasherDefault;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::testing::{NOW, TestKey, claims, inline_policy};
use crate::trust::Trust;
use crate::validate::validate;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// Eight hashes for all tokens: every probe meets others.
#[derive(Clone, Default)]
struct Crowded(u64);

impl core::hash::Hasher for Crowded {
    fn finish(&self) -> u64 {
        self.0 % 8
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    }
}

type Hashing = BuildHasherDefault<Crowded>;

fn verified(changes: Value) -> (String, Rc<Verified>) {
    let key = TestKey::new("k1", 1);
    let token = key.token(&claims(changes));
    let verified = validate(&token, &inline_policy(&[&key], json!({}), Value::Null), &Trust::new(), NOW).unwrap();
    (token, Rc::new(verified))
}

#[test]
fn a_verdict_holds_until_the_token_ends_and_for_its_very_bytes() {
    let (token, good) = verified(json!({ "exp": NOW + 10 }));
    let mut verdicts = Verdicts::new(Hashing::default());
    assert!(verdicts.get(&token, 1, NOW).is_none());
    verdicts.put(&token, &Ok(good), 1);
    assert!(verdicts.get(&token, 1, NOW).is_some_and(|verdict| verdict.is_ok()));
    assert!(verdicts.get(&token, 1, NOW + 39).is_some());
    assert!(verdicts.get(&token, 1, NOW + 40).is_none(), "exp and leeway have passed");
    assert!(verdicts.get(&token[..token.len() - 1], 1, NOW).is_none());
}

#[test]
fn everything_is_forgotten_when_keys_or_revocations_change() {
    let (token, good) = verified(json!({}));
    let mut verdicts = Verdicts::new(Hashing::default());
    assert!(verdicts.get(&token, 1, NOW).is_none());
    verdicts.put(&token, &Ok(Rc::clone(&good)), 1);
    verdicts.put("bad", &Err(Rejection::SignatureInvalid), 1);
    assert!(verdicts.get(&token, 2, NOW).is_none() && verdicts.get("bad", 2, NOW).is_none());
    verdicts.put(&token, &Ok(good), 1);
    assert!(verdicts.get(&token, 2, NOW).is_none(), "reached before the change, stored after it");
}

#[test]
fn only_refusals_that_time_cannot_change_are_kept_and_they_push_out_no_good_token() {
    let (token, good) = verified(json!({}));
    let mut verdicts = Verdicts::new(Hashing::default());
    assert!(verdicts.get(&token, 1, NOW).is_none());
    verdicts.put(&token, &Ok(good), 1);
    verdicts.put("early", &Err(Rejection::TokenNotYetValid), 1);
    assert!(verdicts.get("early", 1, NOW).is_none());
    for at in 0..3 * limits::MAX_CACHED_REFUSALS {
        verdicts.put(&format!("bad {at}"), &Err(Rejection::SignatureInvalid), 1);
    }
    assert_eq!(verdicts.refused.table.len(), limits::MAX_CACHED_REFUSALS);
    assert_eq!(
        verdicts.get(&format!("bad {}", 3 * limits::MAX_CACHED_REFUSALS - 1), 1, NOW).unwrap().unwrap_err(),
        Rejection::SignatureInvalid
    );
    assert!(verdicts.get(&token, 1, NOW).is_some());
}

#[test]
fn the_clock_spares_what_is_in_use() {
    let mut slots = Slots::new(Hashing::default(), 4, 100_000);
    for token in ["a", "b", "c", "d"] {
        slots.put(token, token, 0);
    }
    slots.get("b");
    slots.put("e", "e", 0);
    slots.put("f", "f", 0);
    slots.put("g", "g", 0);
    assert!(slots.get("b").is_some());
    assert_eq!(["a", "c", "d"].iter().filter(|token| slots.get(token).is_some()).count(), 0);
}

#[test]
fn what_is_larger_than_the_budget_is_not_kept() {
    let mut slots = Slots::new(Hashing::default(), 4, 300);
    slots.put("a", (), 0);
    slots.put("b", (), 1000);
    assert!(slots.get("a").is_some() && slots.get("b").is_none());
}

proptest! {
    #[test]
    fn it_never_answers_for_another_token_nor_breaks_its_budget(steps in proptest::collection::vec((0..12_u8, any::<bool>(), 0..200_usize), 0..200)) {
        let mut slots = Slots::new(Hashing::default(), 5, 1000);
        let mut model = BTreeMap::new();
        for (name, write, bytes) in steps {
            let token = format!("t{name}");
            if write {
                slots.put(&token, bytes, bytes);
                model.insert(token, bytes);
            } else if let Some(found) = slots.get(&token) {
                prop_assert_eq!(model.get(&token), Some(found));
            }
            let live: usize = slots.slots.iter().flatten().map(|slot| slot.bytes).sum();
            prop_assert_eq!(live, slots.held_bytes);
            prop_assert!(slots.held_bytes <= 1000 && slots.table.len() <= 5 && slots.slots.len() <= 5);
            prop_assert_eq!(slots.table.len(), slots.slots.iter().flatten().count());
        }
    }
}
