use alloc::format;
use alloc::string::{String, ToString as _};

use serde_json::{Value, json};

use super::*;
use crate::authn::{Trust, validate};
use crate::authz::Request;
use crate::authz::host::DefaultPorts;
use crate::bundle::Freshness;
use crate::rejection::Rejection;
use crate::testing::{NOW, TestKey, bundle_policy, claims, inline_policy};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn decide(rules: Value, method: &str, path: &str, changes: Value) -> Option<Rejection> {
    decide_under(json!({}), rules, method, path, changes)
}

fn decide_under(
    rule: Value,
    rules: Value,
    method: &str,
    path: &str,
    changes: Value,
) -> Option<Rejection> {
    let key = TestKey::new("k1", 1);
    let policy = inline_policy(&[&key], rule, rules);
    let token = validate(
        &key.token(&claims(changes)),
        policy.authn(),
        &Trust::new(),
        NOW,
    )
    .unwrap();
    let request = Request {
        method,
        host: "orders.example",
        path,
    };
    let request = policy.authz().canonical(&request).unwrap();
    policy
        .authz()
        .authorize(
            &request,
            &policy.authz().evaluate(&token, policy.authn()),
            Freshness::default(),
        )
        .err()
        .map(|denied| denied.rejection)
}

fn to(operation: Value) -> Value {
    json!([{ "operation": operation }])
}

#[test]
fn rules_deny_by_default() {
    assert_eq!(decide(Value::Null, "GET", "/any", json!({})), None);
    let rules = json!([{ "to": to(json!({ "paths": ["/orders"] })) }]);
    assert_eq!(
        decide(rules.clone(), "GET", "/orders?x=/other", json!({})),
        None
    );
    assert_eq!(
        decide(rules, "GET", "/other?x=/orders", json!({})),
        Some(Rejection::RuleUnmatched)
    );
}

#[test]
fn methods_hosts_and_paths_must_match() {
    let rules = json!([{ "to": to(json!({ "methods": ["GET"], "hosts": ["*.example"],
        "paths": ["/a/{*}"], "notPaths": ["/a/secret"] })) }]);
    assert_eq!(decide(rules.clone(), "GET", "/a/b", json!({})), None);
    for (method, path) in [("POST", "/a/b"), ("GET", "/a/b/c"), ("GET", "/a/secret")] {
        assert_eq!(
            decide(rules.clone(), method, path, json!({})),
            Some(Rejection::RuleUnmatched),
            "{method} {path}"
        );
    }
}

#[test]
fn v22_names_missing_scope() {
    let key = TestKey::new("k1", 1);
    let rules = json!([{ "to": to(json!({ "methods": ["POST"] })),
        "scopes": ["orders.write", "orders.read"] }]);
    let policy = inline_policy(&[&key], json!({}), rules);
    let token = validate(
        &key.token(&claims(json!({}))),
        policy.authn(),
        &Trust::new(),
        NOW,
    )
    .unwrap();
    let request = |method| {
        policy
            .authz()
            .canonical(&Request {
                method,
                host: "h",
                path: "/",
            })
            .unwrap()
    };
    let denied = policy
        .authz()
        .authorize(
            &request("POST"),
            &policy.authz().evaluate(&token, policy.authn()),
            Freshness::default(),
        )
        .unwrap_err();
    assert_eq!(denied.rejection, Rejection::ScopeMissing);
    assert_eq!(
        denied
            .scopes
            .iter()
            .map(AsRef::as_ref)
            .collect::<Vec<&str>>(),
        ["orders.write", "orders.read"]
    );
    let denied = policy
        .authz()
        .authorize(
            &request("GET"),
            &policy.authz().evaluate(&token, policy.authn()),
            Freshness::default(),
        )
        .unwrap_err();
    assert_eq!(
        (denied.rejection, denied.scopes.len()),
        (Rejection::RuleUnmatched, 0)
    );
}

