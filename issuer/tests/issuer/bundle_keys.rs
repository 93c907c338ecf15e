//! Keys that sign bundles: proxies pin them, so a rotation waits for pins (rule I26).

use meshseal_issuer::keys::{KeyState, Purpose};

use crate::support::{Harness, Proxy};

#[tokio::test]
async fn revoked_bundle_key_yields_to_pinned_standby() {
    let harness = Harness::new().await;
    let mut proxy = Proxy::of(&harness, 1);
    proxy.confirm(&harness).await;
    let old = harness.key(Purpose::Bundle, KeyState::Active).unwrap().kid;
    let standby = harness.key(Purpose::Bundle, KeyState::Next).unwrap().kid;
    harness
        .post_as("operator", "/admin/keys/revoke", &format!("kid={old}"))
        .await;
    assert_eq!(
        harness.key(Purpose::Bundle, KeyState::Active).unwrap().kid,
        standby
    );
    proxy.poll(&harness).await;
    assert_eq!(
        proxy.trust.bundle_version(),
        Some(harness.version()),
        "accepted under the second pin"
    );
}

fn bundle_kid(harness: &Harness, state: KeyState) -> String {
    harness.key(Purpose::Bundle, state).unwrap().kid
}

#[tokio::test]
async fn unpinned_bundle_key_signs_only_by_force() {
    let harness = Harness::new().await;
    let mut proxy = Proxy::of(&harness, 1);
    proxy.confirm(&harness).await;
    let first = format!("kid={}", bundle_kid(&harness, KeyState::Active));
    assert_eq!(
        harness
            .post_as("operator", "/admin/keys/revoke", &first)
            .await
            .status,
        200,
        "the standby is pinned"
    );

    // No worker pins the new standby.
    harness.tick().await;
    let active = bundle_kid(&harness, KeyState::Active);
    let refused = harness
        .post_as("operator", "/admin/keys/revoke", &format!("kid={active}"))
        .await;
    assert_eq!(refused.error(), (400, "invalid_request".into()));
    assert!(
        refused.text.contains("not pinned") || refused.text.contains("is pinned by 0 of 1"),
        "{}",
        refused.text
    );

    // Without pins, requests for a rotation have no effect.
    for _ in 0..3 {
        harness
            .post_as("operator", "/admin/keys/rotate", "purpose=bundle")
            .await;
        harness.advance(3_600).await;
        harness.tick().await;
    }
    assert_eq!(
        bundle_kid(&harness, KeyState::Active),
        active,
        "no timeout activates an unpinned key"
    );
    assert!(
        harness
            .get("/metrics")
            .await
            .text
            .contains("meshseal_rotations_forced_total 0")
    );

    // Only force makes an unpinned key sign, and is counted.
    let forced = harness
        .post_as(
            "operator",
            "/admin/keys/revoke",
            &format!("kid={active}&force=true"),
        )
        .await;
    assert_eq!(forced.status, 200);
    assert!(
        harness
            .get("/metrics")
            .await
            .text
            .contains("meshseal_rotations_forced_total 1")
    );
}

#[tokio::test]
async fn bundle_rotation_is_requested_and_done_once() {
    let harness = Harness::new().await;
    let (active, standby) = (
        bundle_kid(&harness, KeyState::Active),
        bundle_kid(&harness, KeyState::Next),
    );
    let token_key = harness.active_kid();
    harness
        .post_as("operator", "/admin/keys/rotate", "purpose=bundle")
        .await;
    assert!(
        harness.get_as("operator", "/admin/keys").await.json()["bundle_rotation_requested"]
            .is_u64()
    );

    // The request is done by one rotation.
    harness.tick().await;
    harness.tick().await;
    assert_eq!(
        bundle_kid(&harness, KeyState::Active),
        standby,
        "pinned since the first start"
    );
    assert_eq!(
        harness.active_kid(),
        token_key,
        "the token key stays active"
    );
    assert!(
        harness
            .key(Purpose::Bundle, KeyState::Draining)
            .is_some_and(|key| key.kid == active)
    );
    assert!(
        harness.get_as("operator", "/admin/keys").await.json()["bundle_rotation_requested"]
            .is_null()
    );

    // A forced rotation waits for no pins.
    let forced = harness
        .post_as(
            "operator",
            "/admin/keys/rotate",
            "purpose=bundle&force=true",
        )
        .await;
    assert_eq!(forced.status, 200);
    assert_ne!(bundle_kid(&harness, KeyState::Active), standby);
}
