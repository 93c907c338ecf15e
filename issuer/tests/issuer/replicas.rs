//! Decisions of a replica that lacks the records of other replicas, a right clock or the newest
//! state.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use axum::http::header;
use meshseal_issuer::keys::KeyState;
use tokio::time::timeout;

use crate::support::store::Fickle;
use crate::support::{Harness, NOW, Proxy, decode};

const GRANT: &str = "grant_type=client_credentials&resource=orders";

async fn metric(harness: &Harness, name: &str) -> u64 {
    let text = harness.get("/metrics").await.text;
    text.lines()
        .find_map(|line| line.strip_prefix(&format!("meshseal_{name} ")))
        .unwrap()
        .parse()
        .unwrap()
}

#[tokio::test]
async fn confirms_nothing_while_other_proxies_are_unknown() {
    let (harness, store) = Harness::fickle().await;
    let mut proxy = Proxy::of(&harness, 1);
    proxy.confirm(&harness).await;
    let standby = harness.next_kid();
    store.proxies_fail.store(true, SeqCst);
    harness.post_as("operator", "/admin/keys/rotate", "").await;
    harness.tick().await;
    assert_ne!(harness.active_kid(), standby, "the rotation waits");
    // The only known proxy confirms this version.
    let epoch = harness
        .post_as("operator", "/revoke", "subject=x&wait=0")
        .await
        .json();
    proxy.confirm(&harness).await;
    harness.tick().await;
    let again = format!("subject=x&issued_before={NOW}&wait=0");
    let receipt = harness.post_as("operator", "/revoke", &again).await.json();
    assert_eq!(receipt["version"], epoch["version"]);
    assert_eq!(
        (&receipt["state"], &receipt["complete"]),
        (&"unknown".into(), &false.into()),
        "the state of the receipt is unknown"
    );
    assert_eq!(
        harness.get_as("operator", "/admin/proxies").await.status,
        503
    );
    assert_eq!(metric(&harness, "proxies_all_counted").await, 0);

    // The records can be read again.
    store.proxies_fail.store(false, SeqCst);
    harness.advance(1).await;
    harness.tick().await;
    assert_eq!(
        harness.active_kid(),
        standby,
        "the rotation continues once the proxies are known"
    );
    assert_eq!(metric(&harness, "proxies_all_counted").await, 1);
}

#[tokio::test]
async fn limits_proxy_queries_to_database() {
    let (harness, store) = Harness::fickle().await;
    for fails in [false, true] {
        store.proxies_fail.store(fails, SeqCst);
        harness.advance(1).await;
        let before = store.proxies_asked.load(SeqCst);
        for _ in 0..20 {
            harness.get("/metrics").await;
            harness.get_as("operator", "/admin/proxies").await;
        }
        assert_eq!(store.proxies_asked.load(SeqCst) - before, 1, "{fails}");
    }
}

