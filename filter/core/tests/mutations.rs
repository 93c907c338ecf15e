//! Tokens of every algorithm from other signers, and their verdicts after changes of single bytes.
//!
//! aws-lc-rs signs. jsonwebtoken (over aws-lc-rs) and jwt-compact's own parser judge the same
//! tokens. aws-lc-rs is C code, so this file is for native targets. Its keys are new in every run;
//! a failure's message contains everything needed to reproduce it.

#![cfg(not(target_family = "wasm"))]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests: a surprise must stop the test"
)]

use std::cell::Cell;
use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair};
use aws_lc_rs::{hmac, rsa::KeySize};
use jwt_compact::UntrustedToken;
use meshseal_core::authn::{Trust, hints, signature_only, validate};
use meshseal_core::jose::Alg;
use meshseal_core::keys::KeySet;
use meshseal_core::policy::Policy;
use meshseal_core::{base64url, der};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

const NOW: u64 = 1_800_000_000;
const SECRET: [u8; 64] = [0x5a; 64];

/// Private keys of each kind, and the set of their public parts: a key for each algorithm, named
/// after the algorithm.
struct Signers {
    rsa: RsaKeyPair,
    p256: EcdsaKeyPair,
    p384: EcdsaKeyPair,
    p521: EcdsaKeyPair,
    ed25519: Ed25519KeyPair,
}

static SIGNERS: LazyLock<Signers> = LazyLock::new(|| Signers {
    rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
    p256: EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
    p384: EcdsaKeyPair::generate(&signature::ECDSA_P384_SHA384_FIXED_SIGNING).unwrap(),
    p521: EcdsaKeyPair::generate(&signature::ECDSA_P521_SHA512_FIXED_SIGNING).unwrap(),
    ed25519: Ed25519KeyPair::generate().unwrap(),
});

fn tag(hash: hmac::Algorithm, message: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hash, &SECRET);
    hmac::sign(&key, message).as_ref().to_vec()
}

fn sign(alg: Alg, message: &[u8]) -> Vec<u8> {
    let (random, signers) = (SystemRandom::new(), &*SIGNERS);
    let ecdsa = |key: &EcdsaKeyPair| key.sign(&random, message).unwrap().as_ref().to_vec();
    let padding: &'static dyn signature::RsaEncoding = match alg {
        Alg::Es256 => return ecdsa(&signers.p256),
        Alg::Es384 => return ecdsa(&signers.p384),
        Alg::Es512 => return ecdsa(&signers.p521),
        Alg::EdDsa => return signers.ed25519.sign(message).as_ref().to_vec(),
        Alg::Hs256 => return tag(hmac::HMAC_SHA256, message),
        Alg::Hs384 => return tag(hmac::HMAC_SHA384, message),
        Alg::Hs512 => return tag(hmac::HMAC_SHA512, message),
        Alg::Rs256 => &signature::RSA_PKCS1_SHA256,
        Alg::Rs384 => &signature::RSA_PKCS1_SHA384,
        Alg::Rs512 => &signature::RSA_PKCS1_SHA512,
        Alg::Ps256 => &signature::RSA_PSS_SHA256,
        Alg::Ps384 => &signature::RSA_PSS_SHA384,
        Alg::Ps512 => &signature::RSA_PSS_SHA512,
    };
    let mut signature = vec![0; signers.rsa.public_modulus_len()];
    signers
        .rsa
        .sign(padding, &random, message, &mut signature)
        .unwrap();
    signature
}

fn jwk(alg: Alg) -> Value {
    fn ecdsa(key: &EcdsaKeyPair, crv: &str) -> Value {
        let point = &key.public_key().as_ref()[1..];
        let (x, y) = point.split_at(point.len() / 2);
        let (x, y) = (base64url::encode(x), base64url::encode(y));
        json!({"kty": "EC", "crv": crv, "x": x, "y": y})
    }
    let signers = &*SIGNERS;
    let text = base64url::encode;
    let mut jwk = match alg {
        Alg::Es256 => ecdsa(&signers.p256, "P-256"),
        Alg::Es384 => ecdsa(&signers.p384, "P-384"),
        Alg::Es512 => ecdsa(&signers.p521, "P-521"),
        Alg::EdDsa => {
            json!({"kty": "OKP", "crv": "Ed25519",
                "x": text(signers.ed25519.public_key().as_ref())})
        }
        Alg::Hs256 | Alg::Hs384 | Alg::Hs512 => json!({"kty": "oct", "k": text(&SECRET)}),
        _ => {
            let public = signers.rsa.public_key();
            let (n, e) = (public.modulus(), public.exponent());
            json!({"kty": "RSA", "n": text(n.big_endian_without_leading_zero()),
                "e": text(e.big_endian_without_leading_zero())})
        }
    };
    jwk["alg"] = alg.name().into();
    jwk["kid"] = format!("the {} key", alg.name()).into();
    jwk
}

