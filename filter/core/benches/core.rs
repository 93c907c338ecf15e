//! Benchmarks of the core's decisions alone: `make bench-core`.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a surprise must stop the bench"
)]

mod fixtures;

use std::collections::BTreeMap;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::hint::black_box;
use std::rc::Rc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion};
use fixtures::{NOW, Signer, policy, revoked};
use meshseal_core::authn::{Trust, Verdicts, check, validate};
use meshseal_core::authz::Request;
use meshseal_core::bundle::{Freshness, IssuerTrust, KeyState, PublishedKey, Snapshot, Times};
use meshseal_core::keys::KeySet;
use meshseal_core::revocation::{index_of, jti_with_index};
use serde_json::json;

fn main() {
    let criterion = Criterion::default().warm_up_time(Duration::from_millis(300));
    let mut criterion = criterion
        .measurement_time(Duration::from_millis(1_200))
        .sample_size(30)
        .configure_from_args();
    tokens(&mut criterion);
    growth(&mut criterion);
    revocation(&mut criterion);
    criterion.final_summary();
}

fn tokens(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("new");
    let trust = Trust::new();
    for alg in ["EdDSA", "ES256", "ES384", "ES512", "RS256", "PS256"] {
        let signer = Signer::of(alg);
        let (policy, token) = (policy(&[&signer], 1), signer.token(8));
        group.bench_function(alg, |bench| {
            bench.iter(|| validate(black_box(&token), policy.authn(), &trust, NOW).unwrap());
        });
    }
    group.finish();
    let signer = Signer::ed25519(1);
    let token = signer.token(8);
    let policy = policy(&[&signer], 1);
    let verified = validate(&token, policy.authn(), &trust, NOW).unwrap();
    let mut verdicts = Verdicts::new(BuildHasherDefault::<DefaultHasher>::default());
    verdicts.accept(
        &token,
        verified.proof(),
        Rc::new(policy.authz().evaluate(&verified, policy.authn())),
        0,
        &trust,
    );
    let mut again = || {
        verdicts
            .get(black_box(token.as_bytes()), policy.authn(), &trust, || NOW)
            .unwrap()
            .unwrap()
    };
    criterion.bench_function("again", |bench| bench.iter(&mut again));
}

fn growth(criterion: &mut Criterion) {
    let signer = Signer::ed25519(1);
    let trust = Trust::new();
    let request = Request {
        method: "GET",
        host: "orders",
        path: "/orders/1",
    };
    let mut group = criterion.benchmark_group("rules");
    for count in [1, 10, 100, 1_000] {
        let policy = policy(&[&signer], count);
        let token = validate(&signer.token(8), policy.authn(), &trust, NOW).unwrap();
        let results = policy.authz().evaluate(&token, policy.authn());
        group.bench_function(BenchmarkId::from_parameter(count), |bench| {
            let request = policy.authz().canonical(&request).unwrap();
            bench.iter(|| {
                policy
                    .authz()
                    .authorize(black_box(&request), &results, Freshness::default())
                    .unwrap();
            });
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("keys");
    for count in [1, 10, 50] {
        let signers: Vec<Signer> = (1..=count).map(Signer::ed25519).collect();
        let policy = policy(&signers.iter().collect::<Vec<_>>(), 1);
        let token = signers.last().unwrap().token(8);
        group.bench_function(BenchmarkId::from_parameter(count), |bench| {
            bench.iter(|| {
                check(black_box(&token), policy.authn(), &trust, || NOW)
                    .map(drop)
                    .unwrap();
            });
        });
    }
    group.finish();
    let policy = policy(&[&signer], 1);
    let mut group = criterion.benchmark_group("claims");
    for count in [8, 20, 50, 100] {
        let token = signer.token(count);
        group.bench_function(BenchmarkId::from_parameter(count), |bench| {
            bench.iter(|| {
                check(black_box(&token), policy.authn(), &trust, || NOW)
                    .map(drop)
                    .unwrap();
            });
        });
    }
    group.finish();
}

fn revocation(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("revoked");
    for count in [100, 1_000, 10_000, 100_000] {
        let set = revoked(count);
        // Unrevoked tokens (odd indices), whose lookups end at different places.
        let tokens: Vec<String> = (0..4_096)
            .map(|at| jti_with_index((at * 7_919 % 1_000_000) | 1, [1; 8]))
            .collect();
        let mut turn = 0;
        group.bench_function(BenchmarkId::from_parameter(count), |bench| {
            bench.iter(|| {
                turn = (turn + 1) % tokens.len();
                set.contains(index_of(black_box(&tokens[turn])).unwrap())
            });
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("bundle");
    for count in [0, 1_000, 10_000, 100_000] {
        let (pin, bundle) = bundle(count);
        group.bench_function(BenchmarkId::from_parameter(count), |bench| {
            bench.iter(|| {
                Trust::new()
                    .accept_bundle(black_box(&bundle), &pin, NOW)
                    .unwrap()
            });
        });
    }
    group.finish();
}

/// Builds a full bundle with a key and `count` revocations, and returns it with its pins.
fn bundle(count: u64) -> (KeySet, String) {
    let (pin, signer) = (Signer::ed25519(99), Signer::ed25519(1));
    let keys = vec![PublishedKey {
        jwk: signer.jwk(),
        state: KeyState::Active,
    }];
    let trust = IssuerTrust {
        keys,
        revoked: revoked(count),
        ..IssuerTrust::default()
    };
    let snapshot = Snapshot {
        version: 1,
        issuers: BTreeMap::from([("https://issuer.example".to_owned(), trust)]),
    };
    let times = Times {
        issuer: "https://issuer.example".to_owned(),
        issued_at: NOW,
        not_after: NOW + 3_600,
    };
    let input = snapshot.full(times).signing_input(pin.kid());
    let pins = json!({"keys": [pin.jwk()]}).to_string();
    let pins = KeySet::from_config(&pins, &[meshseal_core::jose::Alg::EdDsa], false).unwrap();
    (pins, pin.seal(input))
}
