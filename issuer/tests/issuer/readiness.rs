//! Readiness of each capability while the database is unavailable.

use std::sync::atomic::Ordering::SeqCst;

use crate::support::{Harness, NOW, decode};

/// Returns whether `/readyz` reports a capability as ready.
async fn ready(harness: &Harness, capability: &str) -> bool {
    let one = harness.get(&format!("/readyz/{capability}")).await;
    let all = harness.get("/readyz").await.json();
    let ready = all["capabilities"][capability]["ready"].as_bool().unwrap();
    assert_eq!(
        one.status.as_u16(),
        if ready { 200 } else { 503 },
        "{capability}"
    );
    ready
}

/// Returns the capabilities that are not ready.
async fn lost_capabilities(harness: &Harness) -> Vec<&'static str> {
    let mut lost = Vec::new();
    for capability in ["keys", "bundle", "mint", "introspect", "revoke"] {
        if !ready(harness, capability).await {
            lost.push(capability);
        }
    }
    lost
}

/// Returns `iat` and `exp` of a bundle.
fn times(bundle: &str) -> (u64, u64) {
    let claims = decode(bundle).1;
    (
        claims["iat"].as_u64().unwrap(),
        claims["exp"].as_u64().unwrap(),
    )
}

#[tokio::test]
async fn serves_keys_and_held_bundles_without_database() {
    let harness = Harness::new().await;
    harness.tick().await;
    let have = Some(harness.version());
    // A new worker is recorded, which reads the newest state.
    harness.poll(1, have).await;
    harness.clock.advance(4);
    let last = times(&harness.poll(1, have).await.text);
    assert_eq!(last, (NOW + 4, NOW + 4 + 3_600));
    assert_eq!(lost_capabilities(&harness).await, [""; 0]);
    for later in [2, 1_000, 2_597] {
        harness.clock.advance(later);
        assert_eq!(
            lost_capabilities(&harness).await,
            ["mint", "introspect", "revoke"],
            "{later}"
        );
        assert_eq!(
            times(&harness.poll(1, have).await.text),
            last,
            "no bundle is extended"
        );
        assert_eq!(
            harness.poll(2, None).await.status,
            503,
            "a new worker could not be recorded"
        );
        for path in ["/jwks", "/.well-known/oauth-authorization-server"] {
            assert_eq!(harness.get(path).await.status, 200, "{path}");
        }
    }
    harness.clock.advance(1);
    assert_eq!(
        lost_capabilities(&harness).await,
        ["bundle", "mint", "introspect", "revoke"]
    );
    assert_eq!(
        harness.poll(1, have).await.status,
        503,
        "past the not-after"
    );
    harness.advance(0).await;
    assert_eq!(lost_capabilities(&harness).await, [""; 0]);
    assert_eq!(times(&harness.poll(1, have).await.text).0, NOW + 3_604);
}

#[tokio::test]
async fn clock_step_back_stops_only_minting() {
    let harness = Harness::new().await;
    harness.tick().await;
    harness.clock.put_back(100);
    assert_eq!(lost_capabilities(&harness).await, ["mint"]);
}

#[tokio::test]
async fn rejects_unknown_capability_and_stops_at_shutdown() {
    let (harness, store) = Harness::fickle().await;
    store.proxies_fail.store(true, SeqCst);
    assert_eq!(
        lost_capabilities(&harness).await,
        [""; 0],
        "reading other replicas' proxies is no capability"
    );
    assert_eq!(harness.get("/readyz/tea").await.status, 404);
    harness.issuer.ending.cancel();
    assert_eq!(lost_capabilities(&harness).await.len(), 5);
}