fn seal(alg: Alg, header: &str, payload: &str) -> String {
    let mut token = format!(
        "{}.{}",
        base64url::encode(header.as_bytes()),
        base64url::encode(payload.as_bytes())
    );
    let signature = base64url::encode(&sign(alg, token.as_bytes()));
    token.push('.');
    token.push_str(&signature);
    token
}

fn token(alg: Alg) -> String {
    let header = json!({"alg": alg.name(), "kid": jwk(alg)["kid"], "typ": "at+jwt"});
    let claims = json!({"iss": "https://issuer.test", "aud": "orders", "sub": "alice",
        "client_id": "app", "jti": "1",
        "iat": NOW - 5, "exp": NOW + 300});
    seal(alg, &header.to_string(), &claims.to_string())
}

/// Returns a policy whose one rule has the keys of all algorithms, so that a changed header can
/// select every other key.
static POLICY: LazyLock<Policy> =
    LazyLock::new(|| meshseal_core::config::read_policy(&configuration()).unwrap());

fn configuration() -> String {
    let rule = json!({"issuer": "https://issuer.test", "audiences": ["orders"],
        "algorithms": Alg::ALL.map(Alg::name),
        "jwks": {"keys": Alg::ALL.map(jwk)}});
    json!({ "jwtRules": [rule] }).to_string()
}

fn accepted(token: &str) -> bool {
    validate(token, POLICY.authn(), &Trust::new(), NOW).is_ok()
}

/// Applies every change of one bit, every cut at either end, and every insertion of `.`, `=`, `A`,
/// a space or a newline. A change that is no longer UTF-8 never reaches the core.
fn mutants(token: &str) -> impl Iterator<Item = String> {
    let flips = (0..token.len() * 8).filter_map(move |bit| {
        let mut bytes = token.as_bytes().to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        String::from_utf8(bytes).ok()
    });
    let cuts =
        (0..token.len()).flat_map(move |at| [token[..at].to_string(), token[at + 1..].to_string()]);
    let insertions = (0..=token.len()).flat_map(move |at| {
        [".", "=", "A", " ", "\n"]
            .map(move |inserted| format!("{}{inserted}{}", &token[..at], &token[at..]))
    });
    flips.chain(cuts).chain(insertions)
}

fn only_the_token_itself_is_accepted(alg: Alg) {
    let token = token(alg);
    assert!(accepted(&token), "{token} under {}", jwk(alg));
    let mut tried = 0;
    for mutant in mutants(&token) {
        assert!(
            !accepted(&mutant),
            "{mutant}\nis a mutant of {token}\nunder {}",
            jwk(alg)
        );
        tried += 1;
    }
    // Seven of eight bit flips leave valid text; each position has two cuts and five insertions.
    assert!(tried >= token.len() * (7 + 2 + 5), "tried {tried}");
}

macro_rules! mutation_tests {
    ($($name:ident: $alg:ident),+) => {
        $(#[test]
        fn $name() {
            only_the_token_itself_is_accepted(Alg::$alg);
        })+

        #[test]
        fn covers_every_algorithm() {
            assert_eq!([$(Alg::$alg),+], Alg::ALL);
        }
    };
}

mutation_tests!(
    rs256: Rs256, rs384: Rs384, rs512: Rs512, ps256: Ps256, ps384: Ps384, ps512: Ps512,
    es256: Es256, es384: Es384, es512: Es512, eddsa: EdDsa, hs256: Hs256, hs384: Hs384, hs512: Hs512
);

/// A signature is invalid under another algorithm's name or key, whatever the two have in common
/// (V5).
#[test]
fn rejects_other_algorithm() {
    let claims = "{}";
    for signed in Alg::ALL {
        for named in Alg::ALL {
            for key in Alg::ALL {
                let keys =
                    KeySet::from_config(&json!({"keys": [jwk(key)]}).to_string(), &Alg::ALL, true)
                        .unwrap();
                let token = seal(
                    signed,
                    &json!({"alg": named.name(), "kid": jwk(key)["kid"]}).to_string(),
                    claims,
                );
                let same = signed == named && named == key;
                assert_eq!(
                    signature_only(&token, &keys).is_ok(),
                    same,
                    "signed {signed:?}, named {named:?}, key {key:?}"
                );
            }
        }
    }
}

