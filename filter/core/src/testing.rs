//! Test fixtures shared by core and plugin (feature `testing`): a signing key and the claims of a
//! valid token.

use alloc::format;
use alloc::string::{String, ToString as _};

use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};

use crate::base64url;

#[cfg(test)]
pub(crate) use policies::{NOW, bundle_policy, claims, inline_policy};

/// Issuer of the test tokens.
pub const ISSUER: &str = "https://issuer.example";

/// An Ed25519 signing key with a `kid`.
pub struct TestKey {
    /// Key id.
    pub kid: &'static str,
    signing: SigningKey,
}

impl TestKey {
    /// Creates a key; different seeds give different keys.
    #[must_use]
    pub fn new(kid: &'static str, seed: u8) -> Self {
        Self {
            kid,
            signing: SigningKey::from_bytes(&[seed; 32]),
        }
    }

    /// Returns the public key as a JWK (RFC 8037 §2).
    #[must_use]
    pub fn jwk(&self) -> Value {
        let x = base64url::encode(self.signing.verifying_key().as_bytes());
        json!({
            "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": self.kid, "x": x
        })
    }

    /// Returns the header of an access token.
    #[must_use]
    pub fn header(&self) -> Value {
        json!({ "alg": "EdDSA", "kid": self.kid, "typ": "at+jwt" })
    }

    /// Signs a token with any header and any payload.
    #[must_use]
    pub fn sign(&self, header: &Value, payload: &str) -> String {
        let input = format!(
            "{}.{}",
            base64url::encode(header.to_string().as_bytes()),
            base64url::encode(payload.as_bytes())
        );
        self.seal(input)
    }

    /// Signs an access token with these claims.
    #[must_use]
    pub fn token(&self, claims: &Value) -> String {
        self.sign(&self.header(), &claims.to_string())
    }

    /// Signs a signing input and returns the compact JWS.
    #[must_use]
    pub fn seal(&self, input: String) -> String {
        let signature = self.signing.sign(input.as_bytes());
        format!("{input}.{}", base64url::encode(&signature.to_bytes()))
    }
}

/// Returns the claims of an access token that is valid at `now`, with changes; a member set to null
/// is removed.
#[must_use]
pub fn claims_at(now: u64, changes: Value) -> Value {
    let mut claims = json!({
        "iss": ISSUER, "sub": "checkout", "client_id": "checkout", "aud": "orders",
        "iat": now.saturating_sub(10), "exp": now.saturating_add(290),
        "jti": crate::revocation::jti_with_index(7, [1; 8]), "scope": "orders.read",
    });
    merge(&mut claims, changes);
    claims
}

/// Sets members of an object; null removes one.
pub fn merge(target: &mut Value, changes: Value) {
    let (Some(target), Value::Object(changes)) = (target.as_object_mut(), changes) else {
        return;
    };
    for (name, value) in changes {
        if value.is_null() {
            target.remove(&name);
        } else {
            target.insert(name, value);
        }
    }
}

/// Policies for core's own tests.
#[cfg(test)]
mod policies {
    use alloc::string::ToString as _;

    use serde_json::{Value, json};

    use super::{ISSUER, TestKey, claims_at, merge};
    use crate::policy::Policy;

    /// Present time of the tests.
    pub(crate) const NOW: u64 = 1_700_000_000;

    /// Returns [`claims_at`] the tests' present time.
    pub(crate) fn claims(changes: Value) -> Value {
        claims_at(NOW, changes)
    }

    /// Reads a configuration with one issuer whose keys are inline, with changes to its rule and
    /// with the given route rules.
    pub(crate) fn inline_policy(keys: &[&TestKey], rule: Value, rules: Value) -> Policy {
        let jwks: Value = keys.iter().map(|key| key.jwk()).collect();
        let mut jwt_rule =
            json!({ "issuer": ISSUER, "audiences": ["orders"], "jwks": { "keys": jwks } });
        merge(&mut jwt_rule, rule);
        let mut config = json!({ "jwtRules": [jwt_rule] });
        merge(&mut config, json!({ "rules": rules }));
        crate::config::read_policy(&config.to_string()).unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// Reads a configuration with one issuer whose keys come in bundles signed by `pin`.
    pub(crate) fn bundle_policy(pin: &TestKey, bundle: Value, rules: Value) -> Policy {
        let mut trust_bundle = json!({ "cluster": "issuer", "keys": [pin.jwk()] });
        merge(&mut trust_bundle, bundle);
        let mut config = json!({
            "trustBundle": trust_bundle,
            "jwtRules": [{ "issuer": ISSUER, "audiences": ["orders"], "trustBundle": true }],
        });
        merge(&mut config, json!({ "rules": rules }));
        crate::config::read_policy(&config.to_string()).unwrap_or_else(|errors| panic!("{errors}"))
    }
}
