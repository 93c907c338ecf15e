//! Discovery: metadata (RFC 8414, OpenID Connect Discovery) and the public keys.

mod endpoint;

pub(crate) use endpoint::{routes, well_known_routes};

use serde_json::{Map, Value, json};

use crate::config::Config;
use crate::keys::Algorithm;

/// Authorization server metadata (RFC 8414 §2). `issuer` is the same string as in tokens (I24).
#[must_use]
pub fn metadata(config: &Config) -> Map<String, Value> {
    let at = |path: &str| json!(format!("{}{path}", config.issuer));
    let mut scopes: Vec<&str> = config
        .services
        .iter()
        .flat_map(|service| &service.scopes)
        .map(String::as_str)
        .collect();
    scopes.sort_unstable();
    scopes.dedup();
    let methods = json!([
        "client_secret_basic",
        "client_secret_post",
        "private_key_jwt"
    ]);
    // Algorithms that client keys may have. The issuer's own algorithm would mislead a client that
    // signs assertions.
    let signing: Vec<&str> = meshseal_core::jose::Alg::ALL
        .iter()
        .filter(|alg| !alg.is_symmetric())
        .map(|alg| alg.name())
        .collect();
    let signing = json!(signing);
    let members = [
        ("issuer", json!(config.issuer)),
        ("token_endpoint", at("/token")),
        ("jwks_uri", at("/jwks")),
        ("introspection_endpoint", at("/introspect")),
        ("revocation_endpoint", at("/revoke")),
        ("scopes_supported", json!(scopes)),
        // Required, and not empty for common clients. `none` is the registered type that yields
        // nothing.
        ("response_types_supported", json!(["none"])),
        ("grant_types_supported", json!(["client_credentials"])),
        ("token_endpoint_auth_methods_supported", methods.clone()),
        (
            "token_endpoint_auth_signing_alg_values_supported",
            signing.clone(),
        ),
        (
            "introspection_endpoint_auth_methods_supported",
            methods.clone(),
        ),
        (
            "introspection_endpoint_auth_signing_alg_values_supported",
            signing.clone(),
        ),
        ("revocation_endpoint_auth_methods_supported", methods),
        (
            "revocation_endpoint_auth_signing_alg_values_supported",
            signing,
        ),
        ("resource_indicators_supported", json!(true)),
    ];
    // RFC 8414 §3.2: claims with zero elements are omitted.
    let has_elements = |value: &Value| value.as_array().is_none_or(|items| !items.is_empty());
    members
        .into_iter()
        .filter(|(_, value)| has_elements(value))
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// The same, with the members that OpenID Connect Discovery 1.0 §3 requires. The issuer issues no
/// ID tokens.
#[must_use]
pub fn openid_metadata(config: &Config) -> Map<String, Value> {
    let mut document = metadata(config);
    // §3: RS256 must be listed.
    let mut algorithms = vec![config.keys.algorithm.name()];
    if config.keys.algorithm != Algorithm::Rs256 {
        algorithms.push(Algorithm::Rs256.name());
    }
    document.extend([
        (
            "authorization_endpoint".to_owned(),
            json!(format!("{}/authorize", config.issuer)),
        ),
        ("subject_types_supported".to_owned(), json!(["public"])),
        (
            "id_token_signing_alg_values_supported".to_owned(),
            json!(algorithms),
        ),
    ]);
    document
}
