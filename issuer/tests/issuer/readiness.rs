//! Readiness of each capability while the database is away.

use std::sync::atomic::Ordering::SeqCst;

use crate::support::{Harness, NOW, decode};

/// What a harness behind a store that fails says of a capability.
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

async fn all(harness: &Harness) -> Vec<&'static str> {
    let mut lost = Vec::new();
    for capability in ["keys", "bundle", "mint", "introspect", "revoke"] {
        if !ready(harness, capability).await {
            lost.push(capability);
        }
    }
    lost
}

#[tokio::test]
async fn serves_keys_and_held_bundles_without_database() {
    let harness = Harness::new().await;
    harness.tick().await;
    let times = |text: &str| {
        let claims = decode(text).1;
        (
            claims["iat"].as_u64().unwrap(),
            claims["exp"].as_u64().unwrap(),
        )
    };
    let have = Some(harness.version());
    // A worker that is new is recorded, and the newest state is read for it.
    harness.poll(1, have).await;
    harness.clock.advance(4);
    let last = times(&harness.poll(1, have).await.text);
    assert_eq!(last, (NOW + 4, NOW + 4 + 3_600));
    assert_eq!(all(&harness).await, [""; 0]);
    for later in [2, 1_000, 2_597] {
        harness.clock.advance(later);
        assert_eq!(
            all(&harness).await,
            ["mint", "introspect", "revoke"],
            "{later}"
        );
        assert_eq!(
            times(&harness.poll(1, have).await.text),
            last,
            "a bundle was extended"
        );
        assert_eq!(
            harness.poll(2, None).await.status,
            503,
            "nobody could count it"
        );
        for path in ["/jwks", "/.well-known/oauth-authorization-server"] {
            assert_eq!(harness.get(path).await.status, 200, "{path}");
        }
    }
    harness.clock.advance(1);
    assert_eq!(
        all(&harness).await,
        ["bundle", "mint", "introspect", "revoke"]
    );
    assert_eq!(
        harness.poll(1, have).await.status,
        503,
        "past the not-after"
    );
    harness.advance(0).await;
    assert_eq!(all(&harness).await, [""; 0]);
    assert_eq!(times(&harness.poll(1, have).await.text).0, NOW + 3_604);
}

#[tokio::test]
async fn clock_that_went_back_stops_minting_alone() {
    let harness = Harness::new().await;
    harness.tick().await;
    harness.clock.put_back(100);
    assert_eq!(all(&harness).await, ["mint"]);
}

#[tokio::test]
async fn refuses_unknown_capability_and_ends_all() {
    let (harness, store) = Harness::fickle().await;
    store.proxies_fail.store(true, SeqCst);
    assert_eq!(
        all(&harness).await,
        [""; 0],
        "proxies of others are no capability"
    );
    assert_eq!(harness.get("/readyz/tea").await.status, 404);
    harness.issuer.ending.cancel();
    assert_eq!(all(&harness).await.len(), 5);
}
