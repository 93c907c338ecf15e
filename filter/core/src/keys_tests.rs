use alloc::string::ToString;

use serde_json::{Value, json};

use super::*;
use crate::testing::{TestKey, merge};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn problem(jwk: &Value) -> String {
    match KeySet::from_config(&json!({ "keys": [jwk] }).to_string(), &Alg::ALL, false) {
        Ok(_) => String::new(),
        Err(problems) => problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
    }
}

fn changed(changes: Value) -> Value {
    let mut jwk = TestKey::new("k1", 1).jwk();
    merge(&mut jwk, changes);
    jwk
}

fn rsa(modulus: &[u8], exponent: &[u8]) -> Value {
    json!({ "kty": "RSA", "n": base64url::encode(modulus), "e": base64url::encode(exponent) })
}

#[test]
fn v6_keys_that_are_weak_or_not_public_are_refused() {
    let mut even = [0xff; 256];
    even[255] = 0xfe;
    let point = |x: &[u8], y: &[u8]| json!({ "kty": "EC", "crv": "P-256", "x": base64url::encode(x), "y": base64url::encode(y) });
    for (jwk, expected) in [
        (rsa(&[0xff; 128], &[1, 0, 1]), "keys[0].n: 1024 bits"),
        (rsa(&[0xff; 1025], &[1, 0, 1]), "keys[0].n: 8200 bits"),
        (rsa(&[0xff; 256], &[1]), "keys[0].e"),
        (rsa(&[0xff; 256], &[2]), "keys[0].e"),
        (rsa(&[0xff; 256], &[1, 0, 0]), "keys[0].e"),
        (rsa(&even, &[1, 0, 1]), "keys[0].e"),
        (point(&[1; 32], &[1; 32]), "keys[0].x: not a point"),
        (point(&[1; 31], &[1; 32]), "keys[0].x: 31 bytes"),
        (changed(json!({ "x": base64url::encode(&[0; 32]) })), "small order"),
        (changed(json!({ "x": "AA" })), "keys[0].x: not 32 bytes"),
        (changed(json!({ "x": "AA==" })), "keys[0].x: not base64url"),
        (changed(json!({ "alg": "ES256" })), "keys[0].alg: ES256 does not go with"),
        (changed(json!({ "kid": "" })), "keys[0].kid"),
        (changed(json!({ "d": "AAAA" })), "keys[0].d: a private member"),
        (changed(json!({ "kty": null })), "keys[0].kty: missing"),
        (json!({ "kty": "oct", "alg": "HS256", "k": base64url::encode(&[1; 32]) }), "keys[0].kty: a shared secret"),
    ] {
        let told = problem(&jwk);
        assert!(told.contains(expected), "{jwk}: {told}");
    }
    assert_eq!(problem(&rsa(&[0xff; 256], &[1, 0, 1])), "");
    assert_eq!(problem(&rsa(&[0xff; 256], &[3])), "");
}

#[test]
fn secrets_are_as_long_as_their_hash() {
    let read = |alg: &str, length: usize| {
        let jwk = json!({ "kty": "oct", "alg": alg, "k": base64url::encode(&alloc::vec![1; length]) });
        KeySet::from_config(&json!({ "keys": [jwk] }).to_string(), &Alg::ALL, true).is_ok()
    };
    for (alg, least) in [("HS256", 32), ("HS384", 48), ("HS512", 64)] {
        assert!(read(alg, least) && !read(alg, least - 1), "{alg}");
    }
}

#[test]
fn foreign_keys_are_skipped_and_counted() {
    let good = TestKey::new("k1", 1).jwk();
    let foreign = [
        changed(json!({ "kid": "enc", "use": "enc" })),
        changed(json!({ "kid": "ops", "key_ops": ["sign"] })),
        changed(json!({ "kid": "448", "crv": "Ed448", "alg": "Ed448" })),
        json!({ "kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA" }),
        json!({ "kty": "AKP", "alg": "ML-DSA-44", "pub": "AA" }),
    ];
    let mut keys = foreign.to_vec();
    keys.push(good);
    let set = KeySet::from_config(&json!({ "keys": keys }).to_string(), &Alg::ALL, false).unwrap();
    assert_eq!((set.len(), set.skipped()), (1, foreign.len()));
    assert!(KeySet::from_config(&json!({ "keys": foreign }).to_string(), &Alg::ALL, false).is_err(), "no key left");
}

#[test]
fn a_providers_set_survives_single_bad_keys_but_not_a_repeated_kid() {
    let good = TestKey::new("k1", 1).jwk();
    let set = |keys: Value| KeySet::from_provider(&json!({ "keys": keys }).to_string(), &Alg::ALL);
    let private = changed(json!({ "kid": "p", "d": "AAAA" }));
    let oct = json!({ "kty": "oct", "alg": "HS256", "k": base64url::encode(&[1; 32]) });
    let read = set(json!([good, private, oct, rsa(&[0xff; 128], &[1, 0, 1]), 7])).unwrap();
    assert_eq!((read.len(), read.skipped()), (1, 4));
    assert!(set(json!([good, changed(json!({ "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" }))])).is_err());
    assert!(KeySet::from_provider("{}", &Alg::ALL).is_err());
    assert!(KeySet::from_provider(&" ".repeat(limits::MAX_JWKS_BYTES + 1), &Alg::ALL).is_err());
    let many = alloc::vec![json!({ "kty": "x" }); limits::MAX_KEYS + 1];
    assert!(set(json!(many)).is_err());
}

#[test]
fn a_key_without_alg_takes_the_only_allowed_one_of_its_family() {
    let jwks = json!({ "keys": [rsa(&[0xff; 256], &[1, 0, 1])] }).to_string();
    let bound =
        |allowed: &[Alg]| KeySet::from_provider(&jwks, allowed).unwrap().iter().map(Key::alg).collect::<Vec<_>>();
    assert_eq!(bound(&[Alg::Ps256, Alg::Es256]), [Alg::Ps256]);
    assert_eq!(bound(&[Alg::Ps256, Alg::Rs256]), [Alg::Rs256]);
    assert_eq!(bound(&[Alg::Ps256, Alg::Ps512]), []);
    let told = KeySet::from_config(&jwks, &[Alg::Ps256, Alg::Ps512], false).unwrap_err();
    assert!(told[0].to_string().contains("keys[0].alg: missing"), "{told:?}");
}

#[test]
fn debug_output_never_shows_a_secret() {
    let jwk = json!({ "kty": "oct", "alg": "HS256", "k": base64url::encode(b"a secret that nobody may ever see") });
    let set = KeySet::from_config(&json!({ "keys": [jwk] }).to_string(), &Alg::ALL, true).unwrap();
    let shown = format!("{set:?}");
    assert!(shown.contains("Secret(..)") && !shown.contains("97, 32"), "{shown}");
}
