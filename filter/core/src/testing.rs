//! What the tests of core and plugin share (feature `testing`): a signing key and the claims of a
//! good token.

use alloc::format;
use alloc::string::{String, ToString as _};

use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};

use crate::base64url;

#[cfg(test)]
pub(crate) use policies::{NOW, bundle_policy, claims, inline_policy};

/// The tests' issuer.
pub const ISSUER: &str = "https://issuer.example";

/// An Ed25519 key with a kid.
pub struct TestKey {
    /// Its name.
    pub kid: &'static str,
    signing: SigningKey,
}

impl TestKey {
    /// Different seeds make different keys.
    #[must_use]
    pub fn new(kid: &'static str, seed: u8) -> Self {
        Self {
            kid,
            signing: SigningKey::from_bytes(&[seed; 32]),
        }
    }

    /// The public key (RFC 8037 §2).
    #[must_use]
    pub fn jwk(&self) -> Value {
        let x = base64url::encode(self.signing.verifying_key().as_bytes());
        json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": self.kid, "x": x })
    }

    /// The header of an access token.
    #[must_use]
    pub fn header(&self) -> Value {
        json!({ "alg": "EdDSA", "kid": self.kid, "typ": "at+jwt" })
    }

    /// A token with any header and any payload.
    #[must_use]
    pub fn sign(&self, header: &Value, payload: &str) -> String {
        let input = format!(
            "{}.{}",
            base64url::encode(header.to_string().as_bytes()),
            base64url::encode(payload.as_bytes())
        );
        self.seal(input)
    }

    /// An access token with these claims.
    #[must_use]
    pub fn token(&self, claims: &Value) -> String {
        self.sign(&self.header(), &claims.to_string())
    }

    /// A signing input and its signature.
    #[must_use]
    pub fn seal(&self, input: String) -> String {
        let signature = self.signing.sign(input.as_bytes());
        format!("{input}.{}", base64url::encode(&signature.to_bytes()))
    }
}

/// Claims of an access token that is good at `now`, with changes: a member set to null is left out.
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

/// Sets members; null removes one.
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

/// Policies under test; core's own.
#[cfg(test)]
mod policies {
    use alloc::string::ToString as _;

    use serde_json::{Value, json};

    use super::{ISSUER, TestKey, claims_at, merge};
    use crate::policy::Policy;

    /// The tests' present.
    pub(crate) const NOW: u64 = 1_700_000_000;

    /// [`claims_at`] the tests' present.
    pub(crate) fn claims(changes: Value) -> Value {
        claims_at(NOW, changes)
    }

    /// A configuration with one issuer whose keys are inline, with changes to its rule and the
    /// route rules given.
    pub(crate) fn inline_policy(keys: &[&TestKey], rule: Value, rules: Value) -> Policy {
        let jwks: Value = keys.iter().map(|key| key.jwk()).collect();
        let mut jwt_rule =
            json!({ "issuer": ISSUER, "audiences": ["orders"], "jwks": { "keys": jwks } });
        merge(&mut jwt_rule, rule);
        let mut config = json!({ "jwtRules": [jwt_rule] });
        merge(&mut config, json!({ "rules": rules }));
        crate::config::read_policy(&config.to_string()).unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// A configuration with one issuer whose keys come in bundles signed by `pin`.
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