#[test]
fn deny_rule_overrides_allow_rules() {
    let rules = json!([
        { "to": to(json!({ "paths": ["/orders*"] })), "scopes": ["nobody.has.this"] },
        { "to": to(json!({ "methods": ["GET"] })), "scopes": ["orders.read"] },
        { "action": "DENY", "when": [{ "key": "request.auth.claims[suspended]",
            "values": ["true"] }] },
    ]);
    assert_eq!(decide(rules.clone(), "GET", "/orders", json!({})), None);
    assert_eq!(
        decide(rules.clone(), "PUT", "/orders", json!({})),
        Some(Rejection::ScopeMissing)
    );
    assert_eq!(
        decide(rules, "GET", "/orders", json!({ "suspended": true })),
        Some(Rejection::RuleDenied)
    );
}

#[test]
fn conditions_match_any_value_of_claim() {
    fn teams(values: Value) -> Value {
        json!({ "key": "request.auth.claims[teams]", "values": values })
    }
    fn groups(values: Value) -> Value {
        json!({ "key": "request.auth.claims[groups]", "values": values })
    }
    fn when(condition: Value) -> Value {
        json!([{ "when": [condition] }])
    }
    for (rules, changes, passes) in [
        (
            when(groups(json!(["ops", "dev-*"]))),
            json!({ "groups": ["x", "dev-1"] }),
            true,
        ),
        (
            when(groups(json!(["ops"]))),
            json!({ "groups": "ops" }),
            true,
        ),
        (
            when(groups(json!(["ops"]))),
            json!({ "groups": ["x"] }),
            false,
        ),
        (
            when(teams(json!(["ops"]))),
            json!({ "teams": { "ops": 1 } }),
            false,
        ),
        (when(groups(json!(["ops"]))), json!({}), false),
        (when(groups(json!(["*"]))), json!({ "groups": [] }), false),
        (
            when(json!({ "key": "request.auth.claims[groups]", "notValues": ["banned"] })),
            json!({ "groups": ["a", "banned"] }),
            false,
        ),
        (
            when(json!({ "key": "request.auth.claims[groups]", "notValues": ["banned"] })),
            json!({}),
            true,
        ),
        (
            when(
                json!({ "key": "request.auth.claims[groups]", "values": ["a"],
                    "notValues": ["b"] }),
            ),
            json!({ "groups": ["a", "b"] }),
            false,
        ),
        (
            when(json!({ "key": "request.auth.claims[a][b]", "values": ["7"] })),
            json!({ "a": { "b": 7 } }),
            true,
        ),
        (
            when(json!({ "key": "request.auth.claims[a][b]", "values": ["true"] })),
            json!({ "a": { "b": [false, true] } }),
            true,
        ),
        (
            when(json!({ "key": "request.auth.claims[a.b]", "values": ["7"] })),
            json!({ "a.b": 7 }),
            true,
        ),
        (
            when(json!({ "key": "request.auth.claims[scope]", "values": ["orders.read"] })),
            json!({ "scope": "a orders.read" }),
            true,
        ),
        (
            when(json!({ "key": "request.auth.claims[note]", "values": ["b"] })),
            json!({ "note": "a b" }),
            false,
        ),
        (
            when(json!({ "key": "request.auth.principal",
                    "values": ["https://issuer.example/checkout"] })),
            json!({}),
            true,
        ),
        (
            when(json!({ "key": "request.auth.audiences", "values": ["billing"] })),
            json!({ "aud": ["orders", "billing"] }),
            true,
        ),
        (
            when(json!({ "key": "request.auth.presenter", "values": ["app"] })),
            json!({ "azp": "app" }),
            true,
        ),
        (
            when(json!({ "key": "request.auth.subjectType", "values": ["user"] })),
            json!({ "sub": "alice" }),
            true,
        ),
        (
            when(json!({ "key": "request.auth.subjectType", "values": ["user"] })),
            json!({}),
            false,
        ),
        (
            when(teams(json!(["*"]))),
            json!({ "teams": { "ops": 1 } }),
            true,
        ),
        (
            when(teams(json!(["*"]))),
            json!({ "teams": [{ "name": "ops" }] }),
            true,
        ),
        (
            when(teams(json!(["o*", "*s"]))),
            json!({ "teams": {} }),
            false,
        ),
        (
            when(json!({ "key": "request.auth.claims[teams]", "notValues": ["*"] })),
            json!({ "teams": {} }),
            false,
        ),
        (
            when(
                json!({ "key": "request.auth.claims[kubernetes.io][namespace]",
                    "values": ["shop"] }),
            ),
            json!({ "kubernetes.io": { "namespace": "shop" } }),
            true,
        ),
        (
            when(
                json!({ "key": "request.auth.claims[https://shop.example/tenant]",
                    "values": ["t1"] }),
            ),
            json!({ "https://shop.example/tenant": "t1" }),
            true,
        ),
        (
            when(json!({ "key": "request.auth.claims[scope]", "values": ["*"] })),
            json!({ "scope": " " }),
            false,
        ),
        (
            when(json!({ "key": "request.auth.claims[act][sub]", "values": ["inner"] })),
            json!({ "act": { "sub": "outer", "act": { "sub": "inner" } } }),
            false,
        ),
        (
            json!([{ "from": [{ "source": { "requestPrincipals": ["*/checkout"] } }] }]),
            json!({}),
            true,
        ),
        (
            json!([{ "from": [{ "source": { "requestPrincipals": ["*"],
                "notRequestPrincipals": ["*/checkout"] } }] }]),
            json!({}),
            false,
        ),
    ] {
        let verdict = decide(rules.clone(), "GET", "/", changes.clone());
        assert_eq!(
            verdict,
            (!passes).then_some(Rejection::RuleUnmatched),
            "{rules} {changes}"
        );
    }
}

