//! The operator's verbs, as an operator runs them.

use std::path::Path;
use std::process::Output;

use meshseal_core::base64url::encode;
use meshseal_issuer::clients::SecretHash;
use serde_json::{Value, json};

use crate::support::process::{Server, meshseal, run, text};
use crate::support::signing::{client_jwks, sign};
use crate::support::{Harness, NOW, yaml};

fn lines(output: &Output) -> Vec<Value> {
    text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn write(folder: &Path, name: &str, content: impl ToString) {
    std::fs::write(folder.join(name), content.to_string()).unwrap();
}

fn access_token(more: &Value) -> String {
    let mut claims = json!({
        "iss": "https://idp.example", "sub": "alice", "aud": "orders", "client_id": "app", "iat": NOW, "exp": NOW + 60, "jti": "1",
        "scope": "orders.read",
    });
    claims
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    sign(
        &json!({ "alg": "EdDSA", "kid": "ed", "typ": "at+jwt" }),
        &claims,
    )
}

#[test]
fn verify_decides_a_line_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "jwks.json", client_jwks());
    let at = NOW.to_string();
    let arguments = [
        "token",
        "verify",
        "--jwks",
        "jwks.json",
        "--issuer",
        "https://idp.example",
        "--audience",
        "orders",
        "--at",
        &at,
    ];
    let good = access_token(&json!({}));
    let all_good = run(folder.path(), &arguments, &format!("{good}\n{good}"));
    assert_eq!(
        all_good.status.code(),
        Some(0),
        "{}",
        text(&all_good.stderr)
    );
    assert_eq!(lines(&all_good)[0]["claims"]["sub"], "alice");
    let input = [
        good.clone(),
        access_token(&json!({ "exp": NOW - 31 })),
        access_token(&json!({ "aud": "stock" })),
        access_token(&json!({ "iss": "https://evil.example" })),
        String::new(),
        "x".repeat(20_000),
        good.replace("at", "aT"),
    ]
    .join("\n");
    let mixed = run(folder.path(), &arguments, &input);
    assert_eq!(mixed.status.code(), Some(1));
    let codes: Vec<_> = lines(&mixed)
        .iter()
        .map(|line| line["code"].as_str().unwrap_or("accept").to_owned())
        .collect();
    let expected = [
        "accept",
        "token-expired",
        "audience-mismatch",
        "issuer-unknown",
        "token-malformed",
        "token-too-large",
    ];
    assert_eq!(codes[..6], expected);
    assert_eq!(lines(&run(folder.path(), &arguments, "")).len(), 0);
}

