use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use serde_json::{Value, json};

use super::*;
use crate::base64url;
use crate::jose::Alg;
use crate::keys::KeySet;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

macro_rules! ec_jwk {
    ($curve:ident, $crv:literal, $alg:literal, $seed:expr, $length:literal) => {{
        let mut secret = [$seed; $length];
        secret[0] = 0;
        let public = *$curve::ecdsa::SigningKey::from_slice(&secret).unwrap().verifying_key();
        let point = public.to_sec1_point(false);
        json!({"kty": "EC", "crv": $crv, "alg": $alg,
            "x": base64url::encode(point.x().unwrap()),
            "y": base64url::encode(point.y().unwrap())})
    }};
}

/// Returns a key of each kind that has tables.
fn jwks(seed: u8) -> Vec<Value> {
    let ed25519 = ed25519_dalek::SigningKey::from_bytes(&[seed; 32]).verifying_key();
    alloc::vec![
        ec_jwk!(p256, "P-256", "ES256", seed, 32),
        ec_jwk!(p384, "P-384", "ES384", seed, 48),
        ec_jwk!(p521, "P-521", "ES512", seed, 66),
        json!({"kty": "OKP", "crv": "Ed25519", "x": base64url::encode(ed25519.as_bytes())}),
    ]
}

fn set(mut keys: Vec<Value>) -> KeySet {
    for (at, key) in keys.iter_mut().enumerate() {
        key["kid"] = format!("{at}").into();
    }
    KeySet::from_config(&json!({ "keys": keys }).to_string(), &Alg::ALL, true).unwrap()
}

fn build(tables: &mut KeyTables) {
    while tables.advance(16) {}
}

#[test]
fn tables_follow_keys() {
    let (old, new) = (set(jwks(1)), set(jwks(2)));
    let mut tables = KeyTables::new();
    assert!(!tables.is_growing() && !tables.advance(1) && tables.bytes() == 0);
    tables.keep(old.iter());
    assert!(tables.is_growing() && old.iter().all(|key| !tables.is_ready(key)));
    build(&mut tables);
    assert!(old.iter().all(|key| tables.is_ready(key)));
    assert!(new.iter().all(|key| !tables.is_ready(key)));
    let before = tables.bytes();
    tables.keep(old.iter().chain(old.iter()));
    assert!(
        !tables.is_growing() && tables.bytes() == before,
        "what is there is not built again"
    );
    tables.keep(old.iter().chain(new.iter()));
    build(&mut tables);
    assert!(old.iter().chain(new.iter()).all(|key| tables.is_ready(key)));
    tables.keep(new.iter());
    assert!(
        old.iter().all(|key| !tables.is_ready(key)) && new.iter().all(|key| tables.is_ready(key))
    );
    tables.keep([]);
    assert_eq!(tables.bytes(), 0);
}

#[test]
fn memory_stays_within_its_budget() {
    let mut tables = KeyTables::new();
    for count in [1, 3, 10, 25, 100] {
        let keys = set((0..count)
            .map(|at| jwks(at + 1).swap_remove(usize::from(at) % 4))
            .collect());
        tables.keep(keys.iter());
        assert!(
            tables.bytes() <= limits::MAX_TABLES_BYTES,
            "{count} keys: {}",
            tables.bytes()
        );
        build(&mut tables);
        let held = keys.iter().filter(|key| tables.is_ready(key)).count();
        assert!(
            held >= usize::from(count.min(10)),
            "{count} keys: {held} with tables"
        );
    }
    let ten = set((1..=10).map(|seed| jwks(seed).swap_remove(0)).collect());
    let mut tables = KeyTables::new();
    tables.keep(ten.iter());
    assert_eq!(
        tables.bytes(),
        11 * Table::<Points<P256>>::bytes_of(WIDEST),
        "ten keys have the widest windows"
    );
}

#[test]
fn counts_shared_key_once() {
    let keys = set(jwks(1));
    let [many, one] = [limits::MAX_KEYS, 1].map(|times| {
        let mut tables = KeyTables::new();
        tables.keep(core::iter::repeat_n(&keys, times).flat_map(KeySet::iter));
        tables.bytes()
    });
    assert_eq!(many, one);
}

#[test]
fn each_step_builds_one_row() {
    let keys = set(jwks(3));
    let mut tables = KeyTables::new();
    tables.keep(keys.iter());
    let mut steps = 0;
    while tables.is_growing() {
        tables.advance(1);
        steps += 1;
    }
    // Rows of two tables each: widths 8, 6, 5, 7 for 257, 385, 522, 254 bits.
    assert_eq!(steps, 2 * (33 + 65 + 105 + 37));
}

#[test]
fn id_depends_on_algorithm_and_key() {
    fn rsa(n: u8, e: &[u8], alg: &str) -> Value {
        json!({"kty": "RSA", "alg": alg, "n": base64url::encode(&[n | 1; 256]),
            "e": base64url::encode(e)})
    }
    let mut keys: Vec<Value> = (1..4).flat_map(jwks).collect();
    keys.extend([
        rsa(0xff, &[3], "RS256"),
        rsa(0xff, &[3], "PS256"),
        rsa(0xff, &[5], "RS256"),
        rsa(0xef, &[3], "RS256"),
    ]);
    let mut ids: Vec<KeyId> = set(keys.clone()).iter().map(Key::id).collect();
    keys.rotate_left(1);
    let mut renamed: Vec<KeyId> = set(keys).iter().map(Key::id).collect();
    renamed.rotate_right(1);
    assert_eq!(ids, renamed, "a kid does not count");
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count);
}

#[test]
fn debug_output_is_short() {
    let mut tables = KeyTables::new();
    tables.keep(set(jwks(4)).iter());
    let shown: String = format!("{tables:?}");
    assert!(shown.len() < 100, "{shown}");
}
