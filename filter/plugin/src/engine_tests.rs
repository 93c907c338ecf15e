use super::*;
use crate::config::registry;
use crate::host::fake::{FakeHost, Stream};
use crate::testing::{
    ISSUER, START, TestKey, bundle_config, full, inline_config, jwks, pin, remote_config, snapshot, times,
};
use serde_json::{Value, json};

const ROOT: u32 = 1;

/// A proxy with one root context, and requests numbered from 100.
struct Mesh {
    host: FakeHost,
    engine: Engine<FakeHost>,
    next: u32,
}

impl Mesh {
    fn unconfigured(host: FakeHost) -> Self {
        registry::forget();
        host.enter(ROOT);
        Self { engine: Engine::new(host.clone(), ROOT), host, next: 100 }
    }

    fn new(config: &str) -> Self {
        Self::on(FakeHost::new(), config)
    }

    fn on(host: FakeHost, config: &str) -> Self {
        let mut mesh = Self::unconfigured(host);
        assert!(mesh.configure(config), "{:?}", mesh.host.lines(Level::Error));
        mesh
    }

    fn configure(&mut self, config: &str) -> bool {
        self.host.enter(ROOT);
        self.engine.configure(self.host.configure(config))
    }

    fn tick_after(&mut self, millis: u64) {
        self.host.advance(Duration::from_millis(millis));
        self.host.enter(ROOT);
        self.engine.on_tick();
    }

    /// Answers the call `token`.
    fn answer(&mut self, token: u32, status: u16, body: &str) {
        self.host.enter(ROOT);
        self.host.answer(status, body.as_bytes());
        self.engine.on_call_finished(token, body.len());
    }

    /// The first tick and the answer to its call.
    fn first_answer(&mut self, body: &str) {
        self.tick_after(1);
        self.answer(self.host.last_call().token, 200, body);
    }

    fn send(&mut self, headers: &[(&str, &str)]) -> (u32, Flow) {
        let id = self.next;
        self.next += 1;
        let mut all = vec![(":method", "GET"), (":authority", "orders"), (":path", "/orders/1")];
        all.retain(|(name, _)| headers.iter().all(|(other, _)| other != name));
        all.extend(headers);
        self.host.request(id, &all);
        (id, self.engine.on_request(id))
    }

    /// The status it was answered with, or 200 if it went on; and the request as it then was.
    fn ask(&mut self, headers: &[(&str, &str)]) -> (u16, Stream) {
        let (id, flow) = self.send(headers);
        let stream = self.host.stream(id);
        match flow {
            Flow::Continue => (200, stream),
            Flow::Answered => (stream.reply.as_ref().unwrap().status, stream),
            Flow::Held(_) => panic!("held"),
        }
    }

    fn ask_with(&mut self, token: &str) -> (u16, Stream) {
        self.ask(&[("authorization", &format!("Bearer {token}"))])
    }

    fn send_with(&mut self, token: &str) -> (u32, Flow) {
        self.send(&[("authorization", &format!("Bearer {token}"))])
    }

    fn count(&self, name: &str) -> u64 {
        self.host.metric(&format!("meshseal.{name}"))
    }
}

fn key() -> TestKey {
    TestKey::new("a", 1)
}

fn sub_to_header() -> Value {
    json!({ "outputClaimToHeaders": [{ "header": "x-sub", "claim": "sub" }], "outputPayloadToHeader": "x-payload" })
}

fn value<'s>(stream: &'s Stream, name: &str) -> Option<&'s str> {
    let found = stream.headers.iter().find(|(key, _)| key == name);
    found.map(|(_, value)| std::str::from_utf8(value).unwrap())
}

fn code(stream: &Stream) -> String {
    let body: Value = serde_json::from_str(&stream.reply.as_ref().unwrap().body).unwrap();
    body["code"].as_str().unwrap().to_owned()
}

// Configuration.

#[test]
fn before_a_configuration_everything_is_refused() {
    let mut mesh = Mesh::unconfigured(FakeHost::new());
    let (status, stream) = mesh.ask_with(&key().token(json!({})));
    assert_eq!((status, code(&stream).as_str()), (503, "keys-unavailable"));
}