#[tokio::test]
async fn concurrent_refreshes_share_one_query() {
    let (harness, store) = Harness::fickle().await;
    Fickle::close(&store.heads);
    let before = store.heads_asked.load(SeqCst);
    let ask = || {
        let issuer = harness.issuer.clone();
        tokio::spawn(async move { issuer.publisher.refresh().await })
    };
    let first = ask();
    let asked = async {
        while store.heads_asked.load(SeqCst) == before {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(5), asked).await.unwrap();

    // Later callers must not share the query that is running already.
    let others: Vec<_> = (0..50).map(|_| ask()).collect();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let told = harness
        .issuer
        .store
        .commit(&meshseal_issuer::store::Change::default(), (NOW + 9) * 1000)
        .await
        .unwrap();
    store.heads.add_permits(100);
    first.await.unwrap().unwrap();
    for other in others {
        assert_eq!(
            other.await.unwrap().unwrap().version,
            told,
            "state from after the call"
        );
    }
    assert_eq!(
        store.heads_asked.load(SeqCst) - before,
        2,
        "the running query, and one for all later calls"
    );
}

#[tokio::test]
async fn key_revoked_during_index_lease_signs_nothing() {
    let (harness, store) = Harness::fickle().await;
    let harness = Arc::new(harness);
    Fickle::close(&store.leases);
    let asked = harness.clone();
    let answer = tokio::spawn(async move { asked.post_as("checkout", "/token", GRANT).await });
    tokio::task::yield_now().await;
    let stolen = harness.active_kid();
    harness
        .post_as("operator", "/admin/keys/revoke", &format!("kid={stolen}"))
        .await;
    assert!(!answer.is_finished());
    store.leases.add_permits(1);
    let token = answer.await.unwrap().json()["access_token"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(decode(&token).0["kid"], harness.active_kid());
    assert!(harness.is_active(&token).await);
}

#[tokio::test]
async fn key_revocation_retries_are_bounded() {
    let (harness, store) = Harness::fickle().await;
    let form = format!("kid={}", harness.active_kid());
    store.conflicts.store(u32::MAX, SeqCst);
    let answer = harness
        .post_as("operator", "/admin/keys/revoke", &form)
        .await;
    assert_eq!(answer.error(), (503, "temporarily_unavailable".into()));
    store.conflicts.store(5, SeqCst);
    assert_eq!(
        harness
            .post_as("operator", "/admin/keys/revoke", &form)
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn stale_state_after_index_lease_mints_nothing() {
    let (harness, store) = Harness::fickle().await;
    let harness = Arc::new(harness);
    Fickle::close(&store.leases);
    let asked = harness.clone();
    let answer = tokio::spawn(async move { asked.post_as("checkout", "/token", GRANT).await });
    tokio::task::yield_now().await;
    harness.clock.advance(6);
    store.leases.add_permits(1);
    assert_eq!(answer.await.unwrap().status, 503);
}

#[tokio::test]
async fn revokes_token_of_key_unknown_to_replica() {
    let one = Harness::new().await;
    let other = one.restarted().await;
    let stolen = other.active_kid();
    for kid in [stolen, other.next_kid()] {
        other
            .post_as("operator", "/admin/keys/revoke", &format!("kid={kid}"))
            .await;
    }
    let token = other.token().await;
    let kid = decode(&token).0["kid"].as_str().unwrap().to_owned();
    let known = one.issuer.publisher.current();
    assert!(
        known
            .keys
            .iter()
            .all(|key| key.kid != kid || key.state == KeyState::Retired),
        "the other replica created the key later"
    );
    assert!(other.is_active(&token).await);
    let answer = one
        .post_as("checkout", "/revoke", &format!("token={token}"))
        .await;
    assert_eq!(
        answer.json()["version"],
        one.version(),
        "the revocation is stored"
    );
    other.tick().await;
    assert!(!other.is_active(&token).await);
}

#[tokio::test]
async fn mints_nothing_until_clock_catches_up() {
    let harness = Harness::new().await;
    let token = harness.token_for("checkout", "resource=stock").await;
    harness.advance(120).await;
    assert!(!harness.is_active(&token).await);

    // The clock steps back by 100 s.
    harness.clock.put_back(100);
    let refused = harness.post_as("checkout", "/token", GRANT).await;
    assert_eq!(refused.error(), (503, "temporarily_unavailable".into()));
    assert_eq!(refused.header(header::RETRY_AFTER), "1");
    assert_eq!(harness.get("/readyz").await.status, 503);
    assert_eq!(metric(&harness, "clock_skew_seconds").await, 100);
    assert!(
        !harness.is_active(&token).await,
        "expired tokens stay expired"
    );
    assert_eq!(
        harness.get("/bundle").await.status,
        200,
        "proxies still get bundles"
    );
    harness.clock.put_back(-100);
    assert_eq!(decode(&harness.token().await).1["iat"], NOW + 120);
    assert_eq!(harness.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn clock_jump_changes_neither_freshness_nor_rates() {
    let mut config = crate::support::config();
    config.limits.requests_per_second = 1;
    let harness = Harness::with(config).await;
    harness.token().await;
    harness.clock.put_back(-3_600);
    let detail = harness.get("/readyz").await.json()["detail"].to_string();
    assert!(
        detail.contains("3600 s forward"),
        "the clock is the only fault: {detail}"
    );
    assert_eq!(
        harness.post_as("checkout", "/token", GRANT).await.status,
        429
    );
}
