//! Requests held until a newer key arrives.

use super::*;

fn new_key() -> TestKey {
    TestKey::new("b", 2)
}

#[test]
fn holds_request_until_bundle_has_its_key() {
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
fn long_poll_answer_resumes_held_requests() {
    let mut mesh = with_bundle();
    let regular = mesh.host.last_call();
    let (id, _flow) = mesh.send_with(&token(&new_key(), json!({})));
    mesh.answer(regular.token, 200, &full(8, &[&key(), &new_key()]));
    assert!(mesh.host.stream(id).resumed);
}

#[test]
fn rejects_held_request_within_200_ms() {
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
fn one_poll_serves_limited_held_requests() {
    let mut mesh = with_bundle();
    let calls = mesh.host.calls().len();
    let mut held: Vec<(u32, Flow)> = (0..waiters::MAX_WAITING)
        .map(|_| mesh.send_with(&token(&new_key(), json!({}))))
        .collect();
    assert!(held.iter().all(|(_, flow)| matches!(flow, Flow::Held)));
    assert_eq!(
        mesh.ask_with(&token(&new_key(), json!({}))).0,
        401,
        "the limit is reached"
    );
    mesh.tick_after(1);
    assert_eq!(mesh.host.calls().len(), calls + 1);
    mesh.answer(mesh.host.last_call().token, 200, &full(8, &[&new_key()]));
    assert!(held.drain(..).all(|(id, _)| mesh.host.stream(id).resumed));
}

#[test]
fn rejects_unknown_keys_beyond_refresh_budget() {
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

/// Envoy still lets an ended stream be entered, until the end of the event loop iteration.
#[test]
fn ignores_held_request_that_has_ended() {
    let mut mesh = with_bundle();
    let (id, _flow) = mesh.send_with(&token(&new_key(), json!({})));
    mesh.host.complete(id);
    mesh.tick_after(500);
    mesh.tick_after(500);
    assert!(mesh.host.stream(id).reply.is_none());
    assert_eq!(mesh.count("rejected.key-unknown"), 0);
}

#[test]
fn holds_nothing_on_hosts_without_end_detection() {
    let mut mesh = with_bundle();
    mesh.host.complete(mesh.next);
    let (status, stream) = mesh.ask_with(&token(&new_key(), json!({})));
    assert_eq!((status, code(&stream).as_str()), (401, "key-unknown"));
}

#[test]
fn ignores_held_stream_that_is_gone() {
    let mut mesh = with_bundle();
    let (id, _flow) = mesh.send_with(&token(&new_key(), json!({})));
    mesh.host.end(id);
    mesh.tick_after(500);
    assert_eq!(mesh.count("rejected.key-unknown"), 0);
}

#[test]
fn holds_nothing_for_inline_keys() {
    let mut mesh = Mesh::new(&inline_config(&[&key()], json!({}), json!({})));
    let (status, stream) = mesh.ask_with(&token(&new_key(), json!({})));
    assert_eq!((status, code(&stream).as_str()), (401, "key-unknown"));
}

#[test]
fn refetches_key_set_for_unknown_key() {
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
fn holds_each_request_only_once() {
    let mut mesh = with_bundle();
    let (id, _flow) = mesh.send_with(&token(&new_key(), json!({})));
    mesh.tick_after(1);
    mesh.answer(mesh.host.last_call().token, 200, &full(8, &[&key()]));
    assert_eq!(code(&mesh.host.stream(id)), "key-unknown");
}

#[test]
fn shadow_mode_refreshes_keys_but_holds_nothing() {
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
fn new_configuration_decides_held_requests() {
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
fn fetches_replaced_key_with_same_kid() {
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

/// The provider publishes its new key late, so the first fetch returns the old key.
#[test]
fn cached_rejection_ends_with_its_key() {
    let mut mesh = Mesh::new(&remote_config(json!({})));
    mesh.first_answer(&jwks(&[&key()]));
    let replaced = TestKey::new(key().kid, 7);
    let early = token(&replaced, json!({}));
    let (id, _flow) = mesh.send_with(&early);
    mesh.tick_after(1);
    mesh.answer(mesh.host.last_call().token, 200, &jwks(&[&key()]));
    assert_eq!(code(&mesh.host.stream(id)), "signature-invalid");
    assert_eq!(mesh.ask_with(&early).0, 401, "no fetch: rate limit");
    mesh.tick_after(10_000);
    let (id, _flow) = mesh.send_with(&early);
    mesh.tick_after(1);
    mesh.answer(mesh.host.last_call().token, 200, &jwks(&[&replaced]));
    assert!(mesh.host.stream(id).resumed);
}

#[test]
fn bad_signatures_cause_few_fetches() {
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
fn waits_for_each_key_set_of_issuer() {
    let rules = ["a", "b"].map(|cluster| {
        json!({
            "issuer": ISSUER, "audiences": ["orders"],
            "jwksUri": "https://k8s/jwks", "jwksCluster": cluster,
        })
    });
    let mut mesh = Mesh::new(&json!({ "jwtRules": rules }).to_string());
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
