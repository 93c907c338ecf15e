//! Examples from the RFCs, signed under the RFCs' own keys: RFC 7515 A.1–A.4, RFC 7520 §4.1–§4.4,
//! RFC 8037 A.3 and A.4, RFC 7638 §3.1. Their private keys are published, so `data/` may contain
//! them.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: a surprise must stop the test"
)]

use meshseal_core::authn::signature_only;
use meshseal_core::base64url;
use meshseal_core::jose::Alg;
use meshseal_core::keys::{self, KeySet};
use meshseal_core::rejection::Rejection;
use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const EXAMPLES: &str = include_str!("data/rfc_jws.json");
const THUMBPRINT: &str = include_str!("data/rfc7638_thumbprint.json");

struct Example {
    name: String,
    alg: Alg,
    token: String,
    jwk: Value,
}

fn examples() -> Vec<Example> {
    serde_json::from_str::<Vec<Value>>(EXAMPLES)
        .unwrap()
        .iter()
        .map(|example: &Value| Example {
            name: example["name"].as_str().unwrap().into(),
            alg: Alg::parse(example["alg"].as_str().unwrap()).unwrap(),
            token: example["token"].as_str().unwrap().into(),
            jwk: example["jwk"].clone(),
        })
        .collect()
}

fn example(name: &str) -> Example {
    examples()
        .into_iter()
        .find(|example| example.name == name)
        .unwrap()
}

/// Removes the private part of a key: the RFCs print whole private keys, which a public key set
/// must not contain.
fn public(mut jwk: Value) -> Value {
    if jwk["kty"] != "oct" {
        jwk.as_object_mut().unwrap().remove("d");
    }
    jwk
}

fn read(jwk: &Value, allowed: &[Alg]) -> Result<KeySet, Vec<keys::KeyProblem>> {
    KeySet::from_config(&json!({ "keys": [jwk] }).to_string(), allowed, true)
}

/// Binds a key to the algorithm of the example, as a rule's `algorithms` would. The RFCs' keys
/// rarely name their algorithm.
fn key_for(example: &Example) -> KeySet {
    read(&public(example.jwk.clone()), &[example.alg]).unwrap()
}

