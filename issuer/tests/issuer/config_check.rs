//! `meshseal config check`: the same verdict as `serve` and the filter, or a line that names each
//! part that was not checked.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::support::process::{run, text, write};
use crate::support::signing::client_jwks;
use crate::support::yaml;

/// Runs `config check` on files: name, content, expected exit status, and a text that the command
/// must print.
fn check(cases: &[(&str, String, i32, &str)]) {
    let folder = tempfile::tempdir().unwrap();
    for (name, content, code, told) in cases {
        write(folder.path(), name, content);
        let output = run(folder.path(), &["config", "check", name], "");
        let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(*code), "{name}: {said}");
        assert!(said.contains(told), "{name}: {said}");
    }
}

/// Returns a plugin configuration that has its rules in this field.
fn plugin(field: &str) -> String {
    let keys = client_jwks().to_string();
    let rules = json!([{ "issuer": "https://i.example", "audiences": ["a"], "jwks": keys }]);
    json!({ field: rules }).to_string()
}

/// Returns an Envoy bootstrap with a Wasm filter that is configured by a Protobuf value.
fn bootstrap(filter: &str, kind: &str, value: &Value) -> String {
    let kind = format!("type.googleapis.com/google.protobuf.{kind}");
    let configuration = json!({ "@type": kind, "value": value });
    let config = json!({ "name": filter, "configuration": configuration });
    json!({ "static_resources": { "listeners": [{ "typed_config": { "config": config } }] } })
        .to_string()
}

/// Returns an Envoy bootstrap with a Wasm filter that is configured by a text.
fn text_filter(filter: &str, text: &str) -> String {
    bootstrap(filter, "StringValue", &json!(text))
}

/// Returns a Kubernetes object that has a text in one of its fields.
fn object(kind: &str, field: &str, name: &str, text: &str) -> String {
    let text = json!(text);
    format!("apiVersion: v1\nkind: {kind}\n{field}:\n  {name}: {text}")
}

fn config_map(entries: &Value) -> String {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "data": entries }).to_string()
}

const ISSUER: &str = "issuer: https://i.example\n";