/// Returns the claims of a token with this actor; null means no actor.
fn delegated_to(act: &Value) -> Value {
    if act.is_null() {
        json!({})
    } else {
        json!({ "act": act })
    }
}

#[test]
fn v24_denies_every_form_of_delegation() {
    let rules = json!([{}, { "action": "DENY",
        "when": [{ "key": "request.auth.delegated", "values": ["true"] }] }]);
    let undelegated = decide(rules.clone(), "GET", "/", delegated_to(&Value::Null));
    assert_eq!(undelegated, None);
    for act in [
        json!({ "sub": "proxy" }),
        json!({ "client_id": "proxy" }),
        json!({ "sub": "" }),
        json!({}),
        json!({ "x": 1 }),
        json!({ "act": { "sub": "inner" } }),
    ] {
        let verdict = decide(rules.clone(), "GET", "/", delegated_to(&act));
        assert_eq!(verdict, Some(Rejection::RuleDenied), "{act}");
    }
}

#[test]
fn actor_is_the_outermost_with_its_issuer() {
    for (act, actor) in [
        (
            json!({ "sub": "edge" }),
            Some("https://issuer.example/edge"),
        ),
        (
            json!({ "client_id": "edge" }),
            Some("https://issuer.example/edge"),
        ),
        (
            json!({ "sub": "edge", "client_id": "other" }),
            Some("https://issuer.example/edge"),
        ),
        (
            json!({ "sub": "", "client_id": "edge" }),
            Some("https://issuer.example/edge"),
        ),
        (
            json!({ "iss": "https://b", "sub": "edge" }),
            Some("https://b/edge"),
        ),
        (
            json!({ "iss": "", "sub": "edge" }),
            Some("https://issuer.example/edge"),
        ),
        (
            json!({ "sub": "edge", "act": { "sub": "inner" } }),
            Some("https://issuer.example/edge"),
        ),
        (json!({ "act": { "sub": "inner" } }), None),
        (json!({ "sub": "" }), None),
        (Value::Null, None),
    ] {
        let with = |field: &str, values: &[&str]| {
            let rules = json!([{ "when": [{ "key": "request.auth.actor", field: values }] }]);
            decide(rules, "GET", "/", delegated_to(&act)).is_none()
        };
        assert_eq!(with("values", &["*"]), actor.is_some(), "{act}");
        assert_eq!(
            actor.is_some_and(|actor| with("values", &[actor])),
            actor.is_some(),
            "{act}"
        );
        assert!(
            !with("values", &["*inner", "edge"]) && with("notValues", &["*inner"]),
            "{act}"
        );
    }
}

