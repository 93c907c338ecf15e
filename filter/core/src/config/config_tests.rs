use alloc::string::ToString;
use alloc::vec;

use serde_json::{Value, json};

use super::*;
use crate::authn::{FromHeader, KeySource, TokenType};
use crate::testing::{ISSUER, TestKey, merge};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn key() -> Value {
    TestKey::new("k1", 1).jwk()
}

fn config() -> Value {
    json!({ "jwtRules": [{ "issuer": ISSUER, "audiences": ["orders"],
        "jwks": { "keys": [key()] } }] })
}

fn mistakes(config: &Value) -> Vec<String> {
    match crate::config::read_policy(&config.to_string()) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

fn rule_mistake(changes: Value) -> String {
    let mut config = config();
    merge(&mut config["jwtRules"][0], changes);
    mistakes(&config).join("\n")
}

fn rules_mistake(rules: Value) -> String {
    let mut config = config();
    config["rules"] = rules;
    mistakes(&config).join("\n")
}

#[test]
fn defaults_are_strict() {
    let policy = crate::config::read_policy(&config().to_string()).unwrap();
    let rule = &policy.authn().jwt_rules()[0];
    assert_eq!(
        (policy.mode(), policy.bypass_cors_preflight()),
        (Mode::Enforce, false)
    );
    assert!(policy.host_verification());
    assert_eq!(
        (
            rule.clock_skew,
            rule.max_lifetime,
            rule.forward_original_token
        ),
        (30, 86_400, false)
    );
    assert_eq!(rule.token_types, [TokenType::AccessToken]);
    assert!(rule.algorithms.iter().all(|alg| !alg.is_symmetric()));
    assert_eq!(
        rule.from_headers,
        [FromHeader {
            name: "authorization".into(),
            prefix: "Bearer ".into()
        }]
    );
    assert!(rule.from_params.is_empty() && rule.from_cookies.is_empty());
}

#[test]
fn reports_all_mistakes_with_their_paths() {
    let wrong = json!({
        "mode": "enforce", "jwtRule": [],
        "trustBundle": { "keys": [] },
        "jwtRules": [{ "issuer": "", "audiences": [], "jwks": "{}", "algorithms": ["none", "ES256"],
            "clockSkew": "5m" }],
        "rules": [{ "to": [{ "operation": { "paths": ["orders"] } }],
            "when": [{ "key": "source.ip", "values": ["1"] }] }],
    });
    let told = mistakes(&wrong);
    let paths = [
        "jwtRule:",
        "mode:",
        "trustBundle.cluster:",
        "trustBundle.keys:",
        "trustBundle:",
        "jwtRules[0].issuer:",
        "jwtRules[0].audiences:",
        "jwtRules[0].jwks.keys:",
        "jwtRules[0].algorithms[0]:",
        "jwtRules[0].clockSkew:",
        "rules[0].to[0].operation.paths[0]:",
        "rules[0].when[0].key:",
    ];
    for path in paths {
        assert!(
            told.iter().any(|mistake| mistake.starts_with(path)),
            "{path} is missing in {told:#?}"
        );
    }
}

#[test]
fn unreadable_configuration_is_one_mistake() {
    for text in ["", "null", "[]", "{\"jwtRules\":1,\"jwtRules\":2}", "{"] {
        assert!(crate::config::read_policy(text).is_err(), "{text}");
    }
    assert!(
        crate::config::read_policy(&" ".repeat(limits::MAX_CONFIG_BYTES + 1))
            .unwrap_err()
            .to_string()
            .contains("larger")
    );
}

#[test]
fn rejects_lax_issuer_rules() {
    for (changes, expected) in [
        (
            json!({ "audiences": null }),
            "jwtRules[0].audiences: missing",
        ),
        (
            json!({ "audiences": [] }),
            "jwtRules[0].audiences: must be a list",
        ),
        (json!({ "audiences": [""] }), "jwtRules[0].audiences[0]:"),
        (json!({ "jwks": null }), "name exactly one source"),
        (json!({ "trustBundle": true }), "name exactly one source"),
        (
            json!({ "clockSkew": "61s" }),
            "jwtRules[0].clockSkew: must be whole seconds from 0s to 60s",
        ),
        (
            json!({ "clockSkew": 5 }),
            "jwtRules[0].clockSkew: must be a",
        ),
        (json!({ "maxLifetime": "0s" }), "jwtRules[0].maxLifetime"),
        (
            json!({ "tokenTypes": ["dpop+jwt"] }),
            "jwtRules[0].tokenTypes[0]",
        ),
        (
            json!({ "requiredClaims": [] }),
            "jwtRules[0].requiredClaims: must be a list",
        ),
        (
            json!({ "requiredClaims": ["a..b"] }),
            "jwtRules[0].requiredClaims[0]: must be a claim name",
        ),
        (
            json!({ "scopeClaims": ["[a][]"] }),
            "jwtRules[0].scopeClaims[0]: must be a claim name",
        ),
        (
            json!({ "scopeClaims": ["[\"a\"][b]"] }),
            "jwtRules[0].scopeClaims[0]: must be a claim name without quotes",
        ),
        (
            json!({ "requiredClaims": ["[a][ b ]"] }),
            "jwtRules[0].requiredClaims[0]: must be a claim name without quotes",
        ),
        (
            json!({ "requiredClaims": ["a. b"] }),
            "jwtRules[0].requiredClaims[0]: must be a claim name without quotes",
        ),
        (
            json!({ "fromCookies": ["a", "a=b"] }),
            "jwtRules[0].fromCookies[1]: can never match",
        ),
        (
            json!({ "fromCookies": [" a"] }),
            "jwtRules[0].fromCookies[0]: can never match",
        ),
        (
            json!({ "audienceClaim": "[a" }),
            "jwtRules[0].audienceClaim: must be a claim name",
        ),
        (
            json!({ "audienceClaim": "https://a.b/c" }),
            "write [https://a.b/c]",
        ),
        (
            json!({ "subjectType": { "clientValues": ["app"] } }),
            "jwtRules[0].subjectType.claim: missing",
        ),
        (
            json!({ "subjectType": { "claim": "idtyp", "clientValues": ["a*b"] } }),
            "subjectType.clientValues[0]: one *",
        ),
        (
            json!({ "onUnsafe": "DROP" }),
            "jwtRules[0].onUnsafe: must be one of OMIT, REJECT",
        ),
        (
            json!({ "outputMaxValueBytes": "4096" }),
            "jwtRules[0].outputMaxValueBytes: must be a whole number",
        ),
        (
            json!({ "outputMaxTotalBytes": 0 }),
            "jwtRules[0].outputMaxTotalBytes: must be a whole number from 1",
        ),
        (
            json!({ "algorithms": ["ES256"] }),
            "jwtRules[0].jwks.keys: no key",
        ),
        (
            json!({ "algorithms": ["EdDSA", "ES256"] }),
            "jwtRules[0].algorithms[1]: no key of jwks can serve ES256",
        ),
        (
            json!({ "algorithms": ["EdDSA", "Ed25519"] }),
            "jwtRules[0].algorithms[1]: given twice",
        ),
        (
            json!({ "forwardOriginalToken": "yes" }),
            "jwtRules[0].forwardOriginalToken",
        ),
        (
            json!({ "jwksCluster": "idp" }),
            "jwtRules[0].jwksCluster: is valid only with",
        ),
        (
            json!({ "jwks": null, "jwksUri": "ftp://idp/x", "jwksCluster": "idp" }),
            "jwtRules[0].jwksUri",
        ),
        (
            json!({ "jwks": null, "jwksUri": "https://[::", "jwksCluster": "idp" }),
            "jwtRules[0].jwksUri",
        ),
        (
            json!({ "jwks": null, "jwksUri": "https://idp:99999/x", "jwksCluster": "idp" }),
            "jwtRules[0].jwksUri",
        ),
        (
            json!({ "jwks": null, "jwksUri": "https://user@idp/x", "jwksCluster": "idp" }),
            "jwtRules[0].jwksUri",
        ),
        (
            json!({ "jwks": null, "jwksUri": "https://idp/x" }),
            "jwtRules[0].jwksCluster: missing",
        ),
        (
            json!({ "jwks": null, "jwksUri": "https://idp/x", "jwksCluster": "i",
                "algorithms": ["HS256"] }),
            "need a shared secret",
        ),
        (
            json!({ "outputPayloadToHeader": "authorization" }),
            "jwtRules[0].outputPayloadToHeader",
        ),
        (
            json!({ "outputPayloadToHeader": ":path" }),
            "is not a header name",
        ),
        (
            json!({ "outputClaimToHeaders": [{ "header": "x-a", "claim": "a" },
                { "header": "X-A", "claim": "b" }] }),
            "given twice",
        ),
        (
            json!({ "fromHeaders": [{ "name": "x-jwt" }], "outputPayloadToHeader": "X-JWT" }),
            "also a token location",
        ),
        (
            json!({ "jwks": { "keys": [key(), TestKey::new("k1", 2).jwk()] } }),
            "kid \"k1\" names different keys",
        ),
        (
            json!({ "staleness": { "action": "SERVE" } }),
            "jwtRules[0].staleness: is valid only with jwksUri",
        ),
        (
            json!({ "jwks": null, "jwksUri": "https://idp/x", "jwksCluster": "i",
                "staleness": { "maxAge": "4m" } }),
            "jwtRules[0].staleness.maxAge: must not be shorter than refreshInterval",
        ),
    ] {
        let told = rule_mistake(changes.clone());
        assert!(told.contains(expected), "{changes}: {told}");
    }
}

#[test]
fn shared_secret_requires_named_algorithm() {
    let secret = json!({ "keys": [{ "kty": "oct", "kid": "s", "alg": "HS256",
        "k": crate::base64url::encode(&[7; 32]) }] });
    assert!(rule_mistake(json!({ "jwks": secret })).contains("shared secret"));
    assert_eq!(
        rule_mistake(json!({ "jwks": secret, "algorithms": ["HS256"] })),
        ""
    );
    assert!(
        rule_mistake(json!({ "algorithms": ["HS256"] })).contains("no key"),
        "never with a public key"
    );
}

#[test]
fn rules_of_one_issuer_need_different_keys() {
    fn remote(cluster: &str) -> Value {
        rule(json!({ "jwksUri": "https://idp/x", "jwksCluster": cluster }))
    }
    fn inline(seed: u8) -> Value {
        rule(json!({ "jwks": { "keys": [TestKey::new("k", seed).jwk()] } }))
    }
    fn rule(source: Value) -> Value {
        let mut rule = json!({ "issuer": ISSUER, "audiences": ["orders"] });
        merge(&mut rule, source);
        rule
    }
    let pushed = rule(json!({ "trustBundle": true }));
    for (rules, good) in [
        (json!([inline(1), inline(1)]), false),
        (json!([inline(1), inline(2)]), true),
        (json!([remote("a"), remote("a")]), false),
        (json!([remote("a"), remote("b"), inline(1)]), true),
        (json!([pushed, inline(1)]), false),
        (json!([remote("a"), pushed]), false),
    ] {
        let bundle = json!({ "cluster": "issuer", "keys": [key()] });
        let mut config = json!({ "jwtRules": rules });
        if rules.as_array().unwrap().contains(&pushed) {
            config["trustBundle"] = bundle;
        }
        let told = mistakes(&config).join("");
        assert_eq!(told.is_empty(), good, "{rules}: {told}");
        assert_eq!(
            told.contains("jwtRules[1].issuer: given twice"),
            !good,
            "{told}"
        );
    }
}

#[test]
fn fetched_keys_are_stale_after_three_intervals() {
    fn max_age(changes: Value) -> Option<u64> {
        let mut rule = json!({ "issuer": ISSUER, "audiences": ["orders"],
            "jwksUri": "https://idp/x", "jwksCluster": "i" });
        merge(&mut rule, changes);
        let policy =
            crate::config::read_policy(&json!({ "jwtRules": [rule] }).to_string()).unwrap();
        match &policy.authn().jwt_rules()[0].keys {
            KeySource::Remote(remote) => remote.max_age_s,
            KeySource::Inline(_) | KeySource::Bundle => panic!("not remote"),
        }
    }
    assert_eq!(max_age(json!({})), Some(900));
    assert_eq!(max_age(json!({ "refreshInterval": "20s" })), Some(60));
    assert_eq!(
        max_age(json!({ "staleness": { "maxAge": "1h" } })),
        Some(3_600)
    );
    assert_eq!(max_age(json!({ "staleness": { "action": "SERVE" } })), None);
}

#[test]
fn named_location_replaces_default_location() {
    let mut config = config();
    config["jwtRules"][0]["fromCookies"] = json!(["session"]);
    let policy = crate::config::read_policy(&config.to_string()).unwrap();
    assert!(policy.authn().jwt_rules()[0].from_headers.is_empty());
}

#[test]
fn accepts_one_or_two_bundle_pins() {
    fn with(keys: Value) -> String {
        let mut config = config();
        config["jwtRules"][0] =
            json!({ "issuer": ISSUER, "audiences": ["orders"], "trustBundle": true });
        config["trustBundle"] = json!({ "cluster": "issuer", "keys": keys });
        mistakes(&config).join("\n")
    }
    let second = TestKey::new("k2", 2).jwk();
    assert_eq!(with(json!([key()])), "");
    assert_eq!(with(json!([key(), second])), "");
    assert!(
        with(json!([key(), second, key()])).contains("trustBundle.keys: must be a list of one")
    );
    assert!(with(json!([key(), key()])).contains("given twice"));
    assert!(
        with(json!([{ "kty": "OKP", "crv": "Ed25519", "kid": "k", "x": "AA" }]))
            .contains("trustBundle.keys[0].x")
    );
}

#[test]
fn rejects_rules_that_never_decide() {
    fn to(operation: Value) -> Value {
        json!([{ "operation": operation }])
    }
    let orders = to(json!({ "paths": ["/orders/*"] }));
    let one = to(json!({ "paths": ["/orders/1"], "methods": ["GET"] }));
    for (rules, expected) in [
        (
            json!([{ "to": orders }, { "to": one, "scopes": ["admin"] }]),
            "rules[1]: can never decide: rules[0] allows",
        ),
        (
            json!([{ "to": one, "scopes": ["admin"] }, { "to": orders }]),
            "rules[0]: can never decide: rules[1] allows",
        ),
        (
            json!([{ "to": one }, { "to": one }]),
            "rules[1]: can never decide: rules[0]",
        ),
        (
            json!([{ "to": orders }, { "to": one, "staleness": { "maxAge": "1m" } }]),
            "rules[1]: can never decide: rules[0] allows",
        ),
        (
            json!([{ "action": "DENY", "to": orders }, { "to": one }]),
            "rules[1]: can never decide: rules[0] denies",
        ),
        (
            json!([{ "to": to(json!({ "methods": ["GET"], "notMethods": ["G*"] })) }]),
            "rules[0].to[0].operation.methods: can never match",
        ),
        (
            json!([{ "when": [{ "key": "request.auth.claims[a]", "values": ["x"],
                "notValues": ["*"] }] }]),
            "rules[0].when[0].values: can never match",
        ),
        (
            json!([{ "allowMissing": true, "scopes": ["a"] }]),
            "rules[0].allowMissing: a request without a token",
        ),
        (
            json!([{ "allowMissing": true,
                "when": [{ "key": "request.auth.claims[a]", "values": ["x"] }] }]),
            "rules[0].allowMissing: a request without a token",
        ),
    ] {
        let told = rules_mistake(rules.clone());
        assert!(told.contains(expected), "{rules}: {told}");
    }
    for legitimate in [
        json!([{ "to": orders, "scopes": ["read"] }, { "to": one, "scopes": ["admin"] }]),
        json!([{ "to": orders, "when": [{ "key": "request.auth.claims[a]", "values": ["x"] }] },
            { "to": orders, "when": [{ "key": "request.auth.claims[a]", "values": ["y"] }] }]),
        json!([{ "to": orders, "staleness": { "maxAge": "1m" } }, { "to": one }]),
        json!([{ "action": "DENY", "to": one }, { "to": orders }]),
        json!([{ "to": orders }, { "to": one, "allowMissing": true }]),
        json!([{ "allowMissing": true,
            "when": [{ "key": "request.auth.delegated", "notValues": ["true"] }] }]),
        json!([{ "allowMissing": true,
            "from": [{ "source": { "notRequestPrincipals": ["*/banned"] } }] }]),
        json!([{ "to": to(json!({ "paths": ["/a", "/b"], "notPaths": ["/b"] })) }]),
    ] {
        assert_eq!(rules_mistake(legitimate.clone()), "", "{legitimate}");
    }
}

#[test]
fn reports_path_of_route_rule_mistake() {
    for (rule, expected) in [
        (
            json!({ "To": [] }),
            "rules[0].To: unknown field; known here: name, action",
        ),
        (
            json!({ "to": [{ "operation": { "ports": ["80"] } }] }),
            "rules[0].to[0].operation.ports: unknown field",
        ),
        (
            json!({ "to": [{ "operation": { "paths": ["/a*b"] } }] }),
            "one * is allowed",
        ),
        (
            json!({ "to": [{ "operation": { "paths": ["/{**}/a/{*}"] } }] }),
            "{**} must be the last operator",
        ),
        (
            json!({ "to": [{ "operation": { "paths": ["/a/{*}.txt"] } }] }),
            "whole segments",
        ),
        (
            json!({ "to": [{ "operation": {} }] }),
            "rules[0].to[0].operation: is empty",
        ),
        (
            json!({ "from": [{ "source": {} }] }),
            "rules[0].from[0].source: is empty",
        ),
        (
            json!({ "to": [{ "operation": { "methods": ["get"] } }] }),
            "capitals",
        ),
        (
            json!({ "to": [] }),
            "rules[0].to: must be a list with at least one",
        ),
        (
            json!({ "when": [{ "key": "request.auth.claims[]", "values": ["a"] }] }),
            "rules[0].when[0].key",
        ),
        (
            json!({ "when": [{ "key": "request.auth.claims[a]" }] }),
            "give values or notValues",
        ),
        (
            json!({ "when": [{ "key": "request.auth.delegated", "values": ["*"] }] }),
            "must be \"true\" or \"false\"",
        ),
        (
            json!({ "when": [{ "key": "request.auth.delegated", "notValues": ["yes"] }] }),
            "rules[0].when[0].notValues",
        ),
        (
            json!({ "when": [{ "key": "request.auth.subjectType", "values": ["service"] }] }),
            "must be client or user",
        ),
        (
            json!({ "when": [{ "key": "request.auth.delegationDepth", "values": ["1*"] }] }),
            "must be a number from 0",
        ),
        (
            json!({ "when": [{ "key": "request.auth.delegationDepth", "values": ["01"] }] }),
            "must be a number from 0",
        ),
        (
            json!({ "when": [{ "key": "request.auth.delegationDepth", "values": ["200"] }] }),
            "must be a number from 0",
        ),
        (
            json!({ "scopes": ["a b"] }),
            "rules[0].scopes[0]: must be one scope",
        ),
        (
            json!({ "scopes": ["a\"b"] }),
            "rules[0].scopes[0]: must be one scope",
        ),
        (
            json!({ "action": "AUDIT" }),
            "rules[0].action: must be one of ALLOW, DENY",
        ),
        (
            json!({ "staleness": { "maxAge": "1m", "action": "SERVE" } }),
            "rules[0].staleness.maxAge",
        ),
    ] {
        let told = rules_mistake(json!([rule]));
        assert!(told.contains(expected), "{rule}: {told}");
    }
}

/// Returns the fields of an object, as the reader lists them after an unknown field.
fn reader_fields(path: &str) -> Vec<String> {
    let mut config = json!({
        "jwtRules": [
            { "issuer": ISSUER, "audiences": ["orders"], "trustBundle": true,
                "subjectType": { "claim": "a" },
              "fromHeaders": [{ "name": "x-token" }],
              "outputClaimToHeaders": [{ "header": "x-a", "claim": "a" }] },
        ],
        "challenge": { "realm": "a" },
        "trustBundle": { "cluster": "issuer", "keys": [key()], "staleness": { "maxAge": "5m" } },
        "rules": [{
            "from": [{ "source": { "requestPrincipals": ["*"] } }],
            "to": [{ "operation": { "methods": ["GET"] } }],
            "when": [{ "key": "request.auth.principal", "values": ["*"] }],
            "staleness": { "action": "SERVE" },
        }],
    });
    assert_eq!(mistakes(&config), Vec::<String>::new());
    config.pointer_mut(path).unwrap()["unknown"] = json!(1);
    let told = mistakes(&config);
    let [mistake] = told.as_slice() else {
        panic!("one mistake, not {told:#?}")
    };
    let (_, known) = mistake
        .split_once("unknown: unknown field; known here: ")
        .unwrap();
    sorted(known.split(", ").map(Into::into).collect())
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort_unstable();
    names
}

/// Part of docs/configuration.md that documents the fields of an object.
enum Documented {
    /// The table under this heading, with a row for each field.
    Table(&'static str),
    /// The row of this name under this heading, which names the fields.
    Row(&'static str, &'static str),
}
use Documented::{Row, Table};

/// Locations of the objects in a configuration, in the JSON Schema and in the document.
const OBJECTS: [(&str, &str, Documented); 13] = [
    ("", "", Table("Top level")),
    ("/challenge", "/$defs/challenge", Table("`challenge`")),
    ("/trustBundle", "/$defs/trustBundle", Table("`trustBundle`")),
    ("/jwtRules/0", "/$defs/jwtRule", Table("`jwtRules[]`")),
    ("/rules/0", "/$defs/rule", Table("`rules[]`")),
    (
        "/trustBundle/staleness",
        "/$defs/staleness",
        Row("`trustBundle`", "`staleness`"),
    ),
    (
        "/rules/0/staleness",
        "/$defs/staleness",
        Row("`jwtRules[]`", "`staleness`"),
    ),
    (
        "/jwtRules/0/subjectType",
        "/$defs/jwtRule/properties/subjectType",
        Row("`jwtRules[]`", "`subjectType`"),
    ),
    (
        "/jwtRules/0/fromHeaders/0",
        "/$defs/jwtRule/properties/fromHeaders/items",
        Row("`jwtRules[]`", "`fromHeaders`"),
    ),
    (
        "/jwtRules/0/outputClaimToHeaders/0",
        "/$defs/jwtRule/properties/outputClaimToHeaders/items",
        Row("`jwtRules[]`", "`outputClaimToHeaders`"),
    ),
    (
        "/rules/0/from/0/source",
        "/$defs/rule/properties/from/items/properties/source",
        Row("`rules[]`", "`from[].source`"),
    ),
    (
        "/rules/0/to/0/operation",
        "/$defs/rule/properties/to/items/properties/operation",
        Row("`rules[]`", "`to[].operation`"),
    ),
    (
        "/rules/0/when/0",
        "/$defs/rule/properties/when/items",
        Row("`rules[]`", "`when[]`"),
    ),
];

#[test]
fn schema_has_the_fields_of_the_reader() {
    let schema: Value = serde_json::from_str(include_str!(
        "../../../../envoy-config/plugin-config.schema.json"
    ))
    .unwrap();
    for (path, place, _) in OBJECTS {
        let object = schema.pointer(place).unwrap();
        assert_eq!(object["additionalProperties"], false, "{place}");
        let properties = object["properties"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        assert_eq!(sorted(properties), reader_fields(path), "{place}");
    }
}

#[test]
fn document_has_the_fields_of_the_reader() {
    let document = include_str!("../../../../docs/configuration.md");
    let section = |heading: &str| {
        let (_, rest) = document
            .split_once(&format!("\n## {heading}\n"))
            .unwrap_or_else(|| panic!("{heading}"));
        rest.split("\n## ")
            .next()
            .unwrap()
            .split("\n### ")
            .next()
            .unwrap()
    };
    for (path, _, place) in OBJECTS {
        let fields = reader_fields(path);
        let heading = match place {
            Table(heading) => heading,
            Row(heading, name) => {
                let start = format!("| {name} |");
                let row = section(heading)
                    .lines()
                    .find(|line| line.starts_with(&start));
                let (_, row) = row
                    .unwrap_or_else(|| panic!("no row {name}"))
                    .split_at(start.len());
                let named: Vec<&str> = row
                    .split('`')
                    .skip(1)
                    .step_by(2)
                    .filter_map(|text| text.split(':').next())
                    .collect();
                for field in fields {
                    assert!(
                        named.contains(&&*field),
                        "{path}: `{field}` is not in the row {name}: {named:?}"
                    );
                }
                continue;
            }
        };
        let rows = section(heading)
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
        let names = rows.flat_map(|cell| cell.split("`, `").map(|name| name.trim_end_matches('`')));
        let mut documented: Vec<String> = names
            .map(|name: &str| {
                name.split([':', '[', '.'])
                    .next()
                    .unwrap_or_default()
                    .into()
            })
            .filter(|name: &String| !name.starts_with("request"))
            .collect();
        documented.sort_unstable();
        documented.dedup();
        assert_eq!(documented, fields, "{heading}");
    }
}

#[test]
fn schema_knows_every_condition_key() {
    let schema: Value = serde_json::from_str(include_str!(
        "../../../../envoy-config/plugin-config.schema.json"
    ))
    .unwrap();
    let pattern = schema
        .pointer("/$defs/rule/properties/when/items/properties/key/pattern")
        .unwrap()
        .as_str()
        .unwrap();
    let told = rules_mistake(json!([{ "when": [{ "key": "x", "values": ["a"] }] }]));
    let (_, known) = told.split_once("request.auth.principal").unwrap();
    let names = known
        .split(['.', ',', ' '])
        .filter(|name| name.len() > 2)
        .chain(["principal"]);
    for name in names {
        assert!(
            pattern.contains(&format!("|{name}")),
            "{name} is not in {pattern}"
        );
    }
}

#[test]
fn reports_each_mistake_once() {
    fn to(operation: Value) -> Value {
        json!([{ "to": [{ "operation": operation }] }])
    }
    for rules in [
        to(json!({ "ports": ["80"] })),
        to(json!(7)),
        json!([{ "from": [{ "source": { "principals": ["a"] } }] }]),
        json!([{ "to": [{ "operation": { "ports": ["80"] } }] },
            { "to": [{ "operation": { "paths": ["/a"] } }] }]),
        json!([{ "scope": ["a"] }, { "scopes": ["b"] }]),
    ] {
        assert_eq!(
            rules_mistake(rules.clone()).lines().count(),
            1,
            "{rules}: {}",
            rules_mistake(rules.clone())
        );
    }
    let uri = rule_mistake(json!({ "jwks": null, "jwksUri": 7, "jwksCluster": "idp" }));
    assert_eq!(uri.lines().count(), 1, "{uri}");
}

#[test]
fn reads_durations_in_istio_notation() {
    let mut config = config();
    merge(
        &mut config["jwtRules"][0],
        json!({ "clockSkew": "1000ms", "maxLifetime": "2h" }),
    );
    let policy = crate::config::read_policy(&config.to_string()).unwrap();
    assert_eq!(
        (
            policy.authn().jwt_rules()[0].clock_skew,
            policy.authn().jwt_rules()[0].max_lifetime
        ),
        (1, 7200)
    );
    for text in ["", "s", "1", "-1s", "1.5s", "1 s", "99999999999999999999h"] {
        assert!(
            rule_mistake(json!({ "clockSkew": text })).contains("clockSkew"),
            "{text}"
        );
    }
}

#[test]
fn accepts_jwks_as_string() {
    let text = json!({ "keys": [key()] }).to_string();
    assert_eq!(rule_mistake(json!({ "jwks": text })), "");
    assert_eq!(
        vec![rule_mistake(json!({ "jwks": 7 })).contains("jwtRules[0].jwks")],
        [true]
    );
}

#[test]
fn escaped_slash_in_pattern_needs_setting() {
    let mut config = config();
    config["rules"] = json!([{ "to": [{ "operation": { "paths": ["/projects/a%2fb"] } }] }]);
    assert!(
        mistakes(&config)
            .join("")
            .starts_with("rules[0].to[0].operation.paths[0]: can never match: paths with %2F")
    );
    config["pathWithEscapedSlashesAction"] = json!("KEEP_UNCHANGED");
    assert_eq!(mistakes(&config), [""; 0]);
    config["pathWithEscapedSlashesAction"] = json!("UNESCAPE_AND_FORWARD");
    assert!(
        mistakes(&config).join("").contains(
            "pathWithEscapedSlashesAction: must be one of REJECT_REQUEST, KEEP_UNCHANGED"
        )
    );
}

#[test]
fn challenge_cannot_break_its_header() {
    fn told(challenge: Value) -> String {
        let mut config = config();
        config["challenge"] = challenge;
        mistakes(&config).join("\n")
    }
    assert_eq!(
        told(json!({ "realm": "orders of the shop", "hideReason": true })),
        ""
    );
    assert_eq!(
        told(json!({ "resourceMetadata":
                "https://api.example:8443/.well-known/oauth-protected-resource?a=b" })),
        ""
    );
    for realm in ["a\"b", "a\\", "a\nb", "caf\u{e9}"] {
        assert!(
            told(json!({ "realm": realm })).starts_with("challenge.realm: "),
            "{realm:?}"
        );
    }
    for url in [
        "http://api.example/",
        "https://",
        "https:///x",
        "https://a b/",
        "https://a/#x",
        "https://a/\"",
        "https://u@a/",
        "https://a:99999/",
    ] {
        assert!(
            told(json!({ "resourceMetadata": url })).starts_with("challenge.resourceMetadata: "),
            "{url}"
        );
    }
}

#[test]
fn warns_of_scheme_without_space() {
    fn warned(name: &str, prefix: &str) -> Vec<String> {
        let mut config = config();
        config["jwtRules"][0]["fromHeaders"] = json!([{ "name": name, "prefix": prefix }]);
        crate::config::read_policy(&config.to_string())
            .unwrap()
            .warnings()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    }
    for (name, prefix) in [
        ("authorization", "Bearer"),
        ("Authorization", "JWT"),
        ("authorization", "v1"),
        ("x-token", "bearer"),
        ("x-token", "Token"),
        ("x-token", "JWT"),
    ] {
        assert_eq!(warned(name, prefix).len(), 1, "{name} {prefix}");
        assert!(
            warned(name, prefix)
                .join("")
                .starts_with("jwtRules[0].fromHeaders[0].prefix: has no blank")
        );
    }
    for (name, prefix) in [
        ("authorization", "Bearer "),
        ("authorization", "jwt:"),
        ("x-token", "v1"),
        ("x-token", "jwt."),
    ] {
        assert!(warned(name, prefix).is_empty(), "{name} {prefix}");
    }
}

#[test]
fn prefix_that_never_matches_is_a_mistake() {
    for (prefix, remedy) in [
        ("Bearer  ", "write one at the end"),
        (" Bearer ", "remove the blank at the beginning"),
        (" ", "remove the blank"),
        ("a,bearer.", "a comma separates"),
        ("Bearer\t", "without control characters"),
    ] {
        for name in ["authorization", "sec-websocket-protocol"] {
            let mut config = config();
            config["jwtRules"][0]["fromHeaders"] = json!([{ "name": name, "prefix": prefix }]);
            let told = crate::config::read_policy(&config.to_string())
                .unwrap_err()
                .to_string();
            assert!(
                told.starts_with("jwtRules[0].fromHeaders[0].prefix: ") && told.contains(remedy),
                "{told}"
            );
        }
    }
}

#[test]
fn warns_of_dots_inside_a_name() {
    fn when(name: &str) -> Value {
        json!([{ "when": [{ "key": format!("request.auth.claims[{name}]"),
        "values": ["a"] }] }])
    }
    fn warned(rule: Value, rules: Value) -> Vec<String> {
        let mut config = config();
        merge(&mut config["jwtRules"][0], rule);
        merge(&mut config, json!({ "rules": rules }));
        crate::config::read_policy(&config.to_string())
            .unwrap()
            .warnings()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    }
    for (claim, remedy) in [
        ("kubernetes.io.namespace", "[kubernetes.io][namespace]"),
        (
            "kubernetes.io.serviceaccount.name",
            "[kubernetes.io][serviceaccount][name]",
        ),
        ("kubernetes.io", "[kubernetes.io]"),
        ("shop.example/tenant", "[shop.example/tenant]"),
        ("urn:x.y", "[urn:x.y]"),
    ] {
        let output = json!([{ "header": "x-claim", "claim": claim }]);
        for (path, rule) in [
            (
                "outputClaimToHeaders[0].claim",
                json!({ "outputClaimToHeaders": output }),
            ),
            ("scopeClaims[0]", json!({ "scopeClaims": [claim] })),
            (
                "subjectType.claim",
                json!({ "subjectType": { "claim": claim } }),
            ),
        ] {
            let told = warned(rule, Value::Null);
            let [told] = &told[..] else {
                panic!("{claim}: {told:?}")
            };
            assert!(
                told.starts_with(&format!("jwtRules[0].{path}: "))
                    && told.contains(&format!("write {remedy} if")),
                "{told}"
            );
        }
    }
    for claim in [
        "realm.role",
        "cognito:groups",
        "[kubernetes.io][namespace]",
        "[shop.example/tenant]",
        "kubernetes",
        "a/b",
    ] {
        assert!(
            warned(json!({ "scopeClaims": [claim] }), Value::Null).is_empty(),
            "{claim}"
        );
    }
    let told = warned(json!({}), when("kubernetes.io.namespace")).join("");
    assert!(
        told.starts_with("rules[0].when[0].key: ")
            && told.contains("claims[kubernetes.io][namespace]"),
        "{told}"
    );
    assert!(warned(json!({}), when("kubernetes.io][namespace")).is_empty());
}

#[test]
fn rejects_quotes_and_spaces_in_brackets() {
    for name in ["\"a\"", "'a'", " a ", "a][ b", "a\"", "a][\"b\""] {
        let mut config = config();
        let key = format!("request.auth.claims[{name}]");
        config["rules"] = json!([{ "when": [{ "key": key, "values": ["x"] }] }]);
        let told = crate::config::read_policy(&config.to_string())
            .unwrap_err()
            .to_string();
        assert!(
            told.starts_with("rules[0].when[0].key: ") && told.contains("without quotes"),
            "{told}"
        );
    }
}
