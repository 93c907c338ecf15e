//! What the tests of this crate share: keys, tokens, bundles, configurations.

use std::collections::BTreeMap;

use ed25519_dalek::{Signer as _, SigningKey};
use meshseal_core::base64url;
use meshseal_core::bundle::{IssuerTrust, KeyState, Payload, PublishedKey, Snapshot, Times};
use meshseal_core::revocation::jti_with_index;
use serde_json::{Value, json};

pub(crate) use crate::host::fake::START;

pub(crate) const ISSUER: &str = "https://issuer.example";

/// An Ed25519 key; different seeds make different keys.
pub(crate) struct TestKey {
    kid: &'static str,
    signing: SigningKey,
}

impl TestKey {
    pub(crate) fn new(kid: &'static str, seed: u8) -> Self {
        Self { kid, signing: SigningKey::from_bytes(&[seed; 32]) }
    }

    pub(crate) fn jwk(&self) -> Value {
        let x = base64url::encode(self.signing.verifying_key().as_bytes());
        json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": self.kid, "x": x })
    }

    fn sign(&self, input: String) -> String {
        let signature = self.signing.sign(input.as_bytes()).to_bytes();
        meshseal_core::bundle::seal(input, &signature)
    }

    /// An access token; `changes` set claims, null removes one.
    pub(crate) fn token(&self, changes: Value) -> String {
        let header = json!({ "alg": "EdDSA", "kid": self.kid, "typ": "at+jwt" });
        let mut claims = json!({
            "iss": ISSUER, "sub": "checkout", "client_id": "checkout", "aud": "orders", "iat": START - 10,
            "exp": START + 290, "jti": jti_with_index(7, [1; 8]), "scope": "orders.read",
        });
        merge(&mut claims, changes);
        let part = |value: &Value| base64url::encode(value.to_string().as_bytes());
        self.sign(format!("{}.{}", part(&header), part(&claims)))
    }

    pub(crate) fn bundle(&self, payload: &Payload) -> String {
        self.sign(payload.signing_input(self.kid))
    }
}

/// The bundle key.
pub(crate) fn pin() -> TestKey {
    TestKey::new("pin", 99)
}

/// What the issuer trusts at a version.
pub(crate) fn snapshot(version: u64, keys: &[&TestKey]) -> Snapshot {
    let publish = |key: &&TestKey| {
        let jwk = key.jwk().as_object().cloned().expect("a JWK is an object");
        PublishedKey { jwk, state: KeyState::Active }
    };
    let trust = IssuerTrust { keys: keys.iter().map(publish).collect(), ..IssuerTrust::default() };
    Snapshot { version, issuers: BTreeMap::from([(ISSUER.to_owned(), trust)]) }
}

pub(crate) fn times(issued_at: u64) -> Times {
    Times { issuer: ISSUER.to_owned(), issued_at, not_after: issued_at + 3_600 }
}

/// A full bundle, issued now.
pub(crate) fn full(version: u64, keys: &[&TestKey]) -> String {
    pin().bundle(&snapshot(version, keys).full(times(START)))
}

/// Sets members; null removes one.
pub(crate) fn merge(target: &mut Value, changes: Value) {
    let (Some(target), Value::Object(changes)) = (target.as_object_mut(), changes) else { return };
    for (name, value) in changes {
        if value.is_null() {
            target.remove(&name);
        } else {
            target.insert(name, value);
        }
    }
}

/// A configuration with one issuer whose keys are inline.
pub(crate) fn inline_config(keys: &[&TestKey], rule: Value, rest: Value) -> String {
    let jwks: Value = keys.iter().map(|key| key.jwk()).collect();
    config_with(json!({ "issuer": ISSUER, "audiences": ["orders"], "jwks": { "keys": jwks } }), rule, rest)
}

/// A configuration with one issuer whose keys come in bundles signed by [`pin`].
pub(crate) fn bundle_config(bundle: Value, rest: Value) -> String {
    let mut trust_bundle = json!({ "cluster": "issuer", "authority": "issuer.local", "keys": [pin().jwk()] });
    merge(&mut trust_bundle, bundle);
    let mut all = json!({ "trustBundle": trust_bundle });
    merge(&mut all, rest);
    config_with(json!({ "issuer": ISSUER, "audiences": ["orders"], "trustBundle": true }), json!({}), all)
}

/// A configuration with one issuer whose keys are fetched.
pub(crate) fn remote_config(rule: Value) -> String {
    let remote = json!({
        "issuer": ISSUER, "audiences": ["orders"], "jwksUri": "https://idp.example/keys?v=2", "jwksCluster": "idp",
    });
    config_with(remote, rule, json!({}))
}

fn config_with(mut jwt_rule: Value, changes: Value, rest: Value) -> String {
    merge(&mut jwt_rule, changes);
    let mut config = json!({ "jwtRules": [jwt_rule] });
    merge(&mut config, rest);
    config.to_string()
}

/// A key set as a provider serves it.
pub(crate) fn jwks(keys: &[&TestKey]) -> String {
    json!({ "keys": keys.iter().map(|key| key.jwk()).collect::<Value>() }).to_string()
}
