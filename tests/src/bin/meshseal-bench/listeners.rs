//! The contenders: one listener each.

use anyhow::Result;
use meshseal_tests::bootstrap::{answering_listener, meshseal};
use meshseal_tests::mint::{Key, jwks};
use serde_json::{Value, json};

pub(crate) const ISSUER: &str = "https://issuer.example";
pub(crate) const AUDIENCE: &str = "orders";

/// A way of checking tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Contender {
    /// No filter but the router.
    Empty,
    /// `jwt_authn` as Istio configures it: no token cache, payload to metadata, and RBAC on a claim.
    NativeUncached,
    /// `jwt_authn` with its token cache, two claims to headers, payload to metadata, and RBAC on a claim.
    NativeWork,
    /// Meshseal: two claims to headers and a rule with a required scope.
    MeshsealWork,
    /// `jwt_authn` with its token cache and nothing else.
    NativeBare,
    /// Meshseal: validation and nothing else.
    MeshsealBare,
}

impl Contender {
    pub(crate) const ALL: [Self; 6] =
        [Self::Empty, Self::NativeUncached, Self::NativeWork, Self::MeshsealWork, Self::NativeBare, Self::MeshsealBare];

    /// The listener's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::NativeUncached => "native-uncached",
            Self::NativeWork => "native-work",
            Self::MeshsealWork => "meshseal-work",
            Self::NativeBare => "native-bare",
            Self::MeshsealBare => "meshseal-bare",
        }
    }

    /// What the report calls it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Empty => "no filter",
            Self::NativeUncached => "jwt_authn without cache + RBAC (what Istio configures)",
            Self::NativeWork => "jwt_authn with cache + claim_to_headers + RBAC",
            Self::MeshsealWork => "Meshseal, the same work",
            Self::NativeBare => "jwt_authn with cache, nothing else",
            Self::MeshsealBare => "Meshseal, validation only",
        }
    }

    pub(crate) fn listener(self, keys: &[Key; 3]) -> Result<Value> {
        let keys = jwks(&keys.iter().collect::<Vec<_>>())?;
        let filters = match self {
            Self::Empty => vec![],
            Self::NativeUncached => vec![jwt_authn(&keys, false, &json!({"payload_in_metadata": "payload"})), rbac()],
            Self::NativeWork => vec![jwt_authn(&keys, true, &work()), rbac()],
            Self::NativeBare => vec![jwt_authn(&keys, true, &json!({}))],
            Self::MeshsealWork => vec![meshseal(&json!({
                "statPrefix": "work",
                "jwtRules": [{
                    "issuer": ISSUER, "audiences": [AUDIENCE], "jwks": keys,
                    "outputClaimToHeaders": [{"header": "x-subject", "claim": "sub"}, {"header": "x-client", "claim": "client_id"}],
                }],
                "rules": [{"scopes": ["orders.read"]}],
            }))],
            Self::MeshsealBare => vec![meshseal(&json!({
                "statPrefix": "bare",
                "jwtRules": [{"issuer": ISSUER, "audiences": [AUDIENCE], "jwks": keys}],
            }))],
        };
        Ok(answering_listener(self.name(), &filters))
    }
}

fn work() -> Value {
    json!({
        "payload_in_metadata": "payload",
        "claim_to_headers": [
            {"header_name": "x-subject", "claim_name": "sub"},
            {"header_name": "x-client", "claim_name": "client_id"},
        ],
    })
}

fn jwt_authn(keys: &Value, cached: bool, more: &Value) -> Value {
    let mut provider = json!({
        "issuer": ISSUER,
        "audiences": [AUDIENCE],
        "local_jwks": {"inline_string": keys.to_string()},
        "require_expiration": true,
    });
    if let (Some(members), Some(more)) = (provider.as_object_mut(), more.as_object()) {
        members.extend(more.clone());
        if cached {
            members.insert("jwt_cache_config".to_owned(), json!({"jwt_cache_size": 10_000}));
        }
    }
    json!({
        "name": "jwt_authn",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
            "providers": {"issuer": provider},
            "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "issuer"}}],
        },
    })
}

fn rbac() -> Value {
    json!({
        "name": "rbac",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
            "rules": {"action": "ALLOW", "policies": {"read": {
                "permissions": [{"any": true}],
                "principals": [{"metadata": {
                    "filter": "envoy.filters.http.jwt_authn",
                    "path": [{"key": "payload"}, {"key": "scope"}],
                    "value": {"string_match": {"exact": "orders.read"}},
                }}],
            }}},
        },
    })
}
