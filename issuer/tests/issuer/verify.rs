//! `meshseal token verify` and `meshseal token inspect`.

use meshseal_core::base64url::encode;
use serde_json::{Value, json};

use crate::support::process::{lines, run, text, write};
use crate::support::signing::{client_jwks, sign};
use crate::support::{Harness, NOW};

/// Returns an access token of the client's `ed` key, with these claims added or replaced.
fn access_token(more: &Value) -> String {
    let mut claims = json!({
        "iss": "https://idp.example", "sub": "alice", "aud": "orders", "client_id": "app",
        "iat": NOW, "exp": NOW + 60, "jti": "1", "scope": "orders.read",
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
fn verify_decides_each_line() {
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

    // All tokens are valid: exit status 0.
    let good = access_token(&json!({}));
    let all_good = run(folder.path(), &arguments, &format!("{good}\n{good}"));
    assert_eq!(
        all_good.status.code(),
        Some(0),
        "{}",
        text(&all_good.stderr)
    );
    assert_eq!(lines(&all_good)[0]["claims"]["sub"], "alice");

    // One rejected token is enough for exit status 1.
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
fn verify_applies_route_rules_of_plugin_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let configuration = "
jwtRules:
- issuer: https://idp.example
  audiences: [orders]
  jwksUri: https://idp.example/keys
  jwksCluster: idp
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

    // Each request meets a different rule.
    assert_eq!(ask("GET", "/orders/7?x=1")["verdict"], "accept");
    assert_eq!(ask("POST", "/orders")["code"], "scope-missing");
    assert_eq!(ask("DELETE", "/orders/7")["code"], "rule-unmatched");
    assert_eq!(
        ask("GET", "/orders/../admin")["code"],
        "path-not-normalized"
    );

    // Without keys no token can be verified.
    let without_keys = run(
        folder.path(),
        &["token", "verify", "--config", "plugin.yaml", "--at", &at],
        &access_token(&json!({})),
    );
    assert_eq!(lines(&without_keys)[0]["code"], "keys-unavailable");
}

#[tokio::test]
async fn verify_applies_revocations_of_bundle() {
    let harness = Harness::new().await;
    let folder = tempfile::tempdir().unwrap();
    let (good, revoked) = (harness.token().await, harness.token().await);
    harness
        .post_as("checkout", "/revoke", &format!("token={revoked}"))
        .await;

    // The configuration pins the bundle keys.
    let published = harness.issuer.publisher.current();
    let pins: Vec<Value> = published
        .keys
        .iter()
        .filter(|key| key.purpose == meshseal_issuer::keys::Purpose::Bundle)
        .map(|key| serde_json::from_str(&key.public_jwk).unwrap())
        .collect();
    let configuration = json!({
        "trustBundle": { "cluster": "issuer", "keys": pins },
        "jwtRules": [
            { "issuer": crate::support::ISSUER, "audiences": ["orders"], "trustBundle": true },
        ],
    });
    write(folder.path(), "plugin.json", configuration);
    write(
        folder.path(),
        "bundle.jws",
        harness.poll(1, None).await.text,
    );

    // The bundle revokes one of the two tokens.
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
fn verify_options_override_one_issuer() {
    let folder = tempfile::tempdir().unwrap();
    let other =
        json!({ "issuer": "https://other.example", "audiences": ["stock"], "jwks": client_jwks() });
    let rule = json!({
        "issuer": "https://idp.example", "audiences": ["elsewhere"],
        "jwksUri": "https://idp.example/keys", "jwksCluster": "idp",
    });
    write(
        folder.path(),
        "plugin.json",
        json!({ "jwtRules": [other, rule] }),
    );
    write(folder.path(), "jwks.json", client_jwks());
    let at = NOW.to_string();

    // Without the options the audience of the configuration applies.
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

    // The options replace it for the named issuer only.
    let named = [
        &given[..],
        &["--issuer", "https://idp.example", "--audience", "orders"],
    ]
    .concat();
    assert_eq!(
        lines(&run(folder.path(), &named, &token))[0]["verdict"],
        "accept"
    );
    let unknown = [&given[..], &["--issuer", "https://unknown.example"]].concat();
    assert_eq!(
        run(folder.path(), &unknown, &token).status.code(),
        Some(2),
        "no rule for that issuer"
    );
}

#[test]
fn signature_only_verifies_hmac_and_any_payload() {
    let folder = tempfile::tempdir().unwrap();
    // RFC 7515 appendix A.1.
    let secret = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0i\
                  PS4hcgUuTwjAzZr1Z9CAow";
    let key = json!({ "kty": "oct", "k": secret });
    write(folder.path(), "jwks.json", json!({ "keys": [key] }));
    let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9\
        .eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFt\
        cGxlLmNvbS9pc19yb290Ijp0cnVlfQ\
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
fn verify_skips_unusable_keys() {
    let folder = tempfile::tempdir().unwrap();
    let mut keys = client_jwks();
    let modulus = encode(&[0xc1; 64]);
    let weak = json!({ "kty": "RSA", "kid": "weak", "alg": "RS256", "n": modulus, "e": "AQAB" });
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

    // A set with a usable key works in spite of a weak one.
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

    // A set of weak keys only has no key.
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
fn inspect_marks_output_as_unverified() {
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