#[test]
fn delegation_depth_counts_every_actor() {
    let mut act = Value::Null;
    for depth in 0..6 {
        for limit in 0..6 {
            let allowed: Vec<String> = (0..=limit).map(|depth| format!("{depth}")).collect();
            let rules =
                json!([{ "when": [{ "key": "request.auth.delegationDepth", "values": allowed }] }]);
            assert_eq!(
                decide(rules, "GET", "/", delegated_to(&act)).is_none(),
                depth <= limit,
                "{depth} {limit}"
            );
        }
        act = if act.is_null() {
            json!({ "sub": "a" })
        } else {
            json!({ "act": act })
        };
    }
}

/// Decides on a token with one claim given as text, because serde_json would change its digits.
fn admits_spelling(pattern: &str, value: &str) -> bool {
    let key = TestKey::new("k1", 1);
    let rules = json!([{ "when": [{ "key": "request.auth.claims[id]", "values": [pattern] }] }]);
    let policy = inline_policy(&[&key], json!({}), rules);
    let claims = claims(json!({})).to_string();
    let token = key.sign(
        &key.header(),
        &format!("{},\"id\":{value}}}", &claims[..claims.len() - 1]),
    );
    let token = validate(&token, policy.authn(), &Trust::new(), NOW).unwrap();
    let request = Request {
        method: "GET",
        host: "orders.example",
        path: "/",
    };
    let request = policy.authz().canonical(&request).unwrap();
    policy
        .authz()
        .authorize(
            &request,
            &policy.authz().evaluate(&token, policy.authn()),
            Freshness::default(),
        )
        .is_ok()
}

#[test]
fn numbers_are_compared_as_they_were_signed() {
    for number in [
        "36893488147419103233",
        "1e3",
        "1.0",
        "-0",
        "1E3",
        "281674916028284930",
        "-7",
    ] {
        assert!(admits_spelling(number, number), "{number}");
        assert!(
            admits_spelling(number, &format!("[0,{number}]")),
            "{number}"
        );
    }
    for (pattern, number) in [
        ("1000", "1e3"),
        ("1", "1.0"),
        ("0", "-0"),
        ("36893488147419103232", "36893488147419103233"),
    ] {
        assert!(!admits_spelling(pattern, number), "{pattern} {number}");
    }
}

#[test]
fn v23_setting_distinguishes_services_from_users() {
    fn is(rule: &Value, kind: &str, changes: &Value) -> bool {
        let rules = json!([{ "when": [{ "key": "request.auth.subjectType", "values": [kind] }] }]);
        decide_under(rule.clone(), rules, "GET", "/", changes.clone()).is_none()
    }
    let entra = json!({ "subjectType": { "claim": "idtyp", "clientValues": ["app"] } });
    let keycloak = json!({ "subjectType": { "claim": "preferred_username",
        "clientValues": ["service-account-*"] } });
    let okta = json!({ "subjectType": { "claim": "cid" } });
    for (rule, changes, client) in [
        (&entra, json!({ "idtyp": "app", "sub": "alice" }), true),
        (&entra, json!({ "idtyp": "user" }), false),
        (&entra, json!({}), false),
        (
            &keycloak,
            json!({ "preferred_username": "service-account-checkout", "sub": "a" }),
            true,
        ),
        (&keycloak, json!({ "preferred_username": "alice" }), false),
        (&okta, json!({ "cid": "0oa1", "sub": "0oa1" }), true),
        (&okta, json!({ "cid": "0oa1", "sub": "alice" }), false),
        (&okta, json!({ "cid": "", "sub": ""  }), false),
    ] {
        let mut rule = rule.clone();
        rule["requiredClaims"] = json!(["jti"]);
        assert_eq!(
            (is(&rule, "client", &changes), is(&rule, "user", &changes)),
            (client, !client),
            "{rule} {changes}"
        );
    }
}