#[test]
fn verify_with_a_plugin_configuration_decides_about_the_route_too() {
    let folder = tempfile::tempdir().unwrap();
    let configuration = "
jwtRules: [ { issuer: https://idp.example, audiences: [orders], jwksUri: https://idp.example/keys, jwksCluster: idp } ]
rules:
- to: [ { operation: { methods: [GET], paths: [\"/orders/{*}\"] } } ]
  scopes: [orders.read]
- to: [ { operation: { methods: [POST] } } ]
  scopes: [orders.write]
";
    write(folder.path(), "plugin.yaml", configuration);
    write(folder.path(), "jwks.json", client_jwks());
    let at = NOW.to_string();
    let ask = |method: &str, path: &str| {
        let arguments = [
            "token",
            "verify",
            "--config",
            "plugin.yaml",
            "--jwks",
            "jwks.json",
            "--at",
            &at,
            "--method",
            method,
            "--path",
            path,
        ];
        lines(&run(folder.path(), &arguments, &access_token(&json!({}))))[0].clone()
    };
    assert_eq!(ask("GET", "/orders/7?x=1")["verdict"], "accept");
    assert_eq!(ask("POST", "/orders")["code"], "scope-missing");
    assert_eq!(ask("DELETE", "/orders/7")["code"], "rule-unmatched");
    assert_eq!(
        ask("GET", "/orders/../admin")["code"],
        "path-not-normalized"
    );
    let without_keys = run(
        folder.path(),
        &["token", "verify", "--config", "plugin.yaml", "--at", &at],
        &access_token(&json!({})),
    );
    assert_eq!(lines(&without_keys)[0]["code"], "keys-unavailable");
}

#[tokio::test]
async fn verify_with_a_bundle_knows_what_is_revoked() {
    let harness = Harness::new().await;
    let folder = tempfile::tempdir().unwrap();
    let (good, revoked) = (harness.token().await, harness.token().await);
    harness
        .post_as("checkout", "/revoke", &format!("token={revoked}"))
        .await;
    let published = harness.issuer.publisher.current();
    let pins: Vec<Value> = published
        .keys
        .iter()
        .filter(|key| key.purpose == meshseal_issuer::keys::Purpose::Bundle)
        .map(|key| serde_json::from_str(&key.public_jwk).unwrap())
        .collect();
    let configuration = json!({
        "trustBundle": { "cluster": "issuer", "keys": pins },
        "jwtRules": [{ "issuer": crate::support::ISSUER, "audiences": ["orders"], "trustBundle": true }],
    });
    write(folder.path(), "plugin.json", configuration);
    write(
        folder.path(),
        "bundle.jws",
        harness.poll(1, None).await.text,
    );
    let arguments = [
        "token",
        "verify",
        "--config",
        "plugin.json",
        "--bundle",
        "bundle.jws",
        "--at",
        &NOW.to_string(),
        "--method",
        "GET",
        "--path",
        "/",
    ];
    let output = run(folder.path(), &arguments, &format!("{good}\n{revoked}\n"));
    let verdicts = lines(&output);
    assert_eq!(
        (&verdicts[0]["verdict"], &verdicts[1]["code"]),
        (&"accept".into(), &"token-revoked".into())
    );
}

#[test]
fn keys_and_audience_can_be_given_for_one_issuer_of_a_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let other =
        json!({ "issuer": "https://other.example", "audiences": ["stock"], "jwks": client_jwks() });
    let rule = json!({ "issuer": "https://idp.example", "audiences": ["elsewhere"], "jwksUri": "https://idp.example/keys", "jwksCluster": "idp" });
    write(
        folder.path(),
        "plugin.json",
        json!({ "jwtRules": [other, rule] }),
    );
    write(folder.path(), "jwks.json", client_jwks());
    let at = NOW.to_string();
    let given = [
        "token",
        "verify",
        "--config",
        "plugin.json",
        "--jwks",
        "jwks.json",
        "--at",
        &at,
    ];
    let token = access_token(&json!({}));
    let elsewhere = run(folder.path(), &given, &token);
    assert_eq!(
        lines(&elsewhere)[0]["code"],
        "audience-mismatch",
        "{}",
        text(&elsewhere.stderr)
    );
    let named = [
        &given[..],
        &["--issuer", "https://idp.example", "--audience", "orders"],
    ]
    .concat();
    assert_eq!(
        lines(&run(folder.path(), &named, &token))[0]["verdict"],
        "accept"
    );
    let nobody = [&given[..], &["--issuer", "https://nobody.example"]].concat();
    assert_eq!(
        run(folder.path(), &nobody, &token).status.code(),
        Some(2),
        "no rule for that issuer"
    );
}

#[test]
fn signature_only_takes_any_payload_and_shared_secrets() {
    let folder = tempfile::tempdir().unwrap();
    // RFC 7515 appendix A.1.
    let key = json!({ "kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow" });
    write(folder.path(), "jwks.json", json!({ "keys": [key] }));
    let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9\
        .eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ\
        .dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    let arguments = ["token", "verify", "--signature-only", "--jwks", "jwks.json"];
    let output = run(folder.path(), &arguments, token);
    assert_eq!(
        (output.status.code(), &lines(&output)[0]["verdict"]),
        (Some(0), &"accept".into())
    );
    let output = run(folder.path(), &arguments, &token.replace("dBjf", "dBjg"));
    assert_eq!(
        (output.status.code(), &lines(&output)[0]["code"]),
        (Some(1), &"signature-invalid".into())
    );
    write(folder.path(), "ours.json", client_jwks());
    let arguments = ["token", "verify", "--signature-only", "--jwks", "ours.json"];
    let signed = sign(
        &json!({ "alg": "EdDSA", "kid": "ed" }),
        &json!("not claims"),
    );
    let output = run(folder.path(), &arguments, &signed);
    assert_eq!(
        (output.status.code(), &lines(&output)[0]["verdict"]),
        (Some(0), &"accept".into())
    );
    let (input, _) = signed.rsplit_once('.').unwrap();
    let output = run(folder.path(), &arguments, &format!("{input}.AAAA"));
    assert_eq!(lines(&output)[0]["code"], "signature-invalid");
}

#[test]
fn keys_that_cannot_be_used_are_passed_over_not_stumbled_over() {
    let folder = tempfile::tempdir().unwrap();
    let mut keys = client_jwks();
    let weak = json!({ "kty": "RSA", "kid": "weak", "alg": "RS256", "n": encode(&[0xc1; 64]), "e": "AQAB" });
    keys["keys"].as_array_mut().unwrap().push(weak.clone());
    write(folder.path(), "mixed.json", keys);
    write(folder.path(), "weak.json", json!({ "keys": [weak] }));
    let (token, at) = (access_token(&json!({})), NOW.to_string());
    let rule = [
        "--issuer",
        "https://idp.example",
        "--audience",
        "orders",
        "--at",
        &at,
    ];
    let ask = |more: &[&str]| {
        run(
            folder.path(),
            &[&["token", "verify"], more].concat(),
            &token,
        )
    };
    assert_eq!(
        ask(&["--signature-only", "--jwks", "mixed.json"])
            .status
            .code(),
        Some(0)
    );
    assert_eq!(
        ask(&[["--jwks", "mixed.json"].as_slice(), &rule].concat())
            .status
            .code(),
        Some(0)
    );
    let output = ask(&["--signature-only", "--jwks", "weak.json"]);
    assert_eq!(
        (output.status.code(), &lines(&output)[0]["code"]),
        (Some(1), &"key-unknown".into())
    );
    let output = ask(&[["--jwks", "weak.json"].as_slice(), &rule].concat());
    assert_eq!(
        (output.status.code(), &lines(&output)[0]["code"]),
        (Some(1), &"keys-unavailable".into())
    );
}

#[test]
fn wrong_usage_is_exit_2_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "jwks.json", client_jwks());
    write(
        folder.path(),
        "broken.yaml",
        "jwtRules: [ { issuer: x, audiences: [] } ]\nfoo: 1",
    );
    for (arguments, expected) in [
        (vec!["token", "verify"], "--config"),
        (vec!["token", "verify", "--jwks", "jwks.json"], "--audience"),
        (
            vec!["token", "verify", "--config", "missing.yaml"],
            "missing.yaml",
        ),
        (
            vec!["token", "verify", "--config", "broken.yaml"],
            "audiences",
        ),
        (
            vec!["token", "verify", "--jwks", "jwks.json", "--path", "/"],
            "--method",
        ),
        (
            vec![
                "token",
                "verify",
                "--signature-only",
                "--jwks",
                "broken.yaml",
            ],
            "--jwks",
        ),
        (
            vec!["keys", "list", "--client-id", "x"],
            "MESHSEAL_CLIENT_SECRET",
        ),
        (vec!["revoke", "--client-id", "x"], "--subject"),
        (vec!["serve", "--config", "missing.yaml"], "missing.yaml"),
        (vec!["nonsense"], "nonsense"),
    ] {
        let output = run(folder.path(), &arguments, "");
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
}

#[test]
fn inspect_shows_and_says_that_nothing_is_verified() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(
        folder.path(),
        &["token", "inspect"],
        &format!("{}\nx\n", access_token(&json!({}))),
    );
    assert!(text(&output.stderr).contains("UNVERIFIED"));
    let shown = lines(&output);
    assert_eq!(
        (
            &shown[0]["verified"],
            &shown[0]["claims"]["sub"],
            &shown[0]["header"]["kid"]
        ),
        (&false.into(), &"alice".into(), &"ed".into())
    );
    assert_eq!(
        (output.status.code(), &shown[1]["error"]),
        (Some(1), &"not a token".into())
    );
}

#[test]
fn a_made_secret_fits_its_hash() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &["client", "secret"], "");
    let made: std::collections::BTreeMap<&str, &str> = text(&output.stdout)
        .lines()
        .map(|line| line.split_once(": ").unwrap())
        .collect();
    assert_eq!(SecretHash::of(made["secret"]).to_string(), made["hash"]);
    let said = text(&output.stderr);
    assert!(
        said.starts_with("note: ") && said.contains("--config"),
        "how to get a keyed hash: {said}"
    );
}

#[test]
fn keyed_hash_needs_the_master_key() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "issuer.yaml", "listen: 127.0.0.1:0");
    let make = || {
        run(
            folder.path(),
            &["client", "secret", "--config", "issuer.yaml"],
            "",
        )
    };
    assert_eq!(make().status.code(), Some(1), "no master key yet");
    drop(Server::start(folder.path(), &["--config", "issuer.yaml"]));
    let made = make();
    assert_eq!(text(&made.stderr), "", "no note about a hash that is keyed");
    let made: std::collections::BTreeMap<&str, &str> = text(&made.stdout)
        .lines()
        .map(|line| line.split_once(": ").unwrap())
        .collect();
    let yaml = format!(
        "listen: 127.0.0.1:0\nservices: [{{ audience: a }}]\nclients:\n- clientId: c\n  audiences: [a]\n  auth: {{ secrets: [{{ hash: \"{}\" }}] }}\n",
        made["hash"]
    );
    assert!(made["hash"].starts_with("hmac-sha256:"));
    write(folder.path(), "issuer.yaml", yaml);
    let mint = || {
        let server = Server::start(folder.path(), &["--config", "issuer.yaml"]);
        let mut mint = meshseal(folder.path());
        mint.args([
            "token",
            "mint",
            "--client-id",
            "c",
            "--url",
            &format!("http://{}", server.address),
        ]);
        mint.env("MESHSEAL_CLIENT_SECRET", made["secret"])
            .output()
            .unwrap()
            .status
            .code()
    };
    assert_eq!(mint(), Some(0));
    std::fs::remove_file(folder.path().join("meshseal.db")).unwrap();
    std::fs::remove_file(folder.path().join("meshseal.master.key")).unwrap();
    assert_eq!(
        mint(),
        Some(1),
        "the hash is of no use under another master key"
    );
}