/// The classic algorithm confusion: an HMAC whose secret is the public key, in each form that a
/// verifier may hold.
#[test]
fn rejects_public_key_as_secret() {
    let keys = KeySet::from_config(
        &json!({"keys": [jwk(Alg::Rs256), jwk(Alg::EdDsa)]}).to_string(),
        &Alg::ALL,
        true,
    )
    .unwrap();
    for public in [jwk(Alg::Rs256), jwk(Alg::EdDsa)] {
        let material = public
            .get("n")
            .or(public.get("x"))
            .unwrap()
            .as_str()
            .unwrap();
        for secret in [
            material.as_bytes().to_vec(),
            base64url::decode(material).unwrap(),
            public.to_string().into_bytes(),
        ] {
            for kid in [public["kid"].clone(), Value::Null] {
                let mut header = json!({"alg": "HS256", "kid": kid});
                header
                    .as_object_mut()
                    .unwrap()
                    .retain(|_, value| !value.is_null());
                let input = format!("{}.e30", base64url::encode(header.to_string().as_bytes()));
                let tag = hmac::sign(
                    &hmac::Key::new(hmac::HMAC_SHA256, &secret),
                    input.as_bytes(),
                );
                assert!(
                    signature_only(
                        &format!("{input}.{}", base64url::encode(tag.as_ref())),
                        &keys
                    )
                    .is_err(),
                    "{header}"
                );
            }
        }
    }
}

/// Returns jsonwebtoken's verdict on form, header and signature.
fn jsonwebtoken_accepts(token: &str, alg: Alg) -> Result<Value, jsonwebtoken::errors::Error> {
    let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_value(jwk(alg)).unwrap();
    let mut rule = jsonwebtoken::Validation::new(alg.name().parse().unwrap());
    (rule.validate_exp, rule.validate_aud) = (false, false);
    rule.required_spec_claims.clear();
    let key = jsonwebtoken::DecodingKey::from_jwk(&jwk)?;
    jsonwebtoken::decode::<Value>(token, &key, &rule).map(|data| data.claims)
}