#[test]
fn scope_claims_name_where_scopes_are() {
    let rules = json!([{ "scopes": ["Orders.Read"] }]);
    let decide = |claims: Value, changes: Value| {
        let rule = claims
            .as_array()
            .map_or(json!({}), |_| json!({ "scopeClaims": claims }));
        decide_under(rule, rules.clone(), "GET", "/", changes).is_none()
    };
    assert!(decide(
        json!(["scp"]),
        json!({ "scp": "openid Orders.Read" })
    ));
    assert!(decide(
        json!(["scope", "scp"]),
        json!({ "scp": ["Orders.Read"] })
    ));
    assert!(decide(
        json!(["ext.scp"]),
        json!({ "ext": { "scp": ["Orders.Read"] } })
    ));
    assert!(!decide(Value::Null, json!({ "scp": "Orders.Read" })));
    assert!(
        !decide(json!(["scp"]), json!({ "scope": "Orders.Read" })),
        "the list replaces the default"
    );
    assert!(!decide(json!(["scp"]), json!({ "scp": "Orders.ReadAll" })));
}

#[test]
fn empty_subject_has_no_principal() {
    fn from(source: Value) -> Value {
        json!([{ "from": [{ "source": source }] }])
    }
    let rule = json!({ "requiredClaims": ["jti"] });
    let empty = json!({ "sub": "" });
    let without_rules = decide_under(rule.clone(), Value::Null, "GET", "/", empty.clone());
    assert_eq!(without_rules, None);
    for pattern in ["*", "https://issuer.example/*", "*/"] {
        let rules = from(json!({ "requestPrincipals": [pattern] }));
        assert!(
            decide_under(rule.clone(), rules, "GET", "/", empty.clone()).is_some(),
            "{pattern}"
        );
    }
}

#[test]
fn public_rule_may_exclude_tokens() {
    let key = TestKey::new("k1", 1);
    let rules = json!([{ "allowMissing": true,
        "when": [{ "key": "request.auth.claims[suspended]", "notValues": ["true"] }] }]);
    let policy = inline_policy(&[&key], json!({}), rules.clone());
    let request = policy
        .authz()
        .canonical(&Request {
            method: "GET",
            host: "h",
            path: "/",
        })
        .unwrap();
    assert!(policy.authz().admits_anonymous(&request));
    assert_eq!(decide(rules.clone(), "GET", "/", json!({})), None);
    assert_eq!(
        decide(rules, "GET", "/", json!({ "suspended": true })),
        Some(Rejection::RuleUnmatched)
    );
}

#[test]
fn deny_rules_apply_to_public_routes() {
    fn admits_by(policy: &Policy, path: &str) -> bool {
        policy.authz().admits_anonymous(
            &policy
                .authz()
                .canonical(&Request {
                    method: "GET",
                    host: "h",
                    path,
                })
                .unwrap(),
        )
    }
    let key = TestKey::new("k1", 1);
    let rules = json!([
        { "to": to(json!({ "paths": ["/healthz", "/docs*"] })), "allowMissing": true },
        { "action": "DENY", "to": to(json!({ "paths": ["/docs/internal*"] })) },
        { "to": to(json!({ "paths": ["/orders"] })) },
    ]);
    let policy = inline_policy(&[&key], json!({}), rules);
    for path in ["/healthz", "/docs/a"] {
        assert!(admits_by(&policy, path), "{path}");
    }
    for path in ["/docs/internal/x", "/orders", "/"] {
        assert!(!admits_by(&policy, path), "{path}");
    }
    assert!(!admits_by(
        &inline_policy(&[&key], json!({}), Value::Null),
        "/"
    ));
}

/// Returns the rejection of a request without a canonical form.
fn rejection(policy: &Policy, host: &str, path: &str) -> Option<Rejection> {
    let request = Request {
        method: "GET",
        host,
        path,
    };
    policy.authz().canonical(&request).err()
}

