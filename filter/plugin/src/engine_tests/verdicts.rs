//! What becomes of a request.

use super::*;

#[test]
fn a_good_token_passes_and_the_upstream_sees_its_claims_instead() {
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
fn accepted_requests_are_told_at_the_next_tick() {
    let mut mesh = Mesh::new(&inline_config(&[&key()], json!({}), json!({})));
    mesh.ask_with(&token(&key(), json!({})));
    mesh.tick_after(1_000);
    assert_eq!(mesh.count("accepted"), 1);
}

#[test]
fn the_token_is_forwarded_if_the_rule_says_so() {
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
fn without_a_token_nothing_is_validated_and_the_answer_is_401() {
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
fn a_bad_token_is_refused_and_the_upstream_sees_nothing() {
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
fn copies_that_the_proxy_has_joined_are_called_repeated_whatever_else_is_wrong() {
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
fn a_token_from_where_its_issuer_is_not_looked_for_is_refused() {
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
fn a_missing_scope_is_named() {
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
fn the_path_is_checked_before_the_token_is_looked_for() {
    let rules = json!({ "rules": [{ "to": [{ "operation": { "paths": ["/orders/*"] } }] }] });
    let mut mesh = Mesh::new(&inline_config(&[&key()], json!({}), rules));
    let (status, stream) = mesh.ask(&[(":path", "/orders/../admin")]);
    assert_eq!(
        (status, code(&stream).as_str()),
        (400, "path-not-normalized")
    );
}

#[test]
fn a_public_route_needs_no_token_but_takes_no_bad_one() {
    let rules = json!({ "rules": [{ "to": [{ "operation": { "paths": ["/orders/1"] } }], "allowMissing": true }] });
    let mut mesh = Mesh::new(&inline_config(&[&key()], json!({}), rules));
    assert_eq!((mesh.ask(&[]).0, mesh.count("anonymous")), (200, 1));
    assert_eq!(mesh.ask(&[(":path", "/orders/2")]).0, 401);
    assert_eq!(mesh.ask_with("not.a.token").0, 401);
}

#[test]
fn a_preflight_passes_where_that_is_configured_only() {
    let preflight = [
        (":method", "OPTIONS"),
        ("origin", "https://a"),
        ("access-control-request-method", "GET"),
    ];
    let config = |rest| inline_config(&[&key()], json!({}), rest);
    assert_eq!(Mesh::new(&config(json!({}))).ask(&preflight).0, 401);
    let mut mesh = Mesh::new(&config(json!({ "bypassCorsPreflight": true })));
    assert_eq!((mesh.ask(&preflight).0, mesh.count("preflight")), (200, 1));
}

#[test]
fn grpc_is_answered_in_its_own_terms() {
    let mut mesh = Mesh::new(&inline_config(&[&key()], json!({}), json!({})));
    let (_, stream) = mesh.ask(&[("content-type", "application/grpc")]);
    let reply = stream.reply.unwrap();
    assert_eq!(
        (reply.grpc_status, reply.body.as_str()),
        (16, "Authentication required: token-missing")
    );
}

#[test]
fn spoofed_outputs_are_removed_whatever_the_verdict() {
    let rest = json!({
        "bypassCorsPreflight": true,
        "rules": [{ "to": [{ "operation": { "paths": ["/public"] } }], "allowMissing": true }, { "scopes": ["orders.read"] }],
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
fn shadow_mode_counts_what_it_would_refuse_and_lets_it_pass_as_it_is() {
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
fn logs_name_what_was_refused_at_debug_level_only_and_never_the_token() {
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
fn the_host_is_asked_what_it_can_once_and_only_if_the_configuration_lets_it() {
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
fn omitted_output_is_counted_and_logged_once() {
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
fn unsafe_output_rejects_if_the_rule_says_so() {
    let rule = json!({ "onUnsafe": "REJECT", "outputClaimToHeaders": [{ "header": "x-a", "claim": "a" }] });
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
