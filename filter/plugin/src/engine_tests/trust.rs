//! Effects of bundles and fetched keys on requests.

use super::*;

#[test]
fn answers_503_until_first_bundle_arrives() {
    let mut mesh = Mesh::new(&bundle_config(json!({}), json!({})));
    let token = token(&key(), json!({}));
    let (status, stream) = mesh.ask_with(&token);
    assert_eq!((status, code(&stream).as_str()), (503, "keys-unavailable"));
    mesh.first_answer(&full(7, &[&key()]));
    assert_eq!(mesh.ask_with(&token).0, 200);
    assert_eq!(
        (
            mesh.count("bundle.version"),
            mesh.count("keys"),
            mesh.count("bundle.age_s")
        ),
        (7, 1, 0)
    );
    mesh.tick_after(60_000);
    assert_eq!(mesh.count("bundle.age_s"), 60);
}

#[test]
fn rejects_tokens_after_bundle_not_after() {
    let mut mesh = Mesh::new(&bundle_config(json!({}), json!({})));
    mesh.first_answer(&full(7, &[&key()]));
    mesh.host.advance(Duration::from_secs(3_600));
    let later = START + 3_600;
    let (status, stream) =
        mesh.ask_with(&token(&key(), json!({ "iat": later, "exp": later + 60 })));
    assert_eq!((status, code(&stream).as_str()), (503, "bundle-stale"));
}

#[test]
fn embedded_bundle_decides_before_first_poll() {
    let mut mesh = Mesh::new(&bundle_config(
        json!({ "embedded": full(3, &[&key()]) }),
        json!({}),
    ));
    assert_eq!(mesh.ask_with(&token(&key(), json!({}))).0, 200);
    mesh.tick_after(1);
    assert_eq!(mesh.host.last_call().path(), "/bundle?have=3&wait=0");
}

#[test]
fn checks_signature_and_age_of_embedded_bundle() {
    let foreign = bundle(
        &TestKey::new("pin", 98),
        &snapshot(1, &[]).full(times(START)),
    );
    let mut mesh = Mesh::unconfigured(FakeHost::new());
    assert!(!mesh.configure(&bundle_config(json!({ "embedded": foreign }), json!({}))));
    assert!(mesh.host.lines(Level::Error)[0].contains("trustBundle.embedded"));
    let old = bundle(&pin(), &snapshot(1, &[]).full(times(START - 7_200)));
    assert!(mesh.configure(&bundle_config(json!({ "embedded": old }), json!({}))));
    assert!(mesh.host.lines(Level::Warn)[0].contains("trustBundle.embedded"));
}

#[test]
fn new_configuration_inherits_bundle_and_fetched_keys() {
    for (config, answer) in [
        (bundle_config(json!({}), json!({})), full(7, &[&key()])),
        (remote_config(json!({})), jwks(&[&key()])),
    ] {
        let mut old = Mesh::new(&config);
        old.first_answer(&answer);
        let mut changed: Value = serde_json::from_str(&config).unwrap();
        changed["rules"] = json!([{ "scopes": ["orders.read"] }]);
        // Envoy removes the old root context before it configures the new one.
        let (host, next) = (old.host.clone(), old.next);
        drop(old);
        let mut new = Mesh {
            engine: Engine::new(host.clone(), 2),
            host,
            next,
        };
        assert!(new.configure(&changed.to_string()));
        assert_eq!(new.ask_with(&token(&key(), json!({}))).0, 200);
    }
}

/// Adds a second listener to the proxy. The issuer knows only the first one, so no receipt lists
/// the second.
fn beside(one: &Mesh, bundle: Value) -> Mesh {
    let mut other = Mesh {
        engine: Engine::new(one.host.clone(), 2),
        host: one.host.clone(),
        next: 500,
    };
    assert!(other.configure(&bundle_config(bundle, json!({}))));
    assert_eq!(other.ask_with(&token(&key(), json!({}))).0, 200);
    other
}

#[test]
fn all_listeners_share_each_acknowledged_bundle() {
    let mut one = with_bundle();
    let mut crowd: Vec<Mesh> = (0..20).map(|_| beside(&one, json!({}))).collect();
    one.host.enter(ROOT);
    one.engine.on_tick();
    let poll = one.host.last_call().token;
    let mut after = snapshot(8, &[&key()]);
    after.issuers.get_mut(ISSUER).unwrap().epochs.all = Some(START + 1);
    one.answer(poll, 200, &bundle(&pin(), &after.full(times(START))));
    for (at, other) in crowd.iter_mut().enumerate() {
        assert_eq!(
            other.ask_with(&token(&key(), json!({}))).0,
            401,
            "listener {at}"
        );
    }
}

#[test]
fn lent_bundle_keeps_its_staleness_bound() {
    let one = with_bundle();
    let mut other = beside(&one, json!({ "staleness": { "action": "SERVE" } }));
    one.host.advance(Duration::from_secs(3_600));
    let later = START + 3_600;
    let good = token(&key(), json!({ "iat": later, "exp": later + 60 }));
    let (status, stream) = other.ask_with(&good);
    assert_eq!((status, code(&stream).as_str()), (503, "bundle-stale"));
    other.first_answer(&bundle(&pin(), &snapshot(7, &[&key()]).full(times(later))));
    assert_eq!(other.ask_with(&good).0, 200, "its own now");
}