/// Generates headers between valid and invalid: members in any order, repeated, escaped, with
/// spaces, with extensions, and from attacks.
fn header(alg: Alg) -> impl Strategy<Value = String> {
    let kid = jwk(alg)["kid"].as_str().unwrap().to_owned();
    let name = alg.name();
    let members = vec![
        format!(r#""kid":"{kid}""#),
        r#""typ":"JWT""#.into(),
        r#""typ":"at+jwt""#.into(),
        r#""kid":"another""#.into(),
        r#""b64":true"#.into(),
        r#""b64":false"#.into(),
        r#""crit":[]"#.into(),
        r#""crit":["b64"],"b64":true"#.into(),
        r#""alg":"none""#.into(),
        format!(r#""alg":"{name}""#),
        format!(r#""\u0061lg":"{name}""#),
        format!("\n\t\"x\" : [ 1, {{ \"alg\": \"{}\" }} ]", "none"),
        r#""jku":"https://evil.test/keys","x5u":"https://evil.test""#.into(),
        r#""jwk":{"kty":"oct","k":"AAAA"}"#.into(),
    ];
    let some = proptest::sample::subsequence(members, 0..5).prop_shuffle();
    (
        some,
        prop::sample::select(vec!["", ",", " ", "}", "\u{feff}"]),
        any::<prop::sample::Index>(),
        0..8_u8,
    )
        .prop_map(move |(mut members, slip, at, odds)| {
            members.insert(at.index(members.len() + 1), format!(r#""alg":"{name}""#));
            // Mostly without a fault, so that some headers are accepted.
            let slip = if odds == 0 { slip } else { "" };
            format!("{{{}{slip}}}", members.join(","))
        })
}

fn judged_alg() -> impl Strategy<Value = Alg> {
    prop::sample::select(vec![
        Alg::Rs256,
        Alg::Ps256,
        Alg::Es256,
        Alg::Es384,
        Alg::EdDsa,
        Alg::Hs256,
    ])
}

static SET: LazyLock<KeySet> = LazyLock::new(|| {
    KeySet::from_config(
        &json!({"keys": Alg::ALL.map(jwk)}).to_string(),
        &Alg::ALL,
        true,
    )
    .unwrap()
});

#[derive(Clone, Debug)]
struct Edit {
    at: prop::sample::Index,
    remove: usize,
    insert: String,
}

/// Generates edits of a few bytes, mostly within the alphabet of the edited text.
fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let insert = prop_oneof![
        "[A-Za-z0-9_-]{0,3}",
        "[.=\"{}\\[\\],:\\\\]{0,2}",
        "\\PC{0,2}"
    ];
    let edit = (any::<prop::sample::Index>(), 0..4_usize, insert)
        .prop_map(|(at, remove, insert)| Edit { at, remove, insert });
    prop::collection::vec(edit, 1..4)
}

fn edited(text: &str, edits: &[Edit]) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for edit in edits {
        let at = edit.at.index(chars.len() + 1);
        let end = (at + edit.remove).min(chars.len());
        chars.splice(at..end, edit.insert.chars());
    }
    chars.into_iter().collect()
}

/// The core may be stricter than other libraries, but never more lenient.
#[test]
fn other_libraries_accept_accepted_tokens() {
    let agreed = Cell::new(0);
    let tokens = judged_alg().prop_flat_map(|alg| (Just(alg), header(alg), "\\PC{0,8}"));
    let mut runner = TestRunner::new(without_files());
    runner
        .run(&tokens, |(alg, header, claim)| {
            let claims = json!({"iss": "a", "claim": claim});
            let token = seal(alg, &header, &claims.to_string());
            if signature_only(&token, &SET).is_err() {
                return Ok(());
            }
            prop_assert_eq!(
                jsonwebtoken_accepts(&token, alg).map_err(|error| error.to_string()),
                Ok(claims),
                "{}",
                header
            );
            let parsed = UntrustedToken::new(&token)
                .map_err(|error| TestCaseError::fail(format!("{error}: {header}")))?;
            let kid = hints(&token).and_then(|hints| hints.kid);
            prop_assert_eq!(
                (parsed.algorithm(), parsed.header().key_id.as_deref()),
                (alg.name(), kid.as_deref())
            );
            agreed.set(agreed.get() + 1);
            Ok(())
        })
        .unwrap();
    assert!(
        agreed.get() >= 16,
        "only {} tokens were accepted at all",
        agreed.get()
    );
}

fn without_files() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(without_files())]

    #[test]
    fn rejects_edited_token(alg in prop::sample::select(Alg::ALL.to_vec()), edits in edits()) {
        let token = token(alg);
        let edited = edited(&token, &edits);
        prop_assert_eq!(accepted(&edited), edited == token, "{}", edited);
        prop_assert_eq!(signature_only(&edited, &SET).is_ok(), edited == token, "{}", edited);
    }

    /// Parsers must never panic: a trap in the proxy is an outage.
    #[test]
    fn nothing_panics(noise in "\\PC{0,64}",
        parts in "[A-Za-z0-9_-]{0,30}\\.[A-Za-z0-9_-]{0,30}\\.[A-Za-z0-9_-]{0,30}",
            edits in edits()) {
        for text in [&noise, &parts] {
            prop_assert!(!accepted(text));
            prop_assert!(hints(text).is_none());
        }
        for text in [noise, parts, edited(&configuration(), &edits)] {
            drop(meshseal_core::config::read_policy(&text));
            drop(KeySet::from_provider(&text, &Alg::ALL));
            let _ = Trust::new().accept_bundle(&text, &SET, NOW);
        }
        drop(KeySet::from_config(&edited(&json!({"keys": Alg::ALL.map(jwk)}).to_string(), &edits),
            &Alg::ALL, true));
    }
}

/// Checks the inputs for verification by a proxy: aws-lc, which shares its origin with BoringSSL,
/// reads key and signature.
#[test]
fn der_keeps_meaning() {
    fn none(alg: Alg) -> KeySet {
        KeySet::from_config(&json!({ "keys": [jwk(alg)] }).to_string(), &Alg::ALL, true).unwrap()
    }
    let hosted: [(Alg, &dyn signature::VerificationAlgorithm); 6] = [
        (Alg::Rs256, &signature::RSA_PKCS1_2048_8192_SHA256),
        (Alg::Rs384, &signature::RSA_PKCS1_2048_8192_SHA384),
        (Alg::Rs512, &signature::RSA_PKCS1_2048_8192_SHA512),
        (Alg::Es256, &signature::ECDSA_P256_SHA256_ASN1),
        (Alg::Es384, &signature::ECDSA_P384_SHA384_ASN1),
        (Alg::Es512, &signature::ECDSA_P521_SHA512_ASN1),
    ];
    for (alg, theirs) in hosted {
        let set = KeySet::from_config(&json!({ "keys": [jwk(alg)] }).to_string(), &Alg::ALL, false)
            .unwrap();
        let spki = set.iter().next().unwrap().spki().unwrap();
        // Enough repetitions for an r or s with a leading one bit, and one with a leading zero
        // byte.
        for round in 0..600_u32 {
            let message = round.to_be_bytes();
            let signed = sign(alg, &message);
            let ecdsa = matches!(alg, Alg::Es256 | Alg::Es384 | Alg::Es512);
            let signed = if ecdsa {
                der::ecdsa_signature(&signed).unwrap()
            } else {
                signed
            };
            assert!(
                theirs.verify_sig(spki, &message, &signed).is_ok(),
                "{} {round}",
                alg.name()
            );
            if !ecdsa {
                break;
            }
        }
    }
    for alg in [Alg::EdDsa, Alg::Hs256] {
        assert!(none(alg).iter().next().unwrap().spki().is_none());
    }
}
