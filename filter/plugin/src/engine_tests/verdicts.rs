//! Verdicts on requests and their effects.

use super::*;

#[test]
fn replaces_valid_token_with_claim_headers() {
    let mut mesh = Mesh::new(&inline_config(&[&key()], sub_to_header(), json!({})));
    let token = token(&key(), json!({}));
    let (status, stream) = mesh.ask_with(&token);
    assert_eq!((status, value(&stream, "x-sub")), (200, Some("checkout")));
    assert_eq!(value(&stream, "x-payload"), token.split('.').nth(1));
    assert_eq!(value(&stream, "authorization"), None);
    assert_eq!(
        (
            mesh.count("accepted"),
            mesh.host.records("meshseal.validation_us")
        ),
        (1, 1)
    );
}

#[test]
fn reports_accepted_requests_at_next_tick() {
    let mut mesh = Mesh::new(&inline_config(&[&key()], json!({}), json!({})));
    mesh.ask_with(&token(&key(), json!({})));
    mesh.tick_after(1_000);
    assert_eq!(mesh.count("accepted"), 1);
}

#[test]
fn forwards_token_if_configured() {
    let mut mesh = Mesh::new(&inline_config(
        &[&key()],
        json!({ "forwardOriginalToken": true }),
        json!({}),
    ));
    let token = token(&key(), json!({}));
    let (_, stream) = mesh.ask_with(&token);
    assert_eq!(
        value(&stream, "authorization"),
        Some(format!("Bearer {token}").as_str())
    );
}

#[test]
fn answers_401_without_token() {
    let mut mesh = Mesh::new(&inline_config(&[&key()], json!({}), json!({})));
    let (status, stream) = mesh.ask(&[]);
    assert_eq!((status, code(&stream).as_str()), (401, "token-missing"));
    assert_eq!(
        (
            mesh.count("rejected.token-missing"),
            mesh.host.records("meshseal.validation_us")
        ),
        (1, 0)
    );
}

#[test]
fn rejects_bad_token_without_adding_outputs() {
    let mut mesh = Mesh::new(&inline_config(&[&key()], sub_to_header(), json!({})));
    let (status, stream) = mesh.ask_with(&token(&key(), json!({ "exp": START - 100 })));
    assert_eq!((status, code(&stream).as_str()), (401, "token-expired"));
    assert_eq!(
        (
            value(&stream, "x-sub"),
            mesh.count("rejected.token-expired")
        ),
        (None, 1)
    );
}

#[test]
fn reports_joined_tokens_as_repeated_first() {
    let mut mesh = Mesh::new(&inline_config(&[&key()], json!({}), json!({})));
    let good = token(&key(), json!({}));
    let unknown = token(&TestKey::new("b", 2), json!({}));
    let long = "a".repeat(meshseal_core::limits::MAX_TOKEN_BYTES);
    for first in [&good, &unknown, "a.b", "\u{e9}", &long] {
        let (status, stream) = mesh.ask_with(&format!("{first},Bearer {good}"));
        assert_eq!(
            (status, code(&stream).as_str()),
            (400, "token-repeated"),
            "{first}"
        );
    }
}

#[test]
fn rejects_token_outside_its_issuers_locations() {
    let other = json!({
        "issuer": "https://other.example", "audiences": ["o"], "fromCookies": ["session"],
        "jwks": { "keys": [TestKey::new("b", 2).jwk()] },
    });
    let mut config: Value =
        serde_json::from_str(&inline_config(&[&key()], json!({}), json!({}))).unwrap();
    config["jwtRules"].as_array_mut().unwrap().push(other);
    let mut mesh = Mesh::new(&config.to_string());
    let token = token(&key(), json!({}));
    let (status, stream) = mesh.ask(&[("cookie", &format!("session={token}"))]);
    assert_eq!((status, code(&stream).as_str()), (401, "issuer-unknown"));
    assert_eq!(mesh.ask_with(&token).0, 200);
}

