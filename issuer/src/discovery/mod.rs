//! Discovery: metadata (RFC 8414, OpenID Connect Discovery) and the public keys.

mod endpoint;

pub(crate) use endpoint::{routes, well_known_routes};

use serde_json::{Map, Value, json};

use crate::config::Config;
use crate::keys::Algorithm;

/// Returns the authorization server metadata (RFC 8414 §2). `issuer` is exactly the string in
/// tokens (I24).
#[must_use]
pub fn metadata(config: &Config) -> Map<String, Value> {
    let at = |path: &str| json!(format!("{}{path}", config.issuer));
    // Scopes of all services, each once.
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
    // Algorithms that client keys may have, for assertions. The issuer's own signing algorithm
    // would mislead clients.
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
        // The member is required, and common clients reject an empty list. `none` is the registered
        // response type that returns nothing.
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
    members
        .into_iter()
        .filter(|(_, value)| value.as_array().is_none_or(|items| !items.is_empty()))
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// Returns the metadata with the members that OpenID Connect Discovery 1.0 §3 requires. The issuer
/// issues no ID tokens.
#[must_use]
pub fn openid_metadata(config: &Config) -> Map<String, Value> {
    let mut document = metadata(config);
    // OpenID Connect Discovery 1.0 §3: RS256 must be listed.
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