#[test]
fn operator_authenticates_with_a_key() {
    let folder = tempfile::tempdir().unwrap();
    for (name, algorithm) in [("ed", "ED25519"), ("ec", "EC"), ("rsa", "RSA")] {
        let mut command = std::process::Command::new("openssl");
        command
            .args(["genpkey", "-algorithm", algorithm, "-out", name])
            .current_dir(folder.path());
        if algorithm == "EC" {
            command.args(["-pkeyopt", "ec_paramgen_curve:P-256"]);
        }
        assert!(
            command.output().unwrap().status.success(),
            "openssl genpkey {algorithm}"
        );
    }
    let jwks = crate::support::signing::jwks_of(folder.path(), &["ed", "ec", "rsa"]);
    let yaml = format!(
        "issuer: http://127.0.0.1:9\nlisten: 127.0.0.1:0\nclients:\n- {{ clientId: op, admin: true, auth: {{ jwks: {jwks} }} }}\n"
    );
    write(folder.path(), "issuer.yaml", yaml);
    let server = Server::start(folder.path(), &["--config", "issuer.yaml"]);
    for name in ["ed", "ec", "rsa"] {
        let ask = |verb: &[&str], issuer: &str| {
            let mut command = meshseal(folder.path());
            command.args(verb).args([
                "--client-id",
                "op",
                "--client-key-file",
                name,
                "--client-key-id",
                name,
            ]);
            command
                .args(["--issuer", issuer])
                .env("MESHSEAL_URL", format!("http://{}", server.address));
            command
                .env("MESHSEAL_ADMIN_URL", format!("http://{}", server.admin))
                .output()
                .unwrap()
        };
        for verb in [
            &["keys", "list"][..],
            &["revoke", "--subject", "x", "--wait", "0"],
        ] {
            let done = ask(verb, "http://127.0.0.1:9");
            assert_eq!(
                done.status.code(),
                Some(0),
                "{name} {verb:?}: {}",
                text(&done.stderr)
            );
        }
        let elsewhere = ask(&["keys", "list"], "https://other.example");
        assert!(
            text(&elsewhere.stderr).contains("401"),
            "{name}: made for another issuer"
        );
    }
}

