//! Introspection (RFC 7662): whom a token's content is told, and what of it (I22).

use meshseal_core::jose::Claims;
use serde_json::{Map, Value, json};

use crate::clients::Client;
use crate::config::Config;

/// Returns whether this client may know: the client that the token was issued to, or an
/// introspector of its service.
pub(super) fn may_know(config: &Config, caller: &Client, claims: &Claims) -> bool {
    let for_caller = |audience: &str| {
        let speaks_for = |name: &String| *name == caller.id;
        config
            .service(audience)
            .is_some_and(|service| service.introspectors.iter().any(speaks_for))
    };
    claims.client_id() == Some(&caller.id) || claims.audiences().any(for_caller)
}

/// The answer for a token that is good.
pub(super) fn active(claims: &Claims) -> Value {
    let mut answer: Map<String, Value> = serde_json::from_str(claims.payload()).unwrap_or_default();
    answer.extend([
        ("active".to_owned(), json!(true)),
        ("token_type".to_owned(), json!("Bearer")),
    ]);
    Value::Object(answer)
}

/// The answer for all others, whatever the reason.
pub(super) fn inactive() -> Value {
    json!({ "active": false })
}