/// Returns a valid key of the same kind that did not sign the example.
fn foreign_key(example: &Example) -> Value {
    match example.jwk["crv"].as_str() {
        // Keys of RFC 7517 A.1 and RFC 8032 §7.1 test 2.
        Some("P-256") => json!({"kty": "EC", "crv": "P-256",
            "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
            "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}),
        Some("Ed25519") => {
            json!({"kty": "OKP", "crv": "Ed25519",
                "x": "PUAXw-hDiVqStwqnTRt-vJyYLM8uxJaMwM1V8Sr0Zgw"})
        }
        curve => {
            let mut others = examples().into_iter().map(|other| other.jwk);
            let found = others.find(|jwk| {
                let same_kind = jwk["kty"] == example.jwk["kty"] && jwk["crv"].as_str() == curve;
                same_kind
                    && ["n", "k", "x"]
                        .iter()
                        .any(|part| jwk[part] != example.jwk[part])
            });
            public(found.unwrap())
        }
    }
}

fn with_part(token: &str, part: usize, change: impl Fn(&mut Vec<u8>)) -> String {
    let mut parts: Vec<String> = token.split('.').map(Into::into).collect();
    let mut bytes = base64url::decode(&parts[part]).unwrap();
    change(&mut bytes);
    parts[part] = base64url::encode(&bytes);
    parts.join(".")
}

#[test]
fn verifies_only_unchanged_examples() {
    let examples = examples();
    assert_eq!(examples.len(), 9);
    for example in &examples {
        let (name, keys) = (&example.name, key_for(example));
        assert_eq!(signature_only(&example.token, &keys), Ok(()), "{name}");
        for part in [1, 2] {
            let changed = with_part(&example.token, part, |bytes| bytes[0] ^= 1);
            assert_eq!(
                signature_only(&changed, &keys),
                Err(Rejection::SignatureInvalid),
                "{name}, part {part}"
            );
        }
        let longer = with_part(&example.token, 2, |bytes| bytes.insert(0, 0));
        assert_eq!(
            signature_only(&longer, &keys),
            Err(Rejection::SignatureInvalid),
            "{name}, a zero before the signature"
        );
    }
}

#[test]
fn rejects_examples_under_other_key() {
    for example in examples() {
        let mut foreign = foreign_key(&example);
        // The key ids are equal, so that only the signature distinguishes the keys.
        foreign["kid"] = example.jwk.get("kid").cloned().unwrap_or("other".into());
        let keys = read(&foreign, &[example.alg]).unwrap();
        assert_eq!(
            signature_only(&example.token, &keys),
            Err(Rejection::SignatureInvalid),
            "{}",
            example.name
        );
    }
}

#[test]
fn rejects_rfc_keys_with_private_members() {
    let private: Vec<Example> = examples()
        .into_iter()
        .filter(|example| example.jwk.get("d").is_some())
        .collect();
    assert_eq!(private.len(), 6);
    for example in private {
        let problems = read(&example.jwk, &[example.alg]).unwrap_err();
        assert_eq!(
            (problems.len(), problems[0].path.as_str()),
            (1, "keys[0].d"),
            "{}",
            example.name
        );
        let published = KeySet::from_provider(
            &json!({ "keys": [example.jwk] }).to_string(),
            &[example.alg],
        )
        .unwrap();
        assert_eq!(
            (published.len(), published.skipped()),
            (0, 1),
            "{}",
            example.name
        );
    }
}

#[test]
fn key_without_alg_serves_one_algorithm() {
    // The secret of RFC 7515 A.1 has 64 bytes, enough for HS512 as well.
    let hs256 = example("RFC 7515 A.1");
    let keys = read(&hs256.jwk, &Alg::ALL).unwrap();
    assert_eq!(
        keys.iter().map(keys::Key::alg).collect::<Vec<_>>(),
        [Alg::Hs256]
    );
    assert_eq!(signature_only(&hs256.token, &keys), Ok(()));
    // RFC 7520 signs with the same RSA key by two algorithms. A rule that allows both needs an
    // `alg` in the key.
    let (rs256, ps384) = (example("RFC 7520 4.1"), example("RFC 7520 4.2"));
    let keys = read(&public(ps384.jwk), &Alg::ALL).unwrap();
    assert_eq!(signature_only(&rs256.token, &keys), Ok(()));
    assert_eq!(
        signature_only(&ps384.token, &keys),
        Err(Rejection::AlgorithmMismatch)
    );
}

#[test]
fn accepts_secret_on_request_only() {
    let example = example("RFC 7520 4.4");
    let set = json!({ "keys": [example.jwk] }).to_string();
    assert_eq!(
        KeySet::from_config(&set, &[Alg::Hs256], false).unwrap_err()[0].path,
        "keys[0].kty"
    );
    assert_eq!(KeySet::from_provider(&set, &[Alg::Hs256]).unwrap().len(), 0);
}

#[test]
fn computes_thumbprints_of_rfc_keys() {
    fn print(jwk: &Value) -> Option<String> {
        keys::thumbprint(&jwk.to_string())
    }
    let rfc_7638: Value = serde_json::from_str(THUMBPRINT).unwrap();
    assert_eq!(
        print(&rfc_7638["jwk"]).as_deref(),
        rfc_7638["thumbprint"].as_str()
    );
    // RFC 8037 A.3; the private part does not affect the thumbprint.
    let ed25519 = example("RFC 8037 A.4").jwk;
    for jwk in [public(ed25519.clone()), ed25519] {
        assert_eq!(
            print(&jwk).as_deref(),
            Some("kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k")
        );
    }
}