#[test]
fn config_check_finds_configurations_wherever_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let plugin = json!({ "jwtRules": [{ "issuer": "https://idp.example", "audiences": ["a"], "jwks": client_jwks().to_string() }] });
    write(folder.path(), "issuer.yaml", yaml());
    write(folder.path(), "plugin.json", &plugin);
    let kubernetes = format!(
        "apiVersion: v1\nkind: Service\n---\napiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nspec: {{ pluginConfig: {plugin} }}\n---\n\
         apiVersion: v1\nkind: ConfigMap\ndata:\n  issuer.yaml: |\n    issuer: http://issuer.example\n"
    );
    write(folder.path(), "istio.yaml", kubernetes);
    let broken = json!({ "jwtRules": [{ "issuer": "https://idp.example", "audiences": [], "jwks": client_jwks().to_string() }], "extra": 1 });
    let wasm = json!({ "name": "meshseal", "configuration": { "@type": "type.googleapis.com/google.protobuf.StringValue", "value": broken.to_string() } });
    write(
        folder.path(),
        "envoy.json",
        json!({ "static_resources": { "listeners": [{ "http_filters": [{ "typed_config": { "config": wasm } }] }] } }),
    );

    let good = run(
        folder.path(),
        &["config", "check", "issuer.yaml", "plugin.json"],
        "",
    );
    assert_eq!(
        (
            good.status.code(),
            text(&good.stdout).matches(": ok (").count()
        ),
        (Some(0), 2),
        "{}",
        text(&good.stdout)
    );
    let mixed = run(
        folder.path(),
        &["config", "check", "istio.yaml", "envoy.json", "plugin.json"],
        "",
    );
    let told = text(&mixed.stdout);
    assert_eq!(mixed.status.code(), Some(1), "{told}");
    assert!(
        told.contains("istio.yaml: ok (plugin configuration at spec.pluginConfig)"),
        "{told}"
    );
    assert!(told.contains("istio.yaml: issuer: must be https"), "{told}");
    assert!(
        told.contains("envoy.json: jwtRules[0].audiences") && told.contains("envoy.json: extra"),
        "both mistakes: {told}"
    );
    let unreadable = run(
        folder.path(),
        &["config", "check", "plugin.json", "missing.yaml"],
        "",
    );
    assert_eq!(unreadable.status.code(), Some(2));
}