#[test]
fn challenge_names_missing_scopes() {
    let rules = json!({ "rules": [{ "scopes": ["orders.write", "orders.admin"] }] });
    let mut mesh = Mesh::new(&inline_config(&[&key()], json!({}), rules));
    let (status, stream) = mesh.ask_with(&token(&key(), json!({})));
    assert_eq!((status, code(&stream).as_str()), (403, "scope-missing"));
    let headers = stream.reply.unwrap().headers;
    let challenge =
        r#"Bearer realm="meshseal", error="insufficient_scope", scope="orders.write orders.admin""#;
    let expected: (&[u8], &[u8]) = (b"www-authenticate", challenge.as_bytes());
    assert_eq!(meshseal_abi::Pairs::of(&headers).next(), Some(expected));
}

#[test]
fn checks_path_before_looking_for_token() {
    let rules = json!({ "rules": [{ "to": [{ "operation": { "paths": ["/orders/*"] } }] }] });
    let mut mesh = Mesh::new(&inline_config(&[&key()], json!({}), rules));
    let (status, stream) = mesh.ask(&[(":path", "/orders/../admin")]);
    assert_eq!(
        (status, code(&stream).as_str()),
        (400, "path-not-normalized")
    );
}

#[test]
fn public_route_still_rejects_bad_tokens() {
    let rules = json!({
        "rules": [{ "to": [{ "operation": { "paths": ["/orders/1"] } }], "allowMissing": true }],
    });
    let mut mesh = Mesh::new(&inline_config(&[&key()], json!({}), rules));
    assert_eq!((mesh.ask(&[]).0, mesh.count("anonymous")), (200, 1));
    assert_eq!(mesh.ask(&[(":path", "/orders/2")]).0, 401);
    assert_eq!(mesh.ask_with("not.a.token").0, 401);
}

#[test]
fn passes_cors_preflight_only_if_configured() {
    let preflight = [
        (":method", "OPTIONS"),
        ("origin", "https://a"),
        ("access-control-request-method", "GET"),
    ];
    let mut mesh = Mesh::new(&inline_config(&[&key()], json!({}), json!({})));
    assert_eq!(mesh.ask(&preflight).0, 401);
    let bypass = json!({ "bypassCorsPreflight": true });
    let mut mesh = Mesh::new(&inline_config(&[&key()], json!({}), bypass));
    assert_eq!((mesh.ask(&preflight).0, mesh.count("preflight")), (200, 1));
}

#[test]
fn answers_grpc_with_grpc_status() {
    let mut mesh = Mesh::new(&inline_config(&[&key()], json!({}), json!({})));
    let (_, stream) = mesh.ask(&[("content-type", "application/grpc")]);
    let reply = stream.reply.unwrap();
    assert_eq!(
        (reply.grpc_status, reply.body.as_str()),
        (16, "Authentication required: token-missing")
    );
}

#[test]
fn removes_spoofed_outputs_for_every_verdict() {
    let rest = json!({
        "bypassCorsPreflight": true,
        "rules": [
            { "to": [{ "operation": { "paths": ["/public"] } }], "allowMissing": true },
            { "scopes": ["orders.read"] },
        ],
    });
    let mut mesh = Mesh::new(&inline_config(&[&key()], sub_to_header(), rest.clone()));
    let spoofed = [
        ("x-sub", "root"),
        ("x-sub", "admin"),
        ("x_sub", "root"),
        ("X-Payload", "e30"),
        ("x-sub-2", "kept"),
    ];
    let with = |more: &[(&'static str, &'static str)]| [&spoofed[..], more].concat();
    let preflight = [
        (":method", "OPTIONS"),
        ("origin", "https://a"),
        ("access-control-request-method", "GET"),
    ];
    let mut shadow = rest;
    shadow["mode"] = json!("SHADOW");
    let mut shadow = Mesh::new(&inline_config(&[&key()], sub_to_header(), shadow));
    for (status, stream) in [
        mesh.ask(&with(&[(":path", "/public")])),
        mesh.ask(&with(&preflight)),
        shadow.ask(&with(&[])),
        shadow.ask(&with(&[("authorization", "Bearer not.a.token")])),
    ] {
        let left: Vec<&str> = stream
            .headers
            .iter()
            .map(|(name, _)| name.as_str())
            .filter(|name| name.contains("sub"))
            .collect();
        assert_eq!(
            (status, left, value(&stream, "X-Payload")),
            (200, vec!["x-sub-2"], None)
        );
    }
}