#[test]
fn rejects_ambiguous_paths_if_rules_compare_paths() {
    let key = TestKey::new("k1", 1);
    let policy = inline_policy(
        &[&key],
        json!({}),
        json!([{ "to": to(json!({ "paths": ["/a*"] })) }]),
    );
    for path in [
        "/a",
        "/a/b?x=/../y;%61",
        "/a/%20b",
        "/a/..b",
        "/a/%C3%A4",
        "/a/:b@c,d",
        "/%61dmin",
        "/a%2Dm",
        "*",
    ] {
        assert_eq!(rejection(&policy, "h", path), None, "{path}");
    }
    let doubtful = [
        "/a/../b",
        "/a/.",
        "/a//b",
        "/a\\b",
        "/a/%2e%2E/b",
        "/a%2Fb",
        "/a%5cb",
        "/a%00",
        "/a/..;x/b",
        "a",
        "",
        "/a b",
        "/a/%252e",
        "/;x/admin",
        "/admin;x",
        "/a%3bx",
        "/a%",
        "/a%4",
        "/a%zz",
        "/a%0a",
        "/a%7f",
        "/a%C2%85",
        "/a%c3",
        "/a%c3/%a9",
        "/a%ff",
        "/a%C0%AF",
        "/a%ED%A0%80",
        "/a#b",
        "/%2a/%2e%2E",
        "/\u{e4}",
    ];
    for path in doubtful {
        assert_eq!(
            rejection(&policy, "h", path),
            Some(Rejection::PathNotNormalized),
            "{path}"
        );
    }
    let public = json!([{ "to": to(json!({ "notPaths": ["/a"] })), "allowMissing": true }]);
    let public = inline_policy(&[&key], json!({}), public);
    assert!(
        public
            .authz()
            .canonical(&Request {
                method: "GET",
                host: "h",
                path: "/x/../a"
            })
            .is_err()
    );
    let hosts = inline_policy(
        &[&key],
        json!({}),
        json!([{ "to": to(json!({ "notHosts": ["admin.test"] })) }]),
    );
    for host in ["shop.test:80", "[::1]:80"] {
        assert_eq!(rejection(&hosts, host, "//"), None, "{host}");
    }
    assert_eq!(
        rejection(&hosts, "admin.test:80:80", "//"),
        Some(Rejection::HostMalformed)
    );
    let pathless = inline_policy(&[&key], json!({}), Value::Null);
    assert!(
        pathless
            .authz()
            .canonical(&Request {
                method: "GET",
                host: "h",
                path: "/a//b"
            })
            .is_ok()
    );
}

#[test]
fn v16_route_sets_maximum_bundle_age() {
    let (pin, key) = (TestKey::new("pin", 9), TestKey::new("k1", 1));
    let rules = json!([
        { "to": to(json!({ "paths": ["/pay"] })), "staleness": { "maxAge": "60s" } },
        { "to": to(json!({ "paths": ["/read"] })), "staleness": { "action": "SERVE" } },
        { "to": to(json!({ "paths": ["/default"] })) },
    ]);
    let policy = bundle_policy(&pin, json!({ "staleness": { "maxAge": "5m" } }), rules);
    let inline = inline_policy(&[&key], json!({}), Value::Null);
    let token = validate(
        &key.token(&claims(json!({}))),
        inline.authn(),
        &Trust::new(),
        NOW,
    )
    .unwrap();
    let decide = |path, age, expired| {
        let request = Request {
            method: "GET",
            host: "h",
            path,
        };
        policy
            .authz()
            .authorize(
                &policy.authz().canonical(&request).unwrap(),
                &policy.authz().evaluate(&token, policy.authn()),
                Freshness {
                    age: Some(age),
                    expired,
                    overdue: false,
                },
            )
            .err()
            .map(|denied| denied.rejection)
    };
    assert_eq!(
        (decide("/pay", 60, false), decide("/pay", 61, false)),
        (None, Some(Rejection::BundleStale))
    );
    assert_eq!(
        (
            decide("/default", 300, false),
            decide("/default", 301, false)
        ),
        (None, Some(Rejection::BundleStale))
    );
    assert_eq!(
        (decide("/read", 9999, true), decide("/default", 1, true)),
        (None, Some(Rejection::BundleStale))
    );
}