#[test]
fn config_check_checks_or_fails() {
    let folder = tempfile::tempdir().unwrap();
    let plugin = |field: &str| {
        let rules = json!([{ "issuer": "https://i.example", "audiences": ["a"], "jwks": client_jwks().to_string() }]);
        json!({ field: rules }).to_string()
    };
    let bootstrap = |name: &str, configuration: &str| {
        let value = json!({ "@type": "type.googleapis.com/google.protobuf.StringValue", "value": configuration });
        let config = json!({ "name": name, "configuration": value });
        json!({ "static_resources": { "listeners": [{ "typed_config": { "config": config } }] } })
            .to_string()
    };
    let repeated =
        plugin("jwtRules").replacen('{', "{\"mode\":\"SHADOW\",\"mode\":\"ENFORCE\",", 1);
    let inside = |kind: &str, field: &str, name: &str, text: &str| {
        format!(
            "apiVersion: v1\nkind: {kind}\n{field}:\n  {name}: {}",
            json!(text)
        )
    };
    let encoded = base64::Engine::encode(
        &base64::engine::general_purpose::STANDARD,
        "issuer: http://i.example",
    );
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": [
        { "apiVersion": "v1", "kind": "ConfigMap", "data": { "i.yaml": "listen: nowhere" } }] });
    let cases = [
        // An issuer file with `admin`, also when it is the only section.
        (
            "admin.yaml",
            "listen: 127.0.0.1:8080\nadmin: { listen: 127.0.0.1:8081 }".to_owned(),
            0,
            "ok (issuer",
        ),
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
        // Plugin configurations, as the filter reads them.
        ("plugin.json", plugin("jwtRules"), 0, "ok (plugin"),
        ("repeated.json", repeated, 1, "same name"),
        (
            "misspelt.json",
            bootstrap("x", &plugin("jwtRule")),
            1,
            "jwtRule",
        ),
        ("named.json", bootstrap("meshseal", "{}"), 1, "jwtRules"),
        ("broken.json", bootstrap("meshseal", "{"), 1, "not JSON"),
        (
            "other.json",
            bootstrap("stats", "{\"debug\": true}"),
            2,
            "another wasm filter",
        ),
        // Kubernetes documents.
        (
            "map.yaml",
            inside("ConfigMap", "data", "issuer.yaml", "issuer: ["),
            1,
            "data.issuer.yaml: not YAML",
        ),
        (
            "secret.yaml",
            inside("Secret", "stringData", "issuer.yaml", "listen: nowhere"),
            1,
            "listen: must be",
        ),
        (
            "secret64.yaml",
            inside("Secret", "data", "issuer.yaml", &encoded),
            1,
            "issuer: must be https",
        ),
        ("list.json", list.to_string(), 1, "listen: must be"),
        (
            "service.yaml",
            "apiVersion: v1\nkind: Service".to_owned(),
            2,
            "kind Service",
        ),
        // Documents without a configuration.
        (
            "patch.yaml",
            "- { op: add, path: /spec }".to_owned(),
            2,
            "nothing to check",
        ),
        (
            "unknown.yaml",
            "color: red".to_owned(),
            2,
            "nothing to check",
        ),
        ("empty.yaml", String::new(), 2, "nothing to check"),
    ];
    for (name, content, code, told) in cases {
        write(folder.path(), name, content);
        let output = run(folder.path(), &["config", "check", name], "");
        let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{name}: {said}");
        assert!(said.contains(told), "{name}: {said}");
    }
}