/// `serve` must not panic on a configuration that `config check` accepts.
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
fn accounts_for_every_config_map_entry() {
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
fn rejects_unknown_issuer_section() {
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

/// Envoy unwraps `configuration` before the filter receives it.
#[test]
fn unwraps_envoy_values_like_envoy() {
    let (right, wrong) = (plugin("jwtRules"), plugin("jwtRule"));
    // One more byte changes the base64 padding.
    let padded = format!("{right} ");
    check(&[
        (
            "bytes.json",
            bootstrap("meshseal", "BytesValue", &json!(STANDARD.encode(&right))),
            0,
            "ok (plugin",
        ),
        (
            "padded.json",
            bootstrap("meshseal", "BytesValue", &json!(STANDARD.encode(&padded))),
            0,
            "ok (plugin",
        ),
        (
            "url.json",
            bootstrap(
                "meshseal",
                "BytesValue",
                &json!(URL_SAFE_NO_PAD.encode(&padded)),
            ),
            0,
            "ok (plugin",
        ),
        (
            "wrong.json",
            bootstrap("meshseal", "BytesValue", &json!(STANDARD.encode(wrong))),
            1,
            "jwtRule",
        ),
        (
            "plain.json",
            bootstrap("meshseal", "BytesValue", &json!(right)),
            1,
            "must be base64",
        ),
        (
            "struct.json",
            bootstrap(
                "meshseal",
                "Struct",
                &serde_json::from_str::<Value>(&right).unwrap(),
            ),
            0,
            "ok (plugin",
        ),
        (
            "any.json",
            bootstrap("meshseal", "Int32Value", &json!(1)),
            1,
            "must be a google.protobuf.StringValue",
        ),
    ]);
}

#[test]
fn config_check_finds_embedded_configurations() {
    let folder = tempfile::tempdir().unwrap();
    let (right, keys) = (plugin("jwtRules"), client_jwks().to_string());
    write(folder.path(), "issuer.yaml", yaml());
    write(folder.path(), "plugin.json", &right);
    let kubernetes = format!(
        "apiVersion: v1\nkind: Service\n---\n\
         apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\n\
         spec: {{ pluginConfig: {right} }}\n---\n\
         apiVersion: v1\nkind: ConfigMap\ndata:\n  issuer.yaml: |\n    \
         issuer: http://issuer.example\n"
    );
    write(folder.path(), "istio.yaml", kubernetes);
    let rule = json!({ "issuer": "https://idp.example", "audiences": [], "jwks": keys });
    let broken = json!({ "jwtRules": [rule], "extra": 1 }).to_string();
    let kind = "type.googleapis.com/google.protobuf.StringValue";
    let value = json!({ "@type": kind, "value": broken });
    let config = json!({ "name": "meshseal", "configuration": value });
    let listener = json!({ "http_filters": [{ "typed_config": { "config": config } }] });
    let envoy = json!({ "static_resources": { "listeners": [listener] } });
    write(folder.path(), "envoy.json", envoy);

    // Both files are right.
    let arguments = ["config", "check", "issuer.yaml", "plugin.json"];
    let good = run(folder.path(), &arguments, "");
    let told = text(&good.stdout);
    assert_eq!(good.status.code(), Some(0), "{told}");
    assert_eq!(told.matches(": ok (").count(), 2, "{told}");

    // A mistake in one document does not hide those in others.
    let arguments = ["config", "check", "istio.yaml", "envoy.json", "plugin.json"];
    let mixed = run(folder.path(), &arguments, "");
    let told = text(&mixed.stdout);
    assert_eq!(mixed.status.code(), Some(1), "{told}");
    for part in [
        "istio.yaml: ok (plugin configuration at spec.pluginConfig)",
        "istio.yaml: issuer: must be https",
        "envoy.json: jwtRules[0].audiences",
        "envoy.json: extra",
    ] {
        assert!(told.contains(part), "{part} in {told}");
    }

    let arguments = ["config", "check", "plugin.json", "missing.yaml"];
    let unreadable = run(folder.path(), &arguments, "");
    assert_eq!(unreadable.status.code(), Some(2));
}

#[test]
fn config_check_reads_issuer_files() {
    check(&[
        (
            "admin.yaml",
            "listen: 127.0.0.1:8080\nadmin: { listen: 127.0.0.1:8081 }".to_owned(),
            0,
            "ok (issuer",
        ),
        // `admin` as the only section still marks an issuer file.
        (
            "only-admin.yaml",
            "admin: { listen: here }".to_owned(),
            1,
            "admin.listen: must be",
        ),
        (
            "two.yaml",
            "listen: 127.0.0.1:1\n---\nlisten: 127.0.0.1:2".to_owned(),
            1,
            "only document",
        ),
    ]);
}

#[test]
fn config_check_reads_plugin_configurations() {
    let repeated =
        plugin("jwtRules").replacen('{', "{\"mode\":\"SHADOW\",\"mode\":\"ENFORCE\",", 1);
    check(&[
        ("plugin.json", plugin("jwtRules"), 0, "ok (plugin"),
        ("repeated.json", repeated, 1, "same name"),
        (
            "misspelt.json",
            text_filter("x", &plugin("jwtRule")),
            1,
            "jwtRule",
        ),
        ("named.json", text_filter("meshseal", "{}"), 1, "jwtRules"),
        ("broken.json", text_filter("meshseal", "{"), 1, "not JSON"),
        (
            "other.json",
            text_filter("stats", "{\"debug\": true}"),
            2,
            "another wasm filter",
        ),
    ]);
}

#[test]
fn config_check_reads_kubernetes_documents() {
    let encoded = STANDARD.encode("issuer: http://i.example");
    let map = json!({ "i.yaml": "listen: nowhere" });
    let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "data": map });
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": [map] }).to_string();
    check(&[
        (
            "map.yaml",
            object("ConfigMap", "data", "issuer.yaml", "issuer: ["),
            1,
            "data.issuer.yaml: not YAML",
        ),
        (
            "secret.yaml",
            object("Secret", "stringData", "issuer.yaml", "listen: nowhere"),
            1,
            "listen: must be",
        ),
        (
            "secret64.yaml",
            object("Secret", "data", "issuer.yaml", &encoded),
            1,
            "issuer: must be https",
        ),
        ("list.json", list, 1, "listen: must be"),
    ]);
}

#[test]
fn config_check_fails_without_configuration() {
    let service = "apiVersion: v1\nkind: Service";
    let patch = "- { op: add, path: /spec }";
    check(&[
        ("service.yaml", service.to_owned(), 2, "kind Service"),
        ("patch.yaml", patch.to_owned(), 2, "nothing to check"),
        (
            "unknown.yaml",
            "color: red".to_owned(),
            2,
            "nothing to check",
        ),
        ("empty.yaml", String::new(), 2, "nothing to check"),
    ]);
}