#[test]
fn every_mistake_of_a_configuration_is_told_and_the_old_one_stays() {
    let mut mesh = Mesh::new(&inline_config(&[&key()], json!({}), json!({})));
    assert!(!mesh.configure(&inline_config(
        &[&key()],
        json!({ "audiences": [], "issuer": "" }),
        json!({ "mode": "OFF" })
    )));
    let lines = mesh.host.lines(Level::Error);
    for path in ["mode", "jwtRules[0].audiences", "jwtRules[0].issuer"] {
        assert!(lines.iter().any(|line| line.contains(path)), "{path} in {lines:?}");
    }
    assert_eq!(mesh.ask_with(&key().token(json!({}))).0, 200);
}

#[test]
fn no_configuration_garbage_and_a_huge_one_are_refused() {
    let mut mesh = Mesh::unconfigured(FakeHost::new());
    assert!(!mesh.configure("") && !mesh.configure("{"));
    assert!(!mesh.engine.configure(limits::MAX_CONFIG_BYTES + 1));
    assert_eq!(mesh.host.lines(Level::Error).len(), 3);
}

#[test]
fn calls_begin_with_the_first_tick_which_comes_at_once() {
    let mut mesh = Mesh::new(&bundle_config(json!({}), json!({})));
    assert!(mesh.host.calls().is_empty());
    assert_eq!(mesh.host.tick_period(), Some(Duration::from_millis(1)));
    mesh.tick_after(1);
    assert_eq!(mesh.host.calls().len(), 1);
}

#[test]
fn the_root_context_sleeps_when_there_is_nothing_to_do() {
    let mut mesh = Mesh::new(&bundle_config(json!({}), json!({})));
    mesh.tick_after(1);
    assert_eq!(mesh.host.tick_period(), Some(Duration::from_secs(1)));
}

// Verdicts.

#[test]
fn a_good_token_passes_and_the_upstream_sees_its_claims_instead() {
    let mut mesh = Mesh::new(&inline_config(&[&key()], sub_to_header(), json!({})));
    let token = key().token(json!({}));
    let (status, stream) = mesh.ask_with(&token);
    assert_eq!((status, value(&stream, "x-sub")), (200, Some("checkout")));
    assert_eq!(value(&stream, "x-payload"), token.split('.').nth(1));
    assert_eq!(value(&stream, "authorization"), None);
    assert_eq!((mesh.count("accepted"), mesh.host.records("meshseal.validation_us")), (1, 1));
}

#[test]
fn the_token_is_forwarded_if_the_rule_says_so() {
    let mut mesh = Mesh::new(&inline_config(&[&key()], json!({ "forwardOriginalToken": true }), json!({})));
    let token = key().token(json!({}));
    let (_, stream) = mesh.ask_with(&token);
    assert_eq!(value(&stream, "authorization"), Some(format!("Bearer {token}").as_str()));
}

#[test]
fn without_a_token_nothing_is_validated_and_the_answer_is_401() {
    let mut mesh = Mesh::new(&inline_config(&[&key()], json!({}), json!({})));
    let (status, stream) = mesh.ask(&[]);
    assert_eq!((status, code(&stream).as_str()), (401, "token-missing"));
    assert_eq!((mesh.count("rejected.token-missing"), mesh.host.records("meshseal.validation_us")), (1, 0));
}

#[test]
fn a_bad_token_is_refused_and_the_upstream_sees_nothing() {
    let mut mesh = Mesh::new(&inline_config(&[&key()], sub_to_header(), json!({})));
    let (status, stream) = mesh.ask_with(&key().token(json!({ "exp": START - 100 })));
    assert_eq!((status, code(&stream).as_str()), (401, "token-expired"));
    assert_eq!((value(&stream, "x-sub"), mesh.count("rejected.token-expired")), (None, 1));
}

#[test]
fn a_token_from_where_its_issuer_is_not_looked_for_is_refused() {
    let other = json!({
        "issuer": "https://other.example", "audiences": ["o"], "fromCookies": ["session"],
        "jwks": { "keys": [TestKey::new("b", 2).jwk()] },
    });
    let mut config: Value = serde_json::from_str(&inline_config(&[&key()], json!({}), json!({}))).unwrap();
    config["jwtRules"].as_array_mut().unwrap().push(other);
    let mut mesh = Mesh::new(&config.to_string());
    let token = key().token(json!({}));
    let (status, stream) = mesh.ask(&[("cookie", &format!("session={token}"))]);
    assert_eq!((status, code(&stream).as_str()), (401, "issuer-unknown"));
    assert_eq!(mesh.ask_with(&token).0, 200);
}

