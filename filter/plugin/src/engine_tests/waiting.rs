//! Requests that wait for a newer key.

use super::*;

fn new_key() -> TestKey {
    TestKey::new("b", 2)
}

#[test]
fn a_request_with_a_new_key_waits_for_the_bundle_that_has_it() {
    let mut mesh = with_bundle();
    let (id, flow) = mesh.send_with(&token(&new_key(), json!({})));
    assert!(matches!(flow, Flow::Held));
    assert_eq!(mesh.host.tick_period(), Some(SOON));
    let calls = mesh.host.calls().len();
    mesh.tick_after(1);
    let urgent = mesh.host.last_call();
    assert_eq!(
        (mesh.host.calls().len(), urgent.path(), urgent.context),
        (calls + 1, "/bundle?have=7&wait=0", ROOT)
    );
    mesh.answer(urgent.token, 200, &full(8, &[&key(), &new_key()]));
    let stream = mesh.host.stream(id);
    assert!(stream.resumed && stream.reply.is_none() && value(&stream, "authorization").is_none());
    assert_eq!(
        (
            mesh.count("waited"),
            mesh.count("accepted"),
            mesh.host.context()
        ),
        (1, 1, ROOT)
    );
}

#[test]
fn the_long_poll_serves_those_who_wait_too() {
    let mut mesh = with_bundle();
    let regular = mesh.host.last_call();
    let (id, _flow) = mesh.send_with(&token(&new_key(), json!({})));
    mesh.answer(regular.token, 200, &full(8, &[&key(), &new_key()]));
    assert!(mesh.host.stream(id).resumed);
}

#[test]
fn a_key_that_does_not_come_is_refused_within_200_ms() {
    let mut mesh = with_bundle();
    let (id, _flow) = mesh.send_with(&token(&new_key(), json!({})));
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
    let mut held: Vec<(u32, Flow)> = (0..waiters::MAX_WAITING)
        .map(|_| mesh.send_with(&token(&new_key(), json!({}))))
        .collect();
    assert!(held.iter().all(|(_, flow)| matches!(flow, Flow::Held)));
    assert_eq!(
        mesh.ask_with(&token(&new_key(), json!({}))).0,
        401,
        "no room"
    );
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
        let _ended = mesh.send_with(&token(&new_key(), json!({})));
        mesh.tick_after(1);
        mesh.answer(mesh.host.last_call().token, 500, "");
    }
    assert_eq!(mesh.ask_with(&token(&new_key(), json!({}))).0, 401);
    assert_eq!(mesh.host.calls().len(), calls + 4);
}

/// Envoy still lets it be entered, until the end of the turn of its event loop.
#[test]
fn a_stream_that_ends_while_it_waits_is_left_alone() {
    let mut mesh = with_bundle();
    let (id, _flow) = mesh.send_with(&token(&new_key(), json!({})));
    mesh.host.complete(id);
    mesh.tick_after(500);
    mesh.tick_after(500);
    assert!(mesh.host.stream(id).reply.is_none());
    assert_eq!(mesh.count("rejected.key-unknown"), 0);
}

#[test]
fn where_a_living_request_looks_ended_none_is_held() {
    let mut mesh = with_bundle();
    mesh.host.complete(mesh.next);
    let (status, stream) = mesh.ask_with(&token(&new_key(), json!({})));
    assert_eq!((status, code(&stream).as_str()), (401, "key-unknown"));
}

#[test]
fn a_stream_that_cannot_be_entered_is_left_alone() {
    let mut mesh = with_bundle();
    let (id, _flow) = mesh.send_with(&token(&new_key(), json!({})));
    mesh.host.end(id);
    mesh.tick_after(500);
    assert_eq!(mesh.count("rejected.key-unknown"), 0);
}

#[test]
fn keys_of_the_configuration_cannot_become_newer_so_nobody_waits_for_them() {
    let mut mesh = Mesh::new(&inline_config(&[&key()], json!({}), json!({})));
    let (status, stream) = mesh.ask_with(&token(&new_key(), json!({})));
    assert_eq!((status, code(&stream).as_str()), (401, "key-unknown"));
}

#[test]
fn a_provider_is_asked_again_for_an_unknown_key() {
    let mut mesh = Mesh::new(&remote_config(json!({})));
    mesh.first_answer(&jwks(&[&key()]));
    assert_eq!(mesh.ask_with(&token(&key(), json!({}))).0, 200);
    let (id, _flow) = mesh.send_with(&token(&new_key(), json!({})));
    mesh.tick_after(1);
    mesh.answer(
        mesh.host.last_call().token,
        200,
        &jwks(&[&key(), &new_key()]),
    );
    assert!(mesh.host.stream(id).resumed);
}

#[test]
fn who_has_waited_for_news_that_do_not_help_does_not_wait_again() {
    let mut mesh = with_bundle();
    let (id, _flow) = mesh.send_with(&token(&new_key(), json!({})));
    mesh.tick_after(1);
    mesh.answer(mesh.host.last_call().token, 200, &full(8, &[&key()]));
    assert_eq!(code(&mesh.host.stream(id)), "key-unknown");
}

