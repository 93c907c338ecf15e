//! Taking configurations into force.

use super::*;

#[test]
fn before_a_configuration_everything_is_refused() {
    let mut mesh = Mesh::unconfigured(FakeHost::new());
    let (status, stream) = mesh.ask_with(&token(&key(), json!({})));
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
        assert!(
            lines.iter().any(|line| line.contains(path)),
            "{path} in {lines:?}"
        );
    }
    assert_eq!(mesh.ask_with(&token(&key(), json!({}))).0, 200);
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

#[test]
fn inline_keys_of_unknown_types_are_skipped_and_counted() {
    let unknown = json!({ "kty": "OKP", "crv": "X25519", "kid": "x", "use": "enc", "x": "AA" });
    let jwks = json!({ "jwks": { "keys": [key().jwk(), unknown] } });
    let mut mesh = Mesh::new(&inline_config(&[], jwks, json!({})));
    assert_eq!(mesh.count("jwks.skipped_keys"), 1);
    assert_eq!(mesh.ask_with(&token(&key(), json!({}))).0, 200);
}