#[test]
fn a_missing_scope_is_named() {
    let rules = json!({ "rules": [{ "scopes": ["orders.write", "orders.admin"] }] });
    let mut mesh = Mesh::new(&inline_config(&[&key()], json!({}), rules));
    let (status, stream) = mesh.ask_with(&key().token(json!({})));
    assert_eq!((status, code(&stream).as_str()), (403, "scope-missing"));
    let (_, challenge) = &stream.reply.unwrap().headers[0];
    assert_eq!(challenge, r#"Bearer error="insufficient_scope", scope="orders.write orders.admin""#);
}

#[test]
fn the_path_is_checked_before_the_token_is_looked_for() {
    let rules = json!({ "rules": [{ "to": [{ "operation": { "paths": ["/orders/*"] } }] }] });
    let mut mesh = Mesh::new(&inline_config(&[&key()], json!({}), rules));
    let (status, stream) = mesh.ask(&[(":path", "/orders/../admin")]);
    assert_eq!((status, code(&stream).as_str()), (400, "path-not-normalized"));
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
    let preflight = [(":method", "OPTIONS"), ("origin", "https://a"), ("access-control-request-method", "GET")];
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
    assert_eq!((reply.grpc_status, reply.body.as_str()), (16, "Authentication required: token-missing"));
}

#[test]
fn spoofed_outputs_are_removed_whatever_the_verdict() {
    let rest = json!({
        "bypassCorsPreflight": true,
        "rules": [{ "to": [{ "operation": { "paths": ["/public"] } }], "allowMissing": true }, { "scopes": ["orders.read"] }],
    });
    let mut mesh = Mesh::new(&inline_config(&[&key()], sub_to_header(), rest.clone()));
    let spoofed = [("x-sub", "root"), ("x-sub", "admin"), ("x_sub", "root"), ("X-Payload", "e30"), ("x-sub-2", "kept")];
    let with = |more: &[(&'static str, &'static str)]| [&spoofed[..], more].concat();
    let preflight = [(":method", "OPTIONS"), ("origin", "https://a"), ("access-control-request-method", "GET")];
    let mut shadow = rest;
    shadow["mode"] = json!("SHADOW");
    let mut shadow = Mesh::new(&inline_config(&[&key()], sub_to_header(), shadow));
    for (status, stream) in [
        mesh.ask(&with(&[(":path", "/public")])),
        mesh.ask(&with(&preflight)),
        shadow.ask(&with(&[])),
        shadow.ask(&with(&[("authorization", "Bearer not.a.token")])),
    ] {
        let left: Vec<&str> =
            stream.headers.iter().map(|(name, _)| name.as_str()).filter(|name| name.contains("sub")).collect();
        assert_eq!((status, left, value(&stream, "X-Payload")), (200, vec!["x-sub-2"], None));
    }
}

#[test]
fn shadow_mode_counts_what_it_would_refuse_and_lets_it_pass_as_it_is() {
    let mut mesh = Mesh::new(&inline_config(&[&key()], sub_to_header(), json!({ "mode": "SHADOW" })));
    let expired = key().token(json!({ "exp": START - 100 }));
    let (status, stream) = mesh.ask_with(&expired);
    assert_eq!((status, value(&stream, "x-sub")), (200, None));
    assert_eq!(value(&stream, "authorization"), Some(format!("Bearer {expired}").as_str()));
    assert_eq!((mesh.count("shadow.token-expired"), mesh.count("rejected.token-expired")), (1, 0));
    let (_, stream) = mesh.ask_with(&key().token(json!({})));
    assert_eq!((value(&stream, "x-sub"), value(&stream, "authorization")), (Some("checkout"), None));
}

#[test]
fn logs_name_what_was_refused_at_debug_level_only_and_never_the_token() {
    let config = inline_config(&[&key()], json!({}), json!({}));
    let token = key().token(json!({ "exp": START - 100 }));
    let mut quiet = Mesh::on(FakeHost::new().with_log_level(Level::Info), &config);
    quiet.ask_with(&token);
    assert!(quiet.host.lines(Level::Debug).is_empty());
    let mut mesh = Mesh::on(FakeHost::new().with_log_level(Level::Debug), &config);
    mesh.ask_with(&token);
    let lines = mesh.host.lines(Level::Debug);
    assert!(lines[0].contains("token-expired") && lines[0].contains("kid=\"a\""), "{lines:?}");
    assert!(token.split('.').all(|part| !lines[0].contains(part)));
}

// Trust.

#[test]
fn what_cannot_be_known_yet_is_a_503_and_known_once_the_bundle_is_there() {
    let mut mesh = Mesh::new(&bundle_config(json!({}), json!({})));
    let token = key().token(json!({}));
    let (status, stream) = mesh.ask_with(&token);
    assert_eq!((status, code(&stream).as_str()), (503, "keys-unavailable"));
    mesh.first_answer(&full(7, &[&key()]));
    assert_eq!(mesh.ask_with(&token).0, 200);
    assert_eq!((mesh.count("bundle.version"), mesh.count("keys"), mesh.count("bundle.age_s")), (7, 1, 0));
    mesh.tick_after(60_000);
    assert_eq!(mesh.count("bundle.age_s"), 60);
}

#[test]
fn a_bundle_past_its_not_after_is_not_decided_by() {
    let mut mesh = Mesh::new(&bundle_config(json!({}), json!({})));
    mesh.first_answer(&full(7, &[&key()]));
    mesh.host.advance(Duration::from_secs(3_600));
    let later = START + 3_600;
    let (status, stream) = mesh.ask_with(&key().token(json!({ "iat": later, "exp": later + 60 })));
    assert_eq!((status, code(&stream).as_str()), (503, "bundle-stale"));
}

#[test]
fn an_embedded_bundle_decides_before_the_issuer_has_answered() {
    let mut mesh = Mesh::new(&bundle_config(json!({ "embedded": full(3, &[&key()]) }), json!({})));
    assert_eq!(mesh.ask_with(&key().token(json!({}))).0, 200);
    mesh.tick_after(1);
    assert_eq!(mesh.host.last_call().path(), "/bundle?have=3&wait=0");
}

#[test]
fn an_embedded_bundle_of_another_signer_is_a_mistake_and_an_old_one_a_warning() {
    let foreign = TestKey::new("pin", 98).bundle(&snapshot(1, &[]).full(times(START)));
    let mut mesh = Mesh::unconfigured(FakeHost::new());
    assert!(!mesh.configure(&bundle_config(json!({ "embedded": foreign }), json!({}))));
    assert!(mesh.host.lines(Level::Error)[0].contains("trustBundle.embedded"));
    let old = pin().bundle(&snapshot(1, &[]).full(times(START - 7_200)));
    assert!(mesh.configure(&bundle_config(json!({ "embedded": old }), json!({}))));
    assert!(mesh.host.lines(Level::Warn)[0].contains("trustBundle.embedded"));
}

#[test]
fn another_configuration_in_the_same_vm_takes_over_bundle_and_fetched_keys() {
    for (config, answer) in
        [(bundle_config(json!({}), json!({})), full(7, &[&key()])), (remote_config(json!({})), jwks(&[&key()]))]
    {
        let mut old = Mesh::new(&config);
        old.first_answer(&answer);
        let mut changed: Value = serde_json::from_str(&config).unwrap();
        changed["rules"] = json!([{ "scopes": ["orders.read"] }]);
        // The old root context is gone before the new one is configured.
        let (host, next) = (old.host.clone(), old.next);
        drop(old);
        let mut new = Mesh { engine: Engine::new(host.clone(), 2), host, next };
        assert!(new.configure(&changed.to_string()));
        assert_eq!(new.ask_with(&key().token(json!({}))).0, 200);
    }
}

#[test]
fn a_configuration_with_other_pins_takes_over_nothing() {
    let mut old = Mesh::new(&bundle_config(json!({}), json!({})));
    old.first_answer(&full(7, &[&key()]));
    old.engine = Engine::new(old.host.clone(), 2);
    assert!(old.configure(&bundle_config(json!({ "keys": [TestKey::new("other", 97).jwk()] }), json!({}))));
    assert_eq!(old.ask_with(&key().token(json!({}))).0, 503);
}

// Verdicts remembered.

#[test]
fn a_token_seen_before_is_not_validated_again() {
    let mut mesh = Mesh::new(&inline_config(&[&key()], sub_to_header(), json!({})));
    let token = key().token(json!({}));
    assert_eq!(value(&mesh.ask_with(&token).1, "x-sub"), value(&mesh.ask_with(&token).1, "x-sub"));
    assert_eq!((mesh.count("accepted"), mesh.host.records("meshseal.validation_us")), (2, 1));
}

#[test]
fn a_bad_signature_seen_before_is_not_verified_again() {
    let mut mesh = Mesh::new(&inline_config(&[&key()], json!({}), json!({})));
    let forged = TestKey::new("a", 9).token(json!({}));
    assert_eq!((mesh.ask_with(&forged).0, mesh.ask_with(&forged).0), (401, 401));
    assert_eq!((mesh.count("rejected.signature-invalid"), mesh.host.records("meshseal.validation_us")), (2, 1));
}

#[test]
fn a_remembered_token_is_not_good_beyond_its_end() {
    let mut mesh = Mesh::new(&inline_config(&[&key()], json!({}), json!({})));
    let token = key().token(json!({}));
    assert_eq!(mesh.ask_with(&token).0, 200);
    mesh.host.advance(Duration::from_secs(290 + 30));
    assert_eq!(code(&mesh.ask_with(&token).1), "token-expired");
}

#[test]
fn a_remembered_token_is_forgotten_when_it_is_revoked() {
    let mut mesh = with_bundle();
    let token = key().token(json!({}));
    assert_eq!(mesh.ask_with(&token).0, 200);
    let (before, mut after) = (snapshot(7, &[&key()]), snapshot(8, &[&key()]));
    after.issuers.get_mut(ISSUER).unwrap().revoked.insert(7);
    mesh.answer(mesh.host.last_call().token, 200, &pin().bundle(&after.delta_from(&before, times(START))));
    assert_eq!(code(&mesh.ask_with(&token).1), "token-revoked");
}

#[test]
fn a_remembered_token_must_still_be_allowed_where_it_is_used() {
    let rules = json!({ "rules": [{ "to": [{ "operation": { "paths": ["/orders/1"] } }] }] });
    let mut mesh = Mesh::new(&inline_config(&[&key()], json!({}), rules));
    let token = key().token(json!({}));
    assert_eq!(mesh.ask_with(&token).0, 200);
    let bearer = format!("Bearer {token}");
    assert_eq!(mesh.ask(&[(":path", "/orders/2"), ("authorization", &bearer)]).0, 403);
}

// Waiting for a newer key.

fn new_key() -> TestKey {
    TestKey::new("b", 2)
}

fn with_bundle() -> Mesh {
    let mut mesh = Mesh::new(&bundle_config(json!({}), json!({})));
    mesh.first_answer(&full(7, &[&key()]));
    mesh
}

#[test]
fn a_request_with_a_new_key_waits_for_the_bundle_that_has_it() {
    let mut mesh = with_bundle();
    let (id, flow) = mesh.send_with(&new_key().token(json!({})));
    assert!(matches!(flow, Flow::Held(_)));
    assert_eq!(mesh.host.tick_period(), Some(SOON));
    let calls = mesh.host.calls().len();
    mesh.tick_after(1);
    let urgent = mesh.host.last_call();
    assert_eq!((mesh.host.calls().len(), urgent.path(), urgent.context), (calls + 1, "/bundle?have=7&wait=0", ROOT));
    mesh.answer(urgent.token, 200, &full(8, &[&key(), &new_key()]));
    let stream = mesh.host.stream(id);
    assert!(stream.resumed && stream.reply.is_none() && value(&stream, "authorization").is_none());
    assert_eq!((mesh.count("waited"), mesh.count("accepted"), mesh.host.context()), (1, 1, ROOT));
    drop(flow);
}

#[test]
fn the_long_poll_serves_those_who_wait_too() {
    let mut mesh = with_bundle();
    let regular = mesh.host.last_call();
    let (id, _flow) = mesh.send_with(&new_key().token(json!({})));
    mesh.answer(regular.token, 200, &full(8, &[&key(), &new_key()]));
    assert!(mesh.host.stream(id).resumed);
}

#[test]
fn a_key_that_does_not_come_is_refused_within_200_ms() {
    let mut mesh = with_bundle();
    let (id, _flow) = mesh.send_with(&new_key().token(json!({})));
    let mut waited = 0;
    while mesh.host.stream(id).reply.is_none() {
        let period = u64::try_from(mesh.host.tick_period().unwrap().as_millis()).unwrap();
        mesh.tick_after(period);
        waited += period;
    }
    assert!(waited <= 200, "{waited} ms");
    assert_eq!(code(&mesh.host.stream(id)), "key-unknown");
    assert_eq!(mesh.host.tick_period(), Some(IDLE_TICK));
}

#[test]
fn one_question_serves_all_who_wait_and_there_is_room_for_so_many() {
    let mut mesh = with_bundle();
    let calls = mesh.host.calls().len();
    let mut held: Vec<(u32, Flow)> =
        (0..waiters::MAX_WAITING).map(|_| mesh.send_with(&new_key().token(json!({})))).collect();
    assert!(held.iter().all(|(_, flow)| matches!(flow, Flow::Held(_))));
    assert_eq!(mesh.ask_with(&new_key().token(json!({}))).0, 401, "no room");
    mesh.tick_after(1);
    assert_eq!(mesh.host.calls().len(), calls + 1);
    mesh.answer(mesh.host.last_call().token, 200, &full(8, &[&new_key()]));
    assert!(held.drain(..).all(|(id, _)| mesh.host.stream(id).resumed));
}

#[test]
fn a_flood_of_invented_keys_is_refused_at_once_when_the_budget_is_spent() {
    let mut mesh = with_bundle();
    let calls = mesh.host.calls().len();
    for _ in 0..4 {
        let _ended = mesh.send_with(&new_key().token(json!({})));
        mesh.tick_after(1);
        mesh.answer(mesh.host.last_call().token, 500, "");
    }
    assert_eq!(mesh.ask_with(&new_key().token(json!({}))).0, 401);
    assert_eq!(mesh.host.calls().len(), calls + 4);
}

#[test]
fn a_stream_that_ends_while_it_waits_is_left_alone() {
    let mut mesh = with_bundle();
    let (id, flow) = mesh.send_with(&new_key().token(json!({})));
    mesh.host.end_stream(id);
    drop(flow);
    mesh.tick_after(500);
    mesh.tick_after(500);
    assert_eq!(mesh.count("rejected.key-unknown"), 0);
}

#[test]
fn keys_of_the_configuration_cannot_become_newer_so_nobody_waits_for_them() {
    let mut mesh = Mesh::new(&inline_config(&[&key()], json!({}), json!({})));
    let (status, stream) = mesh.ask_with(&new_key().token(json!({})));
    assert_eq!((status, code(&stream).as_str()), (401, "key-unknown"));
}

#[test]
fn a_provider_is_asked_again_for_an_unknown_key() {
    let mut mesh = Mesh::new(&remote_config(json!({})));
    mesh.first_answer(&jwks(&[&key()]));
    assert_eq!(mesh.ask_with(&key().token(json!({}))).0, 200);
    let (id, _flow) = mesh.send_with(&new_key().token(json!({})));
    mesh.tick_after(1);
    mesh.answer(mesh.host.last_call().token, 200, &jwks(&[&key(), &new_key()]));
    assert!(mesh.host.stream(id).resumed);
}

#[test]
fn who_has_waited_for_news_that_do_not_help_does_not_wait_again() {
    let mut mesh = with_bundle();
    let (id, _flow) = mesh.send_with(&new_key().token(json!({})));
    mesh.tick_after(1);
    mesh.answer(mesh.host.last_call().token, 200, &full(8, &[&key()]));
    assert_eq!(code(&mesh.host.stream(id)), "key-unknown");
}

#[test]
fn shadow_mode_asks_for_the_key_but_holds_nothing_up() {
    let mut mesh = Mesh::new(&bundle_config(json!({}), json!({ "mode": "SHADOW" })));
    mesh.first_answer(&full(7, &[&key()]));
    let (_, flow) = mesh.send_with(&new_key().token(json!({})));
    assert!(matches!(flow, Flow::Continue));
    mesh.tick_after(1);
    assert_eq!((mesh.host.last_call().path(), mesh.count("shadow.key-unknown")), ("/bundle?have=7&wait=0", 1));
}

#[test]
fn those_who_wait_are_decided_by_a_new_configuration_of_their_context() {
    let mut mesh = with_bundle();
    let (id, _flow) = mesh.send_with(&new_key().token(json!({})));
    assert!(mesh.configure(&inline_config(&[&new_key()], json!({}), json!({}))));
    assert!(mesh.host.stream(id).resumed);
}
