//! Activation of configurations.

use super::*;

#[test]
fn rejects_everything_before_configuration() {
    let mut mesh = Mesh::unconfigured(FakeHost::new());
    let (status, stream) = mesh.ask_with(&token(&key(), json!({})));
    assert_eq!((status, code(&stream).as_str()), (503, "keys-unavailable"));
}

#[test]
fn logs_every_mistake_and_keeps_old_configuration() {
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
fn rejects_missing_malformed_and_oversized_configuration() {
    let mut mesh = Mesh::unconfigured(FakeHost::new());
    assert!(!mesh.configure("") && !mesh.configure("{"));
    assert!(!mesh.engine.configure(limits::MAX_CONFIG_BYTES + 1));
    assert_eq!(mesh.host.lines(Level::Error).len(), 3);
}

#[test]
fn first_tick_comes_at_once_and_polls() {
    let mut mesh = Mesh::new(&bundle_config(json!({}), json!({})));
    assert!(mesh.host.calls().is_empty());
    assert_eq!(mesh.host.tick_period(), Some(Duration::from_millis(1)));
    mesh.tick_after(1);
    assert_eq!(mesh.host.calls().len(), 1);
}

#[test]
fn root_context_ticks_slowly_when_idle() {
    let mut mesh = Mesh::new(&bundle_config(json!({}), json!({})));
    mesh.tick_after(1);
    assert_eq!(mesh.host.tick_period(), Some(Duration::from_secs(1)));
}

#[test]
fn counts_skipped_inline_keys_of_unknown_type() {
    let unknown = json!({ "kty": "OKP", "crv": "X25519", "kid": "x", "use": "enc", "x": "AA" });
    let jwks = json!({ "jwks": { "keys": [key().jwk(), unknown] } });
    let mut mesh = Mesh::new(&inline_config(&[], jwks, json!({})));
    assert_eq!(mesh.count("jwks.skipped_keys"), 1);
    assert_eq!(mesh.ask_with(&token(&key(), json!({}))).0, 200);
}
