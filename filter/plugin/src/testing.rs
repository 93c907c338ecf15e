//! Keys, tokens, bundles and configurations shared by the tests of this crate.

use std::collections::BTreeMap;

use meshseal_core::bundle::{IssuerTrust, KeyState, Payload, PublishedKey, Snapshot, Times};
pub(crate) use meshseal_core::testing::{ISSUER, TestKey};
use meshseal_core::testing::{claims_at, merge};
use serde_json::{Value, json};

pub(crate) use crate::host::fake::START;

/// Returns an access token. `changes` sets claims; null removes one.
pub(crate) fn token(key: &TestKey, changes: Value) -> String {
    key.token(&claims_at(START, changes))
}

pub(crate) fn bundle(key: &TestKey, payload: &Payload) -> String {
    key.seal(payload.signing_input(key.kid))
}

/// Returns the pinned bundle key.
pub(crate) fn pin() -> TestKey {
    TestKey::new("pin", 99)
}

/// Returns the trust content of a bundle at a version.
pub(crate) fn snapshot(version: u64, keys: &[&TestKey]) -> Snapshot {
    let trust = IssuerTrust {
        keys: keys.iter().map(|key| published(key)).collect(),
        ..IssuerTrust::default()
    };
    Snapshot {
        version,
        issuers: BTreeMap::from([(ISSUER.to_owned(), trust)]),
    }
}

fn published(key: &TestKey) -> PublishedKey {
    PublishedKey {
        jwk: key.jwk().as_object().cloned().expect("a JWK is an object"),
        state: KeyState::Active,
    }
}

pub(crate) fn times(issued_at: u64) -> Times {
    Times {
        issuer: ISSUER.to_owned(),
        issued_at,
        not_after: issued_at + 3_600,
    }
}

/// Returns a full bundle issued at [`START`].
pub(crate) fn full(version: u64, keys: &[&TestKey]) -> String {
    bundle(&pin(), &snapshot(version, keys).full(times(START)))
}

/// Returns a configuration with one issuer whose keys are inline.
pub(crate) fn inline_config(keys: &[&TestKey], rule: Value, rest: Value) -> String {
    let jwks: Value = keys.iter().map(|key| key.jwk()).collect();
    config_with(
        json!({ "issuer": ISSUER, "audiences": ["orders"], "jwks": { "keys": jwks } }),
        rule,
        rest,
    )
}

/// Returns a configuration with one issuer whose keys come in bundles signed by [`pin`].
pub(crate) fn bundle_config(bundle: Value, rest: Value) -> String {
    let mut trust_bundle =
        json!({ "cluster": "issuer", "authority": "issuer.local", "keys": [pin().jwk()] });
    merge(&mut trust_bundle, bundle);
    let mut all = json!({ "trustBundle": trust_bundle });
    merge(&mut all, rest);
    config_with(
        json!({ "issuer": ISSUER, "audiences": ["orders"], "trustBundle": true }),
        json!({}),
        all,
    )
}

/// Returns a configuration with one issuer whose keys are fetched.
pub(crate) fn remote_config(rule: Value) -> String {
    let remote = json!({
        "issuer": ISSUER, "audiences": ["orders"],
        "jwksUri": "https://idp.example/keys?v=2", "jwksCluster": "idp",
    });
    config_with(remote, rule, json!({}))
}

fn config_with(mut jwt_rule: Value, changes: Value, rest: Value) -> String {
    merge(&mut jwt_rule, changes);
    let mut config = json!({ "jwtRules": [jwt_rule] });
    merge(&mut config, rest);
    config.to_string()
}

/// Returns a key set as a provider serves it.
pub(crate) fn jwks(keys: &[&TestKey]) -> String {
    json!({ "keys": keys.iter().map(|key| key.jwk()).collect::<Value>() }).to_string()
}