#[test]
fn shadow_mode_counts_rejections_and_passes_requests() {
    let mut mesh = Mesh::new(&inline_config(
        &[&key()],
        sub_to_header(),
        json!({ "mode": "SHADOW" }),
    ));
    let expired = token(&key(), json!({ "exp": START - 100 }));
    let (status, stream) = mesh.ask_with(&expired);
    assert_eq!((status, value(&stream, "x-sub")), (200, None));
    assert_eq!(
        value(&stream, "authorization"),
        Some(format!("Bearer {expired}").as_str())
    );
    assert_eq!(
        (
            mesh.count("shadow.token-expired"),
            mesh.count("rejected.token-expired")
        ),
        (1, 0)
    );
    let (_, stream) = mesh.ask_with(&token(&key(), json!({})));
    assert_eq!(
        (value(&stream, "x-sub"), value(&stream, "authorization")),
        (Some("checkout"), None)
    );
}

#[test]
fn logs_rejections_at_debug_without_token() {
    let config = inline_config(&[&key()], json!({}), json!({}));
    let token = token(&key(), json!({ "exp": START - 100 }));
    let mut quiet = Mesh::on(FakeHost::new().with_log_level(Level::Info), &config);
    quiet.ask_with(&token);
    assert!(quiet.host.lines(Level::Debug).is_empty());
    let mut mesh = Mesh::on(FakeHost::new().with_log_level(Level::Debug), &config);
    mesh.ask_with(&token);
    let lines = mesh.host.lines(Level::Debug);
    assert!(
        lines[0].contains("token-expired") && lines[0].contains("kid=\"a\""),
        "{lines:?}"
    );
    assert!(token.split('.').all(|part| !lines[0].contains(part)));
}

#[test]
fn probes_host_crypto_once_if_configured() {
    for (allowed, asked) in [(json!(true), 12), (json!(null), 12), (json!(false), 0)] {
        let host = FakeHost::new().with_judge(|_| Some(true));
        let config = inline_config(&[&key()], json!({}), json!({ "hostVerification": allowed }));
        let mut mesh = Mesh::on(host, &config);
        assert_eq!(mesh.host.judged(), 0, "no request waits for it");
        mesh.tick_after(1);
        mesh.tick_after(1);
        assert_eq!(mesh.host.judged(), asked, "{allowed}");
    }
}

#[test]
fn counts_omitted_output_and_logs_it_once() {
    let rule = json!({ "outputClaimToHeaders": [{ "header": "x-groups", "claim": "groups" }] });
    let mut mesh = Mesh::new(&inline_config(&[&key()], rule, json!({})));
    let groups: Vec<String> = (0..79)
        .map(|at| format!("80000000-0000-0000-0000-0000000000{at:02}"))
        .collect();
    let token = token(&key(), json!({ "groups": groups }));
    for _ in 0..2 {
        let (status, stream) = mesh.ask_with(&token);
        assert_eq!((status, value(&stream, "x-groups")), (200, None));
    }
    assert_eq!(
        (mesh.count("output.omitted"), mesh.count("accepted")),
        (2, 2)
    );
    let lines = mesh.host.lines(Level::Warn);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with(
        "output omitted header=x-groups bytes=4112 reason=\"longer than outputMaxValueBytes\""
    ));
    assert!(!lines[0].contains("80000000"));
}

#[test]
fn rejects_unsafe_output_if_configured() {
    let rule = json!({
        "onUnsafe": "REJECT",
        "outputClaimToHeaders": [{ "header": "x-a", "claim": "a" }],
    });
    let mut mesh = Mesh::new(&inline_config(&[&key()], rule, json!({})));
    let bad = token(&key(), json!({ "a": "a\nb" }));
    for _ in 0..2 {
        let (status, stream) = mesh.ask_with(&bad);
        assert_eq!(
            (status, code(&stream).as_str(), value(&stream, "x-a")),
            (403, "output-unsafe", None)
        );
    }
    assert_eq!(mesh.ask_with(&token(&key(), json!({ "a": "b" }))).0, 200);
    assert_eq!(
        (
            mesh.count("rejected.output-unsafe"),
            mesh.count("accepted"),
            mesh.count("output.omitted")
        ),
        (2, 1, 0)
    );
}
