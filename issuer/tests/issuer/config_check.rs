//! `meshseal config check`: the verdict of `serve` and of the filter, or a line that says what was
//! not checked.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::support::process::{run, text};
use crate::support::signing::client_jwks;

/// Checks files: name, content, exit status, and a text that the command must print.
fn check(cases: &[(&str, String, i32, &str)]) {
    let folder = tempfile::tempdir().unwrap();
    for (name, content, code, told) in cases {
        std::fs::write(folder.path().join(name), content).unwrap();
        let output = run(folder.path(), &["config", "check", name], "");
        let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(*code), "{name}: {said}");
        assert!(said.contains(told), "{name}: {said}");
    }
}

/// A plugin configuration whose rules stand under this name.
fn plugin(field: &str) -> String {
    let rules = json!([{ "issuer": "https://i.example", "audiences": ["a"], "jwks": client_jwks().to_string() }]);
    json!({ field: rules }).to_string()
}

fn config_map(entries: &Value) -> String {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "data": entries }).to_string()
}

const ISSUER: &str = "issuer: https://i.example\n";

/// `serve` must not panic over what `config check` accepts.
#[test]
fn issuer_path_leaves_room_for_endpoints() {
    let refused = [
        "/.well-known/openid-configuration",
        "/.well-known/oauth-authorization-server",
        "/.well-known",
        "/.well-known/x",
        "/readyz",
        "/readyz/x",
    ];
    let folder = tempfile::tempdir().unwrap();
    for path in refused {
        let yaml = format!("issuer: http://127.0.0.1:9{path}\nlisten: 127.0.0.1:0\n");
        std::fs::write(folder.path().join("i.yaml"), yaml).unwrap();
        for arguments in [
            &["config", "check", "i.yaml"][..],
            &["serve", "--config", "i.yaml"],
        ] {
            let output = run(folder.path(), arguments, "");
            let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
            let code = if arguments.first() == Some(&"serve") {
                2
            } else {
                1
            };
            assert_eq!(output.status.code(), Some(code), "{path}: {said}");
            assert!(
                said.contains("issuer: must not have a path that begins with"),
                "{path}: {said}"
            );
        }
    }
}

#[test]
fn entries_of_a_config_map_are_all_accounted_for() {
    let issuer = "listen: nowhere";
    let other = "[mysqld]\nport = 3306";
    check(&[
        // A name without an extension.
        (
            "misspelt.json",
            config_map(&json!({ "issuer.yaml": ISSUER, "plugin": plugin("jwtRulse") })),
            1,
            "jwtRulse",
        ),
        (
            "right.json",
            config_map(&json!({ "plugin": plugin("jwtRules") })),
            0,
            "at data.plugin",
        ),
        (
            "issuer.json",
            config_map(&json!({ "config": "issuer: http://i.example" })),
            1,
            "must be https",
        ),
        (
            "other.json",
            config_map(&json!({ "issuer.yaml": ISSUER, "my.cnf": other })),
            0,
            "not checked at data.my.cnf",
        ),
        (
            "color.json",
            config_map(&json!({ "issuer.yaml": ISSUER, "a": "listen: x" })),
            0,
            "not checked at data.a",
        ),
        (
            "number.json",
            config_map(&json!({ "issuer.yaml": ISSUER, "a": 1 })),
            0,
            "not checked at data.a",
        ),
        // Several documents in one entry.
        (
            "several.json",
            config_map(
                &json!({ "p.yaml": format!("{}\n---\n{}", plugin("jwtRules"), plugin("jwtRule")) }),
            ),
            1,
            "WRONG (plugin configuration at data.p.yaml)",
        ),
        (
            "two.json",
            config_map(&json!({ "i.yaml": format!("{ISSUER}---\n{issuer}") })),
            1,
            "only document",
        ),
        ("end.yaml", format!("{ISSUER}---\n"), 1, "only document"),
        (
            "empty.json",
            config_map(&json!({ "i.yaml": "" })),
            2,
            "an empty document",
        ),
    ]);
}

#[test]
fn unknown_section_of_the_issuer_is_a_mistake() {
    check(&[
        (
            "address.yaml",
            format!("{ISSUER}admin: {{ address: 127.0.0.1:1 }}"),
            1,
            "admin.address: unknown field",
        ),
        (
            "alone.yaml",
            "admin: { address: 127.0.0.1:1 }".to_owned(),
            1,
            "admin.address: unknown field",
        ),
        (
            "resources.yaml",
            format!("{ISSUER}resources: []"),
            1,
            "resources: unknown field",
        ),
        (
            "envoy.yaml",
            "admin: { address: { socket_address: { port_value: 1 } } }".to_owned(),
            2,
            "Envoy",
        ),
        (
            "discovery.yaml",
            "resources: [{ '@type': x }]".to_owned(),
            2,
            "Envoy",
        ),
    ]);
}

/// What Envoy makes of `configuration` before the filter gets it.
#[test]
fn envoy_values_are_unwrapped_as_envoy_does() {
    let bootstrap = |kind: &str, value: Value| {
        let value = json!({ "@type": format!("type.googleapis.com/google.protobuf.{kind}"), "value": value });
        let config = json!({ "name": "meshseal", "configuration": value });
        json!({ "static_resources": { "listeners": [{ "typed_config": { "config": config } }] } })
            .to_string()
    };
    let (right, wrong) = (plugin("jwtRules"), plugin("jwtRule"));
    // One byte more gives another padding.
    let padded = format!("{right} ");
    check(&[
        (
            "bytes.json",
            bootstrap("BytesValue", json!(STANDARD.encode(&right))),
            0,
            "ok (plugin",
        ),
        (
            "padded.json",
            bootstrap("BytesValue", json!(STANDARD.encode(&padded))),
            0,
            "ok (plugin",
        ),
        (
            "url.json",
            bootstrap("BytesValue", json!(URL_SAFE_NO_PAD.encode(&padded))),
            0,
            "ok (plugin",
        ),
        (
            "wrong.json",
            bootstrap("BytesValue", json!(STANDARD.encode(wrong))),
            1,
            "jwtRule",
        ),
        (
            "plain.json",
            bootstrap("BytesValue", json!(right)),
            1,
            "must be base64",
        ),
        (
            "struct.json",
            bootstrap("Struct", serde_json::from_str(&right).unwrap()),
            0,
            "ok (plugin",
        ),
        (
            "any.json",
            bootstrap("Int32Value", json!(1)),
            1,
            "must be a google.protobuf.StringValue",
        ),
    ]);
}
