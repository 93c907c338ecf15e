//! Contenders: ways of checking tokens, one listener each.

use meshseal_tests::bootstrap::meshseal;
use serde_json::{Value, json};

use super::tokens::{AUDIENCE, ISSUER};

/// Only the router, no other filter.
pub(crate) const EMPTY: &str = "empty";
/// `jwt_authn` as Istio configures it: no token cache, payload to metadata, and RBAC on a claim.
/// For a new token this is also the cheapest native way, because it fills no cache and sets no
/// header.
pub(crate) const ISTIO: &str = "istio";
/// `jwt_authn` with its token cache, two claims to headers, payload to metadata, and RBAC on a
/// claim.
pub(crate) const NATIVE: &str = "native";
/// `jwt_authn` with its token cache and nothing else.
pub(crate) const NATIVE_BARE: &str = "native-bare";
/// Meshseal: two claims to headers and a rule with a required scope.
pub(crate) const MESHSEAL: &str = "meshseal";
/// Meshseal: validation and nothing else.
pub(crate) const MESHSEAL_BARE: &str = "meshseal-bare";
/// Like [`MESHSEAL`], with a cache that only one workload fills.
pub(crate) const MESHSEAL_LIVE: &str = "meshseal-live";
/// Like [`MESHSEAL`], without the host's `verify_signature`.
pub(crate) const PORTABLE: &str = "portable";

/// A listener and its filters.
pub(crate) struct Contender {
    pub(crate) name: String,
    pub(crate) filters: Vec<Value>,
}

impl Contender {
    pub(crate) fn new(name: &str, filters: Vec<Value>) -> Self {
        Self {
            name: name.to_owned(),
            filters,
        }
    }
}

/// Returns the name of a contender in the report.
pub(crate) fn title(name: &str) -> &str {
    match name {
        EMPTY => "no filter",
        ISTIO => "jwt_authn without cache + RBAC (what Istio configures)",
        NATIVE => "jwt_authn with cache + claim_to_headers + RBAC",
        NATIVE_BARE => "jwt_authn with cache, nothing else",
        MESHSEAL => "Meshseal: rule + two claim headers",
        MESHSEAL_BARE => "Meshseal, validation only",
        MESHSEAL_LIVE => "Meshseal: rule + two claim headers, a cache of its own",
        PORTABLE => "Meshseal without verify_signature",
        other => other,
    }
}

/// Returns all contenders for these keys.
pub(crate) fn all(keys: &Value) -> Vec<Contender> {
    let work = json!({
        "payload_in_metadata": "payload",
        "claim_to_headers": [
            {"header_name": "x-subject", "claim_name": "sub"},
            {"header_name": "x-client", "claim_name": "client_id"},
        ],
    });
    let bare = json!({"statPrefix": "bare", "jwtRules": [jwt_rule(keys)]});
    let mut all = vec![
        Contender::new(EMPTY, vec![]),
        istio(keys),
        Contender::new(NATIVE, vec![jwt_authn(keys, true, &work), rbac()]),
        Contender::new(MESHSEAL, vec![meshseal(&plugin(MESHSEAL, keys))]),
        Contender::new(NATIVE_BARE, vec![jwt_authn(keys, true, &json!({}))]),
        Contender::new(MESHSEAL_BARE, vec![meshseal(&bare)]),
        Contender::new(MESHSEAL_LIVE, vec![meshseal(&plugin("live", keys))]),
    ];
    all.extend(portable(keys));
    all
}

/// Returns the contender [`ISTIO`] for these keys.
pub(crate) fn istio(keys: &Value) -> Contender {
    Contender::new(
        ISTIO,
        vec![
            jwt_authn(keys, false, &json!({"payload_in_metadata": "payload"})),
            rbac(),
        ],
    )
}

/// Returns the contender [`PORTABLE`] if the module has the setting `hostVerification`.
fn portable(keys: &Value) -> Option<Contender> {
    let mut plugin = plugin(PORTABLE, keys);
    plugin
        .as_object_mut()?
        .insert("hostVerification".to_owned(), false.into());
    meshseal_core::config::read_policy(&plugin.to_string()).ok()?;
    Some(Contender::new(PORTABLE, vec![meshseal(&plugin)]))
}

/// Returns a plugin configuration with a rule and two claims to headers.
pub(crate) fn plugin(name: &str, keys: &Value) -> Value {
    json!({
        "statPrefix": name.replace('-', "_"),
        "jwtRules": [working(jwt_rule(keys))],
        "rules": [{"scopes": ["orders.read"]}],
    })
}

/// Returns the JWT rule with two claims to headers.
pub(crate) fn working(mut rule: Value) -> Value {
    let outputs = json!([
        {"header": "x-subject", "claim": "sub"},
        {"header": "x-client", "claim": "client_id"},
    ]);
    if let Some(members) = rule.as_object_mut() {
        members.insert("outputClaimToHeaders".to_owned(), outputs);
    }
    rule
}

fn jwt_rule(keys: &Value) -> Value {
    json!({"issuer": ISSUER, "audiences": [AUDIENCE], "jwks": keys})
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
            members.insert(
                "jwt_cache_config".to_owned(),
                json!({"jwt_cache_size": 10_000}),
            );
        }
    }
    json!({
        "name": "jwt_authn",
        "typed_config": {
            "@type": "type.googleapis.com/\
                envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
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
