//! Cached verdicts.

use super::*;

#[test]
fn repeated_token_is_not_validated_again() {
    let mut mesh = Mesh::new(&inline_config(&[&key()], sub_to_header(), json!({})));
    let token = token(&key(), json!({}));
    assert_eq!(
        value(&mesh.ask_with(&token).1, "x-sub"),
        value(&mesh.ask_with(&token).1, "x-sub")
    );
    assert_eq!(
        (
            mesh.count("accepted"),
            mesh.host.records("meshseal.validation_us")
        ),
        (2, 1)
    );
}

#[test]
fn repeated_bad_signature_is_not_verified_again() {
    let mut mesh = Mesh::new(&inline_config(&[&key()], json!({}), json!({})));
    let forged = token(&TestKey::new("a", 9), json!({}));
    assert_eq!(
        (mesh.ask_with(&forged).0, mesh.ask_with(&forged).0),
        (401, 401)
    );
    assert_eq!(
        (
            mesh.count("rejected.signature-invalid"),
            mesh.host.records("meshseal.validation_us")
        ),
        (2, 1)
    );
}

#[test]
fn cached_token_expires() {
    let mut mesh = Mesh::new(&inline_config(&[&key()], json!({}), json!({})));
    let token = token(&key(), json!({}));
    assert_eq!(mesh.ask_with(&token).0, 200);
    mesh.host.advance(Duration::from_secs(290 + 30));
    assert_eq!(code(&mesh.ask_with(&token).1), "token-expired");
}

#[test]
fn revocation_evicts_cached_token() {
    let mut mesh = with_bundle();
    let token = token(&key(), json!({}));
    assert_eq!(mesh.ask_with(&token).0, 200);
    let (before, mut after) = (snapshot(7, &[&key()]), snapshot(8, &[&key()]));
    after.issuers.get_mut(ISSUER).unwrap().revoked.insert(7);
    mesh.answer(
        mesh.host.last_call().token,
        200,
        &bundle(&pin(), &after.delta_from(&before, times(START))),
    );
    assert_eq!(code(&mesh.ask_with(&token).1), "token-revoked");
}

#[test]
fn cached_token_is_authorized_for_each_request() {
    let rules = json!({ "rules": [{ "to": [{ "operation": { "paths": ["/orders/1"] } }] }] });
    let mut mesh = Mesh::new(&inline_config(&[&key()], json!({}), rules));
    let token = token(&key(), json!({}));
    assert_eq!(mesh.ask_with(&token).0, 200);
    let bearer = format!("Bearer {token}");
    assert_eq!(
        mesh.ask(&[(":path", "/orders/2"), ("authorization", &bearer)])
            .0,
        403
    );
}
