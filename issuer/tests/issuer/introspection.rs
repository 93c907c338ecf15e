//! `POST /introspect`: RFC 7662, rule I22.

use meshseal_issuer::revocation::{EpochKind, EpochRecord};
use meshseal_issuer::store::Change;

use crate::support::{Harness, NOW};

async fn introspect(harness: &Harness, client: &str, token: &str) -> serde_json::Value {
    let answer = harness
        .post_as(client, "/introspect", &format!("token={token}"))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.header(axum::http::header::CACHE_CONTROL), "no-store");
    answer.json()
}

#[tokio::test]
async fn only_client_and_introspectors_see_token() {
    let harness = Harness::new().await;
    let (orders, stock) = (
        harness.token().await,
        harness.token_for("checkout", "resource=stock").await,
    );
    let told = introspect(&harness, "checkout", &orders).await;
    assert_eq!(
        (&told["active"], &told["sub"], &told["exp"]),
        (&true.into(), &"checkout".into(), &(NOW + 300).into())
    );
    assert_eq!(told["token_type"], "Bearer");
    assert_eq!(
        introspect(&harness, "auditor", &orders).await["active"],
        true,
        "introspector of the service"
    );
    assert_eq!(
        introspect(&harness, "stock", &stock).await["active"],
        true,
        "introspector of the service"
    );
    let nothing = serde_json::json!({ "active": false });
    assert_eq!(introspect(&harness, "auditor", &stock).await, nothing);
    assert_eq!(introspect(&harness, "stock", &orders).await, nothing);
    assert_eq!(
        introspect(&harness, "operator", &orders).await,
        nothing,
        "administrators may not introspect"
    );
}

#[tokio::test]
async fn inactive_answers_are_identical() {
    let harness = Harness::new().await;
    let expired = harness.token_for("checkout", "resource=stock").await;
    harness.advance(91).await;
    let (good, revoked, by_client) = (
        harness.token().await,
        harness.token().await,
        harness.token_for("stock", "").await,
    );
    harness
        .post_as("checkout", "/revoke", &format!("token={revoked}"))
        .await;
    harness.post_as("operator", "/revoke", "client=stock").await;

    // A token with a changed signature.
    let mut flipped = good.clone();
    flipped.replace_range(
        good.len() - 5..good.len() - 4,
        if &good[good.len() - 5..good.len() - 4] == "A" {
            "B"
        } else {
            "A"
        },
    );
    for token in [
        expired,
        revoked,
        flipped,
        "x".into(),
        "a.b.c".into(),
        "x".repeat(20_000),
    ] {
        assert_eq!(
            introspect(&harness, "checkout", &token).await,
            serde_json::json!({ "active": false })
        );
    }
    assert_eq!(
        introspect(&harness, "stock", &by_client).await,
        serde_json::json!({ "active": false })
    );
    assert_eq!(
        introspect(&harness, "checkout", &good).await["active"],
        true
    );
}

#[tokio::test]
async fn service_name_grants_no_introspection() {
    let yaml = crate::support::yaml().replace(", introspectors: [stock]", "");
    let harness = Harness::with(meshseal_issuer::config::from_yaml(&yaml).unwrap()).await;
    let stock = harness.token_for("checkout", "resource=stock").await;
    assert_eq!(introspect(&harness, "stock", &stock).await["active"], false);
}

#[tokio::test]
async fn token_of_replica_ahead_is_active() {
    let mut config = crate::support::config();
    config.tokens.clock_skew_s = 0;
    let harness = Harness::with(config.clone()).await;
    let clock = std::sync::Arc::new(meshseal_issuer::clock::FixedClock::at(NOW + 5));
    let ahead = Harness::at(harness.database.clone(), config, clock).await;
    let token = ahead.token().await;
    assert_eq!(
        introspect(&harness, "checkout", &token).await["active"],
        true,
        "its `iat` is ahead of this replica's clock"
    );
    harness.advance(305).await;
    assert_eq!(
        introspect(&harness, "checkout", &token).await["active"],
        false,
        "no clock skew for `exp`"
    );
}

#[tokio::test]
async fn introspection_requires_authentication() {
    let harness = Harness::new().await;
    let token = harness.token().await;
    assert_eq!(
        harness
            .post("/introspect", &format!("token={token}"))
            .await
            .error(),
        (401, "invalid_client".into())
    );
    assert_eq!(
        harness.post_as("checkout", "/introspect", "").await.error(),
        (400, "invalid_request".into())
    );
}

#[tokio::test]
async fn token_of_published_revoked_key_is_inactive() {
    let harness = Harness::new().await;
    let token = harness.token().await;
    let (kind, name) = (EpochKind::Kid, harness.active_kid());
    let epochs = vec![EpochRecord {
        kind,
        name,
        before: NOW + 1,
        expires_at: NOW + 900,
    }];
    harness
        .issuer
        .publisher
        .commit(&Change {
            epochs,
            ..Change::default()
        })
        .await
        .unwrap();
    assert!(
        harness
            .get("/jwks")
            .await
            .text
            .contains(&harness.active_kid())
    );
    assert!(!harness.is_active(&token).await);
}
