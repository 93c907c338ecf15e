use alloc::string::ToString;

use serde_json::{Value, json};

use alloc::format;

use super::*;
use crate::limits;
use crate::rejection::Rejection;
use crate::testing::{TestKey, merge};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn problem(jwk: &Value) -> String {
    match KeySet::from_config(&json!({ "keys": [jwk] }).to_string(), &Alg::ALL, false) {
        Ok(_) => String::new(),
        Err(problems) => problems
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n"),
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
fn v6_rejects_weak_or_private_keys() {
    fn point(x: &[u8], y: &[u8]) -> Value {
        json!({ "kty": "EC", "crv": "P-256", "x": base64url::encode(x),
            "y": base64url::encode(y) })
    }
    let mut even = [0xff; 256];
    even[255] = 0xfe;
    for (jwk, expected) in [
        (rsa(&[0xff; 128], &[1, 0, 1]), "keys[0].n: 1024 bits"),
        (rsa(&[0xff; 1025], &[1, 0, 1]), "keys[0].n: 8200 bits"),
        (rsa(&[0xff; 256], &[1]), "keys[0].e"),
        (rsa(&[0xff; 256], &[2]), "keys[0].e"),
        (rsa(&[0xff; 256], &[1, 0, 0]), "keys[0].e"),
        (rsa(&even, &[1, 0, 1]), "keys[0].e"),
        (point(&[1; 32], &[1; 32]), "keys[0].x: not a point"),
        (point(&[1; 31], &[1; 32]), "keys[0].x: 31 bytes"),
        (
            changed(json!({ "x": base64url::encode(&[0; 32]) })),
            "low-order point",
        ),
        (changed(json!({ "x": "AA" })), "keys[0].x: not 32 bytes"),
        (changed(json!({ "x": "AA==" })), "keys[0].x: not base64url"),
        (
            changed(json!({ "alg": "ES256" })),
            "keys[0].alg: ES256 does not match",
        ),
        (changed(json!({ "kid": "k".repeat(257) })), "keys[0].kid"),
        (
            changed(json!({ "d": "AAAA" })),
            "keys[0].d: a private member",
        ),
        (changed(json!({ "kty": null })), "keys[0].kty: missing"),
        (
            json!({ "kty": "oct", "alg": "HS256", "k": base64url::encode(&[1; 32]) }),
            "keys[0].kty: a shared secret",
        ),
    ] {
        let told = problem(&jwk);
        assert!(told.contains(expected), "{jwk}: {told}");
        let fetched =
            KeySet::from_provider(&json!({ "keys": [jwk] }).to_string(), &Alg::ALL).unwrap();
        assert_eq!(
            (fetched.len(), reasons(&fetched).join("\n")),
            (0, told),
            "{jwk}"
        );
    }
    assert_eq!(problem(&rsa(&[0xff; 256], &[1, 0, 1])), "");
    assert_eq!(problem(&rsa(&[0xff; 256], &[3])), "");
}

#[test]
fn secrets_need_length_of_hash() {
    fn read(alg: &str, length: usize) -> bool {
        let jwk =
            json!({ "kty": "oct", "alg": alg, "k": base64url::encode(&alloc::vec![1; length]) });
        KeySet::from_config(&json!({ "keys": [jwk] }).to_string(), &Alg::ALL, true).is_ok()
    }
    for (alg, least) in [("HS256", 32), ("HS384", 48), ("HS512", 64)] {
        assert!(read(alg, least) && !read(alg, least - 1), "{alg}");
    }
}

#[test]
fn skips_and_counts_foreign_keys() {
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
    assert!(
        KeySet::from_config(&json!({ "keys": foreign }).to_string(), &Alg::ALL, false).is_err(),
        "no key left"
    );
}

fn fetched(keys: Value) -> KeySet {
    KeySet::from_provider(&json!({ "keys": keys }).to_string(), &Alg::ALL).unwrap()
}

fn reasons(set: &KeySet) -> Vec<String> {
    set.passed_over()
        .iter()
        .map(|passed| passed.problem.to_string())
        .collect()
}

#[test]
fn faulty_key_leaves_others_usable() {
    let private = changed(json!({ "kid": "p", "d": "AAAA" }));
    let oct = json!({ "kty": "oct", "alg": "HS256", "k": base64url::encode(&[1; 32]) });
    let read = fetched(json!([
        TestKey::new("k1", 1).jwk(),
        private,
        oct,
        rsa(&[0xff; 128], &[1, 0, 1]),
        7
    ]));
    assert_eq!((read.len(), read.skipped()), (1, 4));
    assert!(KeySet::from_provider("{}", &Alg::ALL).is_err());
    assert!(KeySet::from_provider(&" ".repeat(limits::MAX_JWKS_BYTES + 1), &Alg::ALL).is_err());
}

#[test]
fn skips_surplus_keys() {
    let mut keys = alloc::vec![json!({ "kty": "x" }); limits::MAX_KEYS - 1];
    keys.extend([1, 2, 3].map(|seed| TestKey::new("k1", seed).jwk()));
    let set = fetched(json!(keys));
    assert_eq!((set.len(), set.skipped()), (1, limits::MAX_KEYS));
    assert_eq!(
        reasons(&set).last().unwrap(),
        "keys: 2 keys after the first 100 are not read"
    );
    let configured =
        KeySet::from_config(&json!({ "keys": keys }).to_string(), &Alg::ALL, false).unwrap_err();
    assert_eq!(configured.len(), 1, "a mistake in a configuration");
    let key = "-----BEGIN PUBLIC KEY-----\n\
        MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n\
        -----END PUBLIC KEY-----";
    let map: Value = (0..limits::MAX_KEYS + 1)
        .map(|at| (format!("k{at}"), json!(key)))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let set = KeySet::from_provider(&map.to_string(), &Alg::ALL).unwrap();
    assert_eq!(
        (set.len(), reasons(&set).join("")),
        (100, "keys: 1 keys after the first 100 are not read".into())
    );
}

#[test]
fn skips_key_with_repeated_member() {
    let [good, other] = [1, 2].map(|seed| {
        TestKey::new(if seed == 1 { "k1" } else { "k2" }, seed)
            .jwk()
            .to_string()
    });
    for member in [
        r#""kid":"k2""#,
        r#""\u0078":"AA""#,
        r#""more":[{"a":1,"a":2}]"#,
    ] {
        let repeated = format!("{},{member}}}", &other[..other.len() - 1]);
        let jwks = format!(r#"{{"keys":[{repeated},{good}]}}"#);
        let set = KeySet::from_provider(&jwks, &Alg::ALL).unwrap();
        assert_eq!(
            set.kids().collect::<alloc::vec::Vec<_>>(),
            [Some("k1")],
            "{member}"
        );
        assert_eq!(
            reasons(&set),
            ["keys[0]: has two members of the same name"],
            "{member}"
        );
    }
    // If a name is repeated, it is unknown which list, or which key of a map, is meant.
    for text in [
        format!(r#"{{"keys":[{good}],"keys":[{other}]}}"#),
        r#"{"k":"-----BEGIN X","k":"-----BEGIN X"}"#.into(),
    ] {
        let problem = KeySet::from_provider(&text, &Alg::ALL)
            .unwrap_err()
            .to_string();
        assert!(
            problem.starts_with("an object has two members of the same name"),
            "{problem}"
        );
    }
}

#[test]
fn skips_ambiguous_keys_only() {
    let [one, other, third] = [1, 2, 3].map(|seed| TestKey::new("twin", seed).jwk());
    let good = TestKey::new("k1", 9).jwk();
    for keys in [
        json!([one, good, other]),
        json!([one, other, one, good, third]),
    ] {
        let set = fetched(keys.clone());
        assert_eq!(
            set.find(Some("twin"), Alg::EdDsa),
            Err(Rejection::KeyAmbiguous),
            "{keys}"
        );
        assert_eq!(
            set.find(Some("k1"), Alg::EdDsa).map(Key::kid),
            Ok(Some("k1")),
            "{keys}"
        );
        assert_eq!(
            set.find(None, Alg::EdDsa),
            Err(Rejection::KeyAmbiguous),
            "{keys}"
        );
        assert!(
            reasons(&set)
                .iter()
                .all(|reason| reason.contains("kid \"twin\" names different keys for EdDSA"))
        );
    }
    assert_eq!(
        reasons(&fetched(json!([one, good, other])))[1]
            .split(':')
            .next(),
        Some("keys[2]")
    );
}

#[test]
fn algorithm_and_type_distinguish_keys() {
    fn named(alg: &str, fill: u8) -> Value {
        let mut jwk = rsa(&[fill; 256], &[1, 0, 1]);
        merge(&mut jwk, json!({ "kid": "main", "alg": alg }));
        jwk
    }
    let ed = TestKey::new("main", 1).jwk();
    let set = fetched(json!([
        named("RS256", 0xff),
        ed,
        named("PS512", 0xff),
        named("RS384", 0xfd)
    ]));
    for alg in [Alg::Rs256, Alg::EdDsa, Alg::Ps512, Alg::Rs384] {
        assert_eq!(set.find(Some("main"), alg).map(Key::alg), Ok(alg));
    }
    assert_eq!(
        set.find(Some("main"), Alg::Es256),
        Err(Rejection::AlgorithmMismatch)
    );
    assert_eq!(set.skipped(), 0);
}

#[test]
fn counts_repeated_key_once() {
    let padded: Vec<u8> = core::iter::once(0).chain([0xff; 256]).collect();
    let twice = [rsa(&[0xff; 256], &[1, 0, 1]), rsa(&padded, &[0, 1, 0, 1])].map(|mut jwk| {
        merge(&mut jwk, json!({ "kid": "main", "alg": "RS256" }));
        jwk
    });
    let set = fetched(json!([twice[0], twice[0], twice[1]]));
    assert_eq!((set.len(), set.skipped()), (1, 0));
    // One key under two key ids serves a token without `kid`.
    let renamed = [TestKey::new("a", 1).jwk(), TestKey::new("b", 1).jwk()];
    assert!(fetched(json!(renamed)).find(None, Alg::EdDsa).is_ok());
}

#[test]
fn member_without_value_is_absent() {
    for name in [
        "d", "p", "q", "dp", "dq", "qi", "oth", "k", "use", "key_ops", "alg", "kid", "x5c", "x5t",
        "crv_note",
    ] {
        for empty in [json!(null), json!([]), json!("")] {
            let mut jwk = TestKey::new("k1", 1).jwk();
            jwk[name] = empty.clone();
            let set = fetched(json!([jwk]));
            assert_eq!((set.len(), set.skipped()), (1, 0), "{name}: {empty}");
        }
    }
    assert_eq!(
        problem(&changed(json!({ "d": 0 }))).split(':').next(),
        Some("keys[0].d"),
        "a value is a value"
    );
}

#[test]
fn each_skipped_key_has_own_reason() {
    for (jwk, expected) in [
        (
            changed(json!({ "use": "enc" })),
            "keys[0].use: \"enc\", not \"sig\"",
        ),
        (
            changed(json!({ "key_ops": ["sign"] })),
            "keys[0].key_ops: does not contain \"verify\"",
        ),
        (
            changed(json!({ "crv": "X25519" })),
            "keys[0].crv: unsupported curve \"X25519\"",
        ),
        (
            json!({ "kty": "AKP" }),
            "keys[0].kty: unsupported key type \"AKP\"",
        ),
        (
            changed(json!({ "alg": "Ed448" })),
            "keys[0].alg: unsupported algorithm \"Ed448\"",
        ),
        (
            changed(json!({ "alg": "\n".repeat(65) })),
            "keys[0].alg: unsupported algorithm \"\\n\\n",
        ),
        (
            changed(json!({ "d": "AAAA" })),
            "keys[0].d: a private member",
        ),
    ] {
        let told = reasons(&fetched(json!([jwk]))).join("");
        assert!(
            told.starts_with(expected) && told.len() < 250,
            "{jwk}: {told}"
        );
    }
    let unlisted = KeySet::from_provider(
        &json!({ "keys": [TestKey::new("k1", 1).jwk()] }).to_string(),
        &[Alg::Rs256],
    );
    assert_eq!(
        reasons(&unlisted.unwrap()),
        ["keys[0].alg: EdDSA is not among the rule's algorithms"]
    );
}

/// Certificates and keys made by OpenSSL; `keys` contains the same keys as JWKs.
const X509_MAP: &str = include_str!("../../tests/data/x509_map.json");

#[test]
fn reads_keys_from_certificates() {
    fn read(value: &Value) -> KeySet {
        KeySet::from_provider(&value.to_string(), &Alg::ALL).unwrap()
    }
    let both: Value = serde_json::from_str(X509_MAP).unwrap();
    let (map, set) = (read(&both["map"]), read(&json!({ "keys": both["keys"] })));
    assert_eq!((map.len(), map.skipped()), (5, 0));
    for key in set.iter() {
        assert_eq!(map.find(key.kid(), key.alg()), Ok(key));
    }
    let es = KeySet::from_provider(&both["map"].to_string(), &[Alg::Es256]).unwrap();
    assert_eq!((es.len(), es.skipped()), (1, 4));
    assert!(
        reasons(&es)[0].starts_with("\"ed\".kty: the rule allows no algorithm"),
        "{:?}",
        reasons(&es)
    );
}

#[test]
fn rejects_damaged_certificate() {
    let both: Value = serde_json::from_str(X509_MAP).unwrap();
    let pem = both["map"]["rsa"].as_str().unwrap();
    let good = TestKey::new("k1", 1).jwk();
    for damaged in [
        pem.replace("MII", "MIA"),
        pem.replace('/', "_"),
        pem[..600].to_string(),
        pem.replace("CERT", "CRET"),
    ] {
        let map = json!({ "rsa": damaged, "p256": both["map"]["p256"], "note": 7 });
        let set = KeySet::from_provider(&map.to_string(), &Alg::ALL).unwrap();
        assert_eq!((set.len(), set.skipped()), (1, 2), "{:?}", reasons(&set));
    }
    // A JWK Set is read as such, whatever other members it has.
    let mixed = json!({ "keys": [good], "rsa": pem });
    assert_eq!(
        KeySet::from_provider(&mixed.to_string(), &Alg::ALL)
            .unwrap()
            .kids()
            .next(),
        Some(Some("k1"))
    );
}

#[test]
fn key_without_alg_takes_only_allowed_one() {
    let jwks = json!({ "keys": [rsa(&[0xff; 256], &[1, 0, 1])] }).to_string();
    for (allowed, expected) in [
        ([Alg::Ps256, Alg::Es256], Some(Alg::Ps256)),
        ([Alg::Ps256, Alg::Rs256], Some(Alg::Rs256)),
        ([Alg::Ps256, Alg::Ps512], None),
    ] {
        let set = KeySet::from_provider(&jwks, &allowed).unwrap();
        assert_eq!(set.len(), usize::from(expected.is_some()), "{allowed:?}");
        assert_eq!(set.iter().next().map(Key::alg), expected, "{allowed:?}");
    }
    let told = KeySet::from_config(&jwks, &[Alg::Ps256, Alg::Ps512], false).unwrap_err();
    assert!(
        told[0].to_string().contains("keys[0].alg: missing"),
        "{told:?}"
    );
}

#[test]
fn debug_output_never_shows_a_secret() {
    let jwk = json!({ "kty": "oct", "alg": "HS256",
        "k": base64url::encode(b"a secret that nobody may ever see") });
    let set = KeySet::from_config(&json!({ "keys": [jwk] }).to_string(), &Alg::ALL, true).unwrap();
    let shown = format!("{set:?}");
    assert!(
        shown.contains("Secret(..)") && !shown.contains("97, 32"),
        "{shown}"
    );
}