#[test]
fn shadow_mode_asks_for_the_key_but_holds_nothing_up() {
    let mut mesh = Mesh::new(&bundle_config(json!({}), json!({ "mode": "SHADOW" })));
    mesh.first_answer(&full(7, &[&key()]));
    let (_, flow) = mesh.send_with(&token(&new_key(), json!({})));
    assert!(matches!(flow, Flow::Continue));
    mesh.tick_after(1);
    assert_eq!(
        (
            mesh.host.last_call().path(),
            mesh.count("shadow.key-unknown")
        ),
        ("/bundle?have=7&wait=0", 1)
    );
}

#[test]
fn those_who_wait_are_decided_by_a_new_configuration_of_their_context() {
    let mut mesh = with_bundle();
    let bearer = format!("Bearer {}", token(&new_key(), json!({})));
    let (id, _flow) = mesh.send(&[
        ("authorization", &bearer),
        ("x-sub", "root"),
        ("x_sub", "root"),
    ]);
    assert!(mesh.configure(&inline_config(&[&new_key()], sub_to_header(), json!({}))));
    let stream = mesh.host.stream(id);
    let outputs = stream
        .headers
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("x-sub") || name == "x_sub");
    assert_eq!(
        outputs
            .map(|(_, value)| value.as_slice())
            .collect::<Vec<_>>(),
        [b"checkout"]
    );
    assert!(stream.resumed);
}

#[test]
fn a_replaced_key_of_the_same_name_is_fetched() {
    let mut mesh = Mesh::new(&remote_config(json!({})));
    mesh.first_answer(&jwks(&[&key()]));
    let replaced = TestKey::new(key().kid, 7);
    let (id, flow) = mesh.send_with(&token(&replaced, json!({})));
    assert!(matches!(flow, Flow::Held));
    mesh.tick_after(1);
    mesh.answer(mesh.host.last_call().token, 200, &jwks(&[&replaced]));
    assert!(mesh.host.stream(id).resumed);
    assert_eq!(
        mesh.ask_with(&token(&key(), json!({ "jti": null, "iat": START - 9 })))
            .0,
        401
    );
}

/// A provider that publishes its new key late answers the first fetch with the old one.
#[test]
fn a_refusal_does_not_outlive_the_key_that_it_was_for() {
    let mut mesh = Mesh::new(&remote_config(json!({})));
    mesh.first_answer(&jwks(&[&key()]));
    let replaced = TestKey::new(key().kid, 7);
    let early = token(&replaced, json!({}));
    let (id, _flow) = mesh.send_with(&early);
    mesh.tick_after(1);
    mesh.answer(mesh.host.last_call().token, 200, &jwks(&[&key()]));
    assert_eq!(code(&mesh.host.stream(id)), "signature-invalid");
    assert_eq!(mesh.ask_with(&early).0, 401, "within the rate");
    mesh.tick_after(10_000);
    let (id, _flow) = mesh.send_with(&early);
    mesh.tick_after(1);
    mesh.answer(mesh.host.last_call().token, 200, &jwks(&[&replaced]));
    assert!(mesh.host.stream(id).resumed);
}

#[test]
fn a_flood_of_bad_signatures_causes_few_fetches() {
    let mut mesh = Mesh::new(&remote_config(json!({})));
    mesh.first_answer(&jwks(&[&key()]));
    let forger = TestKey::new(key().kid, 7);
    let calls = mesh.host.calls().len();
    for number in 0..100 {
        let _rejected = mesh.send_with(&token(&forger, json!({ "sub": number.to_string() })));
        mesh.tick_after(100);
        if mesh.host.calls().len() > calls + number {
            mesh.answer(mesh.host.last_call().token, 200, &jwks(&[&key()]));
        }
    }
    assert!(
        mesh.host.calls().len() - calls <= 2,
        "{} fetches in 10 s",
        mesh.host.calls().len() - calls
    );
}

#[test]
fn each_key_set_of_an_issuer_is_asked() {
    let rule = |cluster: &str| json!({ "issuer": ISSUER, "audiences": ["orders"], "jwksUri": "https://k8s/jwks", "jwksCluster": cluster });
    let mut mesh = Mesh::new(&json!({ "jwtRules": [rule("a"), rule("b")] }).to_string());
    mesh.tick_after(1);
    let [a, b] = [0, 1].map(|at| mesh.host.calls()[at].token);
    mesh.answer(a, 200, &jwks(&[&key()]));
    mesh.answer(b, 200, &jwks(&[&TestKey::new("z", 26)]));
    let (id, flow) = mesh.send_with(&token(&new_key(), json!({})));
    assert!(matches!(flow, Flow::Held));
    mesh.tick_after(1);
    let [a, b] = [2, 3].map(|at| mesh.host.calls()[at].token);
    mesh.answer(a, 200, &jwks(&[&key()]));
    assert!(
        !mesh.host.stream(id).resumed && mesh.host.stream(id).reply.is_none(),
        "b has not answered yet"
    );
    mesh.answer(b, 200, &jwks(&[&new_key()]));
    assert!(mesh.host.stream(id).resumed);
}
