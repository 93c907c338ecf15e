//! Introspection (RFC 7662): authorization of the caller, and contents of the response (I22).

use meshseal_core::jose::Claims;
use serde_json::{Map, Value, json};

use crate::clients::Client;
use crate::config::Config;

/// Returns whether a client may introspect a token: the client that the token was issued to, or an
/// introspector of the token's service.
pub(super) fn may_know(config: &Config, caller: &Client, claims: &Claims) -> bool {
    claims.client_id() == Some(&caller.id)
        || claims
            .audiences()
            .filter_map(|audience| config.service(audience))
            .any(|service| service.introspectors.contains(&caller.id))
}

/// Returns the response for a valid token: all its claims.
pub(super) fn active(claims: &Claims) -> Value {
    let mut answer: Map<String, Value> = serde_json::from_str(claims.payload()).unwrap_or_default();
    answer.extend([
        ("active".to_owned(), json!(true)),
        ("token_type".to_owned(), json!("Bearer")),
    ]);
    Value::Object(answer)
}

/// Returns the response for all other tokens. It does not depend on the reason (RFC 7662 §2.2).
pub(super) fn inactive() -> Value {
    json!({ "active": false })
}