#[test]
fn lent_bundle_ends_beside_newer_unpinned_one() {
    let next = TestKey::new("next", 98);
    let pins = json!({ "keys": [pin().jwk(), next.jwk()] });
    let mut one = Mesh::new(&bundle_config(pins, json!({})));
    one.first_answer(&full(7, &[&key()]));
    let mut other = beside(&one, json!({}));
    one.host.enter(ROOT);
    one.engine.on_tick();
    let poll = one.host.last_call().token;
    let newer = bundle(&next, &snapshot(8, &[&key()]).full(times(START)));
    one.answer(poll, 200, &newer);
    let good = token(&key(), json!({}));
    assert_eq!(one.ask_with(&good).0, 200);
    let (status, stream) = other.ask_with(&good);
    assert_eq!((status, code(&stream).as_str()), (503, "bundle-stale"));
}

#[test]
fn configuration_with_other_pins_inherits_nothing() {
    let mut old = Mesh::new(&bundle_config(json!({}), json!({})));
    old.first_answer(&full(7, &[&key()]));
    old.engine = Engine::new(old.host.clone(), 2);
    assert!(old.configure(&bundle_config(
        json!({ "keys": [TestKey::new("other", 97).jwk()] }),
        json!({})
    )));
    assert_eq!(old.ask_with(&token(&key(), json!({}))).0, 503);
}

#[test]
fn fetched_keys_expire_at_maximum_age() {
    for (staleness, after) in [(json!(null), 503), (json!({ "action": "SERVE" }), 200)] {
        let mut mesh = Mesh::new(&remote_config(
            json!({ "refreshInterval": "20s", "staleness": staleness }),
        ));
        mesh.first_answer(&jwks(&[&key()]));
        let good = token(&key(), json!({}));
        assert_eq!(mesh.ask_with(&good).0, 200);
        // None of these responses confirms the last good keys, so the keys keep ageing.
        for (status, body) in [
            (500, ""),
            (200, "<html>"),
            (200, r#"{"keys":[]}"#),
            (404, ""),
            (200, "{}"),
            (429, ""),
        ] {
            mesh.tick_after(9_500);
            let call = mesh.host.last_call();
            mesh.answer(call.token, status, body);
        }
        assert_eq!(
            mesh.ask_with(&good).0,
            200,
            "57 s after the last good fetch"
        );
        mesh.tick_after(4_000);
        let (status, stream) = mesh.ask_with(&good);
        assert_eq!(status, after);
        if status == 503 {
            assert_eq!(code(&stream), "keys-stale");
            assert!(
                mesh.host
                    .lines(Level::Warn)
                    .iter()
                    .any(|line| line.contains("jwtRules[0]: fetched keys are older"))
            );
            mesh.tick_after(60_000);
            mesh.answer(mesh.host.last_call().token, 200, &jwks(&[&key()]));
            assert_eq!(mesh.ask_with(&good).0, 200, "confirmed again");
        }
    }
}

#[test]
fn fetched_keys_expire_without_reachable_cluster() {
    let mut mesh = Mesh::new(&remote_config(json!({ "refreshInterval": "10s" })));
    mesh.first_answer(&jwks(&[&key()]));
    mesh.host.clone().with_unreachable("idp");
    for _ in 0..31 {
        mesh.tick_after(1_000);
    }
    assert_eq!(mesh.ask_with(&token(&key(), json!({}))).0, 503);
}

#[test]
fn rejects_request_with_unremovable_forged_output() {
    let host = FakeHost::new().that_keeps_headers();
    let mut mesh = Mesh::on(host, &inline_config(&[&key()], sub_to_header(), json!({})));
    let bearer = format!("Bearer {}", token(&key(), json!({})));
    assert_eq!(
        mesh.ask(&[("authorization", &bearer), ("x-sub", "root")]).0,
        503
    );
}

fn from_header(name: &str, prefix: &str) -> Value {
    json!({ "fromHeaders": [{ "name": name, "prefix": prefix }] })
}

#[test]
fn rejects_request_with_unremovable_token() {
    let token = token(&key(), json!({}));
    let (bearer, alone, cookies) = (
        format!("Bearer {token}"),
        format!("s={token}"),
        format!("a=b; s={token}"),
    );
    let (path, items) = (format!("/?t={token}"), format!("a, jwt:{token}"));
    for (place, name, value) in [
        (
            from_header("authorization", "Bearer "),
            "authorization",
            &bearer,
        ),
        (from_header("x-token", ""), "x-token", &token),
        (from_header("x-token", "jwt:"), "x-token", &items),
        (json!({ "fromCookies": ["s"] }), "cookie", &alone),
        (json!({ "fromCookies": ["s"] }), "cookie", &cookies),
        (json!({ "fromParams": ["t"] }), ":path", &path),
    ] {
        for (mode, forwards, expected) in [
            ("ENFORCE", false, 503),
            ("SHADOW", false, 503),
            ("ENFORCE", true, 200),
        ] {
            let mut rule = place.clone();
            merge(&mut rule, json!({ "forwardOriginalToken": forwards }));
            let host = FakeHost::new().that_keeps_headers();
            let mode = json!({ "mode": mode });
            let mut mesh = Mesh::on(host, &inline_config(&[&key()], rule, mode));
            let (status, stream) = mesh.ask(&[(name, value)]);
            assert_eq!(status, expected, "{place}");
            assert_eq!(
                stream
                    .reply
                    .is_some_and(|reply| reply.body.contains("keys-unavailable")),
                !forwards
            );
            assert_eq!(
                mesh.host.lines(Level::Error).len(),
                usize::from(!forwards),
                "{place}"
            );
        }
    }
}
