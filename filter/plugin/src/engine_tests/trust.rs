//! Bundles and fetched keys, as requests feel them.

use super::*;

#[test]
fn what_cannot_be_known_yet_is_a_503_and_known_once_the_bundle_is_there() {
    let mut mesh = Mesh::new(&bundle_config(json!({}), json!({})));
    let token = token(&key(), json!({}));
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
    let (status, stream) = mesh.ask_with(&token(&key(), json!({ "iat": later, "exp": later + 60 })));
    assert_eq!((status, code(&stream).as_str()), (503, "bundle-stale"));
}

#[test]
fn an_embedded_bundle_decides_before_the_issuer_has_answered() {
    let mut mesh = Mesh::new(&bundle_config(json!({ "embedded": full(3, &[&key()]) }), json!({})));
    assert_eq!(mesh.ask_with(&token(&key(), json!({}))).0, 200);
    mesh.tick_after(1);
    assert_eq!(mesh.host.last_call().path(), "/bundle?have=3&wait=0");
}

#[test]
fn an_embedded_bundle_of_another_signer_is_a_mistake_and_an_old_one_a_warning() {
    let foreign = bundle(&TestKey::new("pin", 98), &snapshot(1, &[]).full(times(START)));
    let mut mesh = Mesh::unconfigured(FakeHost::new());
    assert!(!mesh.configure(&bundle_config(json!({ "embedded": foreign }), json!({}))));
    assert!(mesh.host.lines(Level::Error)[0].contains("trustBundle.embedded"));
    let old = bundle(&pin(), &snapshot(1, &[]).full(times(START - 7_200)));
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
        assert_eq!(new.ask_with(&token(&key(), json!({}))).0, 200);
    }
}

#[test]
fn a_configuration_with_other_pins_takes_over_nothing() {
    let mut old = Mesh::new(&bundle_config(json!({}), json!({})));
    old.first_answer(&full(7, &[&key()]));
    old.engine = Engine::new(old.host.clone(), 2);
    assert!(old.configure(&bundle_config(json!({ "keys": [TestKey::new("other", 97).jwk()] }), json!({}))));
    assert_eq!(old.ask_with(&token(&key(), json!({}))).0, 503);
}
