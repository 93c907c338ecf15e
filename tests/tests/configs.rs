//! Checks that Envoy accepts every shipped configuration, and that the published schema and the
//! filter agree on plugin configurations.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use meshseal_tests::{build, envoy, paths};
use serde_json::{Value, json};

fn shipped() -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(paths::envoy_config())? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn schema() -> Result<jsonschema::Validator> {
    let text = fs::read_to_string(paths::envoy_config().join("plugin-config.schema.json"))?;
    jsonschema::draft202012::new(&serde_json::from_str(&text)?)
        .context("plugin-config.schema.json: not a JSON Schema")
}

/// Collects the plugin configurations in a bootstrap: the JSON texts in its
/// `google.protobuf.StringValue`s.
fn plugin_configs(value: &Value, found: &mut Vec<Value>) -> Result<()> {
    match value {
        Value::Object(members) => {
            if members.get("@type").and_then(Value::as_str)
                == Some("type.googleapis.com/google.protobuf.StringValue")
            {
                found.push(serde_json::from_str(
                    members
                        .get("value")
                        .and_then(Value::as_str)
                        .context("a text")?,
                )?);
            }
            members
                .values()
                .try_for_each(|member| plugin_configs(member, found))
        }
        Value::Array(items) => items
            .iter()
            .try_for_each(|item| plugin_configs(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

#[test]
fn envoy_accepts_every_shipped_configuration() -> Result<()> {
    build::wasm()?;
    let files = shipped()?;
    ensure!(files.len() >= 3, "shipped configurations: {files:?}");
    files.iter().try_for_each(|file| envoy::validate(file))
}

#[test]
fn schema_and_filter_accept_shipped_configurations() -> Result<()> {
    let schema = schema()?;
    for file in shipped()? {
        let bootstrap: Value = serde_saphyr::from_str(&fs::read_to_string(&file)?)?;
        let mut configs = Vec::new();
        plugin_configs(&bootstrap, &mut configs)?;
        ensure!(
            !configs.is_empty(),
            "{} configures no plugin",
            file.display()
        );
        for config in &configs {
            let problems: Vec<String> = schema
                .iter_errors(config)
                .map(|problem| format!("{}: {problem}", problem.instance_path()))
                .collect();
            ensure!(problems.is_empty(), "{}: {problems:?}", file.display());
            meshseal_core::config::read_policy(&config.to_string())
                .with_context(|| format!("the filter on {}", file.display()))?;
        }
    }
    Ok(())
}

/// The schema helps editors, while the filter decides. Both must reject these configurations.
#[test]
fn schema_rejects_configurations_that_filter_rejects() -> Result<()> {
    let schema = schema()?;
    let issuer = "https://i.example";
    let rule = json!({"issuer": issuer, "audiences": ["a"], "jwks": "{\"keys\": []}"});
    let refused = [
        json!({}),
        json!({"jwtRules": []}),
        json!({"jwtRules": [rule], "unknown": true}),
        json!({"jwtRules": [{"issuer": issuer, "jwks": "{}"}]}),
        json!({"jwtRules": [{"issuer": issuer, "audiences": [], "jwks": "{}"}]}),
        json!({"jwtRules": [{"issuer": issuer, "audiences": ["a"]}]}),
        json!({"jwtRules": [
            {"issuer": issuer, "audiences": ["a"], "jwks": "{}", "trustBundle": true},
        ]}),
        json!({"jwtRules": [
            {"issuer": issuer, "audiences": ["a"], "jwksUri": "https://i.example/k"},
        ]}),
        json!({"jwtRules": [
            {"issuer": issuer, "audiences": ["a"], "jwks": "{}", "algorithms": ["none"]},
        ]}),
        json!({"jwtRules": [rule], "mode": "enforce"}),
        json!({"jwtRules": [rule], "rules": [{"action": "AUDIT"}]}),
        json!({"jwtRules": [rule], "rules": [{"to": [{"operations": {}}]}]}),
    ];
    for config in refused {
        ensure!(!schema.is_valid(&config), "the schema accepts {config}");
        ensure!(
            meshseal_core::config::read_policy(&config.to_string()).is_err(),
            "the filter accepts {config}"
        );
    }
    Ok(())
}

/// Returns a valid configuration with changes to its `jwtRules[0]`.
fn rule(changes: Value) -> Value {
    let keys = json!({ "keys": [{
        "kty": "OKP", "crv": "Ed25519", "kid": "k",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    }] });
    let mut rule = json!({ "issuer": "https://i.example", "audiences": ["a"], "jwks": keys });
    if let (Some(rule), Value::Object(changes)) = (rule.as_object_mut(), changes) {
        rule.extend(changes);
    }
    json!({ "jwtRules": [rule] })
}

/// Returns a valid configuration with an additional top-level member.
fn top(name: &str, value: Value) -> Value {
    let mut config = rule(json!({}));
    if let Some(config) = config.as_object_mut() {
        config.insert(name.to_owned(), value);
    }
    config
}

/// Returns a valid configuration with a condition, which may be invalid.
fn when(key: &str, value: &str) -> Value {
    top(
        "rules",
        json!([{ "when": [{ "key": key, "values": [value] }] }]),
    )
}

/// Returns a valid configuration with a negative condition, which may be invalid.
fn when_not(key: &str, value: &str) -> Value {
    top(
        "rules",
        json!([{ "allowMissing": true, "when": [{ "key": key, "notValues": [value] }] }]),
    )
}

/// Returns a valid configuration with a header prefix, which may be invalid.
fn from_header(prefix: &str) -> Value {
    rule(json!({ "fromHeaders": [{ "name": "x-token", "prefix": prefix }] }))
}

/// Each configuration differs from a valid one in a single mistake.
#[test]
fn schema_rejects_each_single_mistake() -> Result<()> {
    let schema = schema()?;
    let refused = [
        top("statPrefix", json!("")),
        top("rules", json!([{ "to": [{ "operation": {} }] }])),
        top(
            "rules",
            json!([{ "to": [{ "operation": { "methods": ["get"] } }] }]),
        ),
        top("rules", json!([{ "from": [{ "source": {} }] }])),
        top("rules", json!([{ "name": "" }])),
        top("rules", json!([{ "scopes": ["a b"] }])),
        top(
            "rules",
            json!([{ "staleness": { "maxAge": "1m", "action": "SERVE" } }]),
        ),
        when("request.auth.subjectType", "service"),
        when("request.auth.delegated", "*"),
        when("request.auth.delegationDepth", "01"),
        when("request.auth.delegationDepth", "33"),
        when("request.auth.claims[\"a\"]", "x"),
        when("request.auth.claims[ a ]", "x"),
        when("request.auth.claims[a][]", "x"),
        from_header("Bearer  "),
        from_header(" Bearer "),
        from_header("a,b"),
        rule(json!({ "fromCookies": ["a=b"] })),
        rule(json!({ "scopeClaims": ["a..b"] })),
        rule(json!({ "audienceClaim": "['a']" })),
        rule(json!({ "subjectType": { "claim": "[a" } })),
    ];
    for config in refused {
        ensure!(
            meshseal_core::config::read_policy(&config.to_string()).is_err(),
            "the filter accepts {config}"
        );
        ensure!(!schema.is_valid(&config), "the schema accepts {config}");
    }
    Ok(())
}

/// An editor must not mark a valid configuration as wrong.
#[test]
fn schema_accepts_configurations_that_filter_accepts() -> Result<()> {
    let schema = schema()?;
    let accepted = [
        rule(json!({ "trustBundle": false })),
        rule(json!({
            "tokenTypes": ["at+jwt", "JWT", "ID"], "requiredClaims": ["sub"],
            "audienceClaim": "client_id",
        })),
        rule(json!({
            "scopeClaims": ["scp", "[a.b]"],
            "subjectType": { "claim": "idtyp", "clientValues": ["app"] },
        })),
        rule(json!({
            "onUnsafe": "REJECT", "outputMaxValueBytes": 61_440, "outputMaxTotalBytes": 1,
        })),
        rule(json!({
            "outputClaimToHeaders": [
                { "header": "x-a", "claim": "[a.b][c]", "onUnsafe": "OMIT" },
            ],
        })),
        when_not("request.auth.claims[kubernetes.io][namespace]", "shop"),
        when_not("request.auth.claims[a b]", "x"),
        rule(json!({
            "fromHeaders": [
                { "name": "a" }, { "name": "b", "prefix": "x" }, { "name": "c", "prefix": "a b " },
            ],
        })),
        rule(json!({
            "fromCookies": ["s", "__Host-session"], "scopeClaims": ["a.b", "it's", "[a b]"],
        })),
        top("statPrefix", json!("a")),
        top(
            "rules",
            json!([{
                "to": [{ "operation": { "methods": ["M-SEARCH", "*"] } }],
                "scopes": ["a:b/c"],
            }]),
        ),
        when_not("request.auth.principal", "*"),
        when_not("request.auth.audiences", "a"),
        when_not("request.auth.presenter", "a"),
        when_not("request.auth.subjectType", "client"),
        when_not("request.auth.delegated", "true"),
        when_not("request.auth.actor", "https://i.example/edge"),
        when_not("request.auth.delegationDepth", "2"),
    ];
    for config in accepted {
        meshseal_core::config::read_policy(&config.to_string())
            .with_context(|| format!("the filter rejects {config}"))?;
        ensure!(schema.is_valid(&config), "the schema rejects {config}");
    }
    Ok(())
}