#[test]
fn longest_staleness_of_any_allowing_rule_counts() {
    fn named(name: &str, mut rule: Value) -> Value {
        rule["to"] = to(json!({ "paths": [name] }));
        rule
    }
    fn minutes(minutes: u64) -> Value {
        json!({ "staleness": { "maxAge": format!("{minutes}m") } })
    }
    fn bound(bundle: Value, rules: Value) -> StalenessBound {
        bundle_policy(&TestKey::new("pin", 9), bundle, rules).staleness_bound()
    }
    assert_eq!(bound(json!({}), Value::Null), StalenessBound::NotAfter);
    assert_eq!(bound(minutes(5), Value::Null), StalenessBound::Seconds(300));
    let two = json!([named("/a", minutes(1)), named("/b", minutes(3))]);
    assert_eq!(
        bound(minutes(5), two),
        StalenessBound::Seconds(180),
        "no rule uses the default"
    );
    assert_eq!(
        bound(
            minutes(5),
            json!([named("/a", minutes(1)), named("/b", json!({}))])
        ),
        StalenessBound::Seconds(300)
    );
    let deny = json!([named("/a", json!({ "action": "DENY" }))]);
    assert_eq!(
        bound(minutes(5), deny),
        StalenessBound::Seconds(300),
        "what no rule denies passes"
    );
    let serve = json!([
        named("/a", minutes(1)),
        named("/b", json!({ "staleness": { "action": "SERVE" } }))
    ]);
    assert_eq!(bound(minutes(5), serve), StalenessBound::Unbounded);
    assert_eq!(
        inline_policy(&[&TestKey::new("k1", 1)], json!({}), Value::Null).staleness_bound(),
        StalenessBound::Seconds(0)
    );
    for bound in [
        StalenessBound::Seconds(300),
        StalenessBound::NotAfter,
        StalenessBound::Unbounded,
    ] {
        assert_eq!(StalenessBound::parse(&format!("{bound}")), Some(bound));
    }
    for text in ["", "+3", "-1", "3.5", "5m", "99999999999999999999"] {
        assert_eq!(StalenessBound::parse(text), None, "{text:?}");
    }
}

#[test]
fn rule_position_does_not_matter() {
    for rules in [1, 32, 33, 64, 65, 200] {
        let mut scopes: Vec<String> = (1..rules).map(|at| format!("never.granted.{at}")).collect();
        scopes.push("orders.read".into());
        let allow = scopes
            .iter()
            .map(|scope| json!({ "scopes": [scope] }))
            .collect();
        assert_eq!(decide(allow, "GET", "/", json!({})), None, "{rules}");
        let deny = scopes
            .iter()
            .map(|scope| json!({ "action": "DENY", "scopes": [scope] }))
            .collect();
        assert_eq!(
            decide(deny, "GET", "/", json!({})),
            Some(Rejection::RuleDenied),
            "{rules}"
        );
    }
}

#[test]
fn uncertain_port_matches_deny_only() {
    fn rule(action: &str, operation: Value) -> Value {
        json!([{ "action": action, "to": [{ "operation": operation }] }])
    }
    let key = TestKey::new("k1", 1);
    let allowed = |rules: Value, schemes: &[&str]| {
        let policy = inline_policy(&[&key], json!({}), rules);
        let token = validate(
            &key.token(&claims(json!({}))),
            policy.authn(),
            &Trust::new(),
            NOW,
        )
        .unwrap();
        let request = policy
            .authz()
            .canonical(&Request {
                method: "GET",
                host: "admin.example",
                path: "/",
            })
            .unwrap();
        assert!(policy.authz().needs_scheme(&request));
        let ports = DefaultPorts::of(schemes.iter().map(|scheme| scheme.as_bytes()));
        let request = request.with_default_ports(ports);
        policy
            .authz()
            .authorize(
                &request,
                &policy.authz().evaluate(&token, policy.authn()),
                Freshness::default(),
            )
            .is_ok()
    };
    let named = json!({ "hosts": ["admin.example:443"] });
    let others = json!({ "notHosts": ["admin.example:443"] });
    for (schemes, sure) in [
        (&["https"][..], Some(true)),
        (&["http"], Some(false)),
        (&[], None),
    ] {
        assert_eq!(
            allowed(rule("DENY", named.clone()), schemes),
            sure == Some(false),
            "{schemes:?}"
        );
        assert_eq!(
            allowed(rule("ALLOW", named.clone()), schemes),
            sure == Some(true),
            "{schemes:?}"
        );
        assert_eq!(
            allowed(rule("DENY", others.clone()), schemes),
            sure == Some(true),
            "{schemes:?}"
        );
        assert_eq!(
            allowed(rule("ALLOW", others.clone()), schemes),
            sure == Some(false),
            "{schemes:?}"
        );
    }
}
