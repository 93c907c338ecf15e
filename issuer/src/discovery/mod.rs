//! Discovery: metadata (RFC 8414, OpenID Connect Discovery) and the public keys.

mod endpoint;

pub(crate) use endpoint::routes;

use serde_json::{Value, json};

use crate::config::Config;

/// The metadata document. `issuer` is the very string that is in tokens (I24).
#[must_use]
pub fn metadata(config: &Config) -> Value {
    let at = |path: &str| format!("{}{path}", config.issuer);
    let mut scopes: Vec<&str> =
        config.services.iter().flat_map(|service| &service.scopes).map(String::as_str).collect();
    scopes.sort_unstable();
    scopes.dedup();
    let methods = ["client_secret_basic", "client_secret_post", "private_key_jwt"];
    // What client keys may be for; ours alone would mislead a client that looks here for what to sign with.
    let signing: Vec<&str> =
        meshseal_core::alg::Alg::ALL.iter().filter(|alg| !alg.is_symmetric()).map(|alg| alg.name()).collect();
    json!({
        "issuer": config.issuer,
        "token_endpoint": at("/token"),
        "jwks_uri": at("/jwks"),
        "introspection_endpoint": at("/introspect"),
        "revocation_endpoint": at("/revoke"),
        "scopes_supported": scopes,
        "response_types_supported": [],
        "grant_types_supported": ["client_credentials"],
        "token_endpoint_auth_methods_supported": methods,
        "token_endpoint_auth_signing_alg_values_supported": signing,
        "introspection_endpoint_auth_methods_supported": methods,
        "introspection_endpoint_auth_signing_alg_values_supported": signing,
        "revocation_endpoint_auth_methods_supported": methods,
        "revocation_endpoint_auth_signing_alg_values_supported": signing,
        "resource_indicators_supported": true,
    })
}