#[test]
fn pins_can_be_had_before_the_first_start_and_stay() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "issuer.yaml", yaml());
    let arguments = ["keys", "pins", "--config", "issuer.yaml"];
    let refused = run(folder.path(), &arguments, "");
    assert_eq!(
        (
            refused.status.code(),
            text(&refused.stderr).contains("--init")
        ),
        (Some(1), true)
    );
    assert!(
        !folder.path().join("meshseal.db").exists(),
        "nothing was made"
    );
    let first = lines(&run(
        folder.path(),
        &[&arguments[..], &["--init"]].concat(),
        "",
    ))[0]
        .clone();
    let content = || std::fs::read(folder.path().join("meshseal.db")).unwrap();
    let before = content();
    let second = lines(&run(folder.path(), &arguments, ""))[0].clone();
    assert_eq!((&first, content() == before), (&second, true));
    // The tables of another schema stay as they are.
    let mut older = before;
    older[60..64].copy_from_slice(&1_u32.to_be_bytes());
    std::fs::write(folder.path().join("older.db"), &older).unwrap();
    std::fs::copy(
        folder.path().join("meshseal.master.key"),
        folder.path().join("older.master.key"),
    )
    .unwrap();
    write(
        folder.path(),
        "older.yaml",
        format!("database: sqlite:older.db\n{}", yaml()),
    );
    let refused = run(
        folder.path(),
        &["keys", "pins", "--config", "older.yaml"],
        "",
    );
    let said = text(&refused.stderr);
    assert_eq!(
        (refused.status.code(), said.contains("schema 1")),
        (Some(1), true),
        "{said}"
    );
    assert!(
        std::fs::read(folder.path().join("older.db")).unwrap() == older,
        "nothing was changed"
    );
    let configuration = json!({
        "trustBundle": { "cluster": "issuer", "keys": first["keys"] },
        "jwtRules": [{ "issuer": "https://i.example", "audiences": ["a"], "trustBundle": true }],
    });
    meshseal_core::config::read_policy(&configuration.to_string()).unwrap();
}

#[test]
fn an_operator_lists_rotates_mints_and_revokes() {
    let folder = tempfile::tempdir().unwrap();
    write(
        folder.path(),
        "issuer.yaml",
        format!("listen: 127.0.0.1:0\n{}", yaml()),
    );
    let server = Server::start(folder.path(), &["--config", "issuer.yaml"]);
    let ask = |client: &str, arguments: &[&str], input: &str| {
        server.ask(folder.path(), client, arguments, input)
    };
    let (code, token, said) = ask(
        "checkout",
        &[
            "token",
            "mint",
            "--audience",
            "orders",
            "--scope",
            "orders.read",
        ],
        "",
    );
    assert_eq!((code, token.split('.').count()), (Some(0), 3), "{said}");
    let (_, before, _) = ask("operator", &["keys", "list"], "");
    assert!(
        before.contains("active") && before.contains("next") && before.contains("0/0"),
        "{before}"
    );
    let (code, kid, said) = ask("operator", &["keys", "rotate"], "");
    assert_eq!(code, Some(0), "{said}");
    let (_, listed, _) = ask("operator", &["keys", "list", "--json"], "");
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let active = listed["keys"]
        .as_array()
        .unwrap()
        .iter()
        .find(|key| key["state"] == "active" && key["purpose"] == "token")
        .unwrap();
    assert_eq!(active["kid"], kid);
    let (code, receipt, said) = ask("checkout", &["revoke", "--token"], &token);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(
        serde_json::from_str::<Value>(&receipt).unwrap()["confirmed"],
        0
    );
    let (code, told, said) = ask(
        "operator",
        &["revoke", "--token"],
        &token[..token.len() - 2],
    );
    assert_eq!(
        (code, told.contains("\"revoked\":false")),
        (Some(1), true),
        "{said}"
    );
    assert!(
        said.contains("nothing was revoked: signature-invalid"),
        "{said}"
    );
    assert_eq!(
        ask("operator", &["revoke", "--subject", "checkout"], "").0,
        Some(0)
    );
    assert_eq!(
        ask("operator", &["revoke", "--jti", "no-such-jti"], "").0,
        Some(1)
    );
    assert_eq!(ask("operator", &["keys", "revoke", &kid], "").0, Some(0));
    let (code, _, said) = ask(
        "operator",
        &[
            "keys",
            "list",
            "--admin-url",
            &format!("http://{}", server.address),
        ],
        "",
    );
    assert_eq!(
        (code, said.contains("404")),
        (Some(1), true),
        "not where everybody is served: {said}"
    );
    let (code, _, said) = ask("checkout", &["keys", "list"], "");
    assert_eq!(code, Some(1));
    assert!(said.contains("not an administrator"), "{said}");
}
