//! What a replica may believe while it cannot see the others, its clock, or the newest state.

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
async fn nothing_is_confirmed_while_other_replicas_proxies_are_unknown() {
    let (harness, store) = Harness::fickle().await;
    let mut proxy = Proxy::of(&harness, 1);
    proxy.confirm(&harness).await;
    let standby = harness.next_kid();
    store.proxies_fail.store(true, SeqCst);
    harness.post_as("operator", "/admin/keys/rotate", "").await;
    harness.tick().await;
    assert_ne!(harness.active_kid(), standby, "the keeper waits");
    // A version that the only known proxy already has.
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
        "the receipt says so"
    );
    assert_eq!(
        harness.get_as("operator", "/admin/proxies").await.status,
        503
    );
    assert_eq!(metric(&harness, "proxies_all_counted").await, 0);
    store.proxies_fail.store(false, SeqCst);
    harness.advance(1).await;
    harness.tick().await;
    assert_eq!(
        harness.active_kid(),
        standby,
        "and goes on once they are known"
    );
    assert_eq!(metric(&harness, "proxies_all_counted").await, 1);
}

#[tokio::test]
async fn however_many_ask_the_database_is_asked_for_proxies_twice_a_second() {
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
async fn many_who_want_the_newest_state_at_once_share_one_look() {
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
            "as of after it asked"
        );
    }
    assert_eq!(
        store.heads_asked.load(SeqCst) - before,
        2,
        "the one under way, and one for all who came later"
    );
}

#[tokio::test]
async fn a_key_that_was_revoked_while_an_index_was_fetched_signs_nothing() {
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
async fn an_emergency_is_not_tried_for_ever() {
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
async fn what_went_stale_while_an_index_was_fetched_mints_nothing() {
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
async fn a_token_by_a_key_that_this_replica_has_not_heard_of_is_revoked() {
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
        "made since"
    );
    assert!(other.is_active(&token).await);
    let answer = one
        .post_as("checkout", "/revoke", &format!("token={token}"))
        .await;
    assert_eq!(
        answer.json()["version"],
        one.version(),
        "stored, not called worthless"
    );
    other.tick().await;
    assert!(!other.is_active(&token).await);
}

#[tokio::test]
async fn with_a_clock_that_was_put_back_nothing_is_minted_until_it_has_caught_up() {
    let harness = Harness::new().await;
    let token = harness.token_for("checkout", "resource=stock").await;
    harness.advance(120).await;
    assert!(!harness.is_active(&token).await);
    harness.clock.put_back(100);
    let refused = harness.post_as("checkout", "/token", GRANT).await;
    assert_eq!(refused.error(), (503, "temporarily_unavailable".into()));
    assert_eq!(refused.header(header::RETRY_AFTER), "1");
    assert_eq!(harness.get("/readyz").await.status, 503);
    assert_eq!(metric(&harness, "clock_skew_seconds").await, 100);
    assert!(
        !harness.is_active(&token).await,
        "what had expired stays so"
    );
    assert_eq!(
        harness.get("/bundle").await.status,
        200,
        "proxies are served on"
    );
    harness.clock.put_back(-100);
    assert_eq!(decode(&harness.token().await).1["iat"], NOW + 120);
    assert_eq!(harness.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn a_time_of_day_that_jumps_neither_ends_freshness_nor_gives_a_client_more() {
    let mut config = crate::support::config();
    config.limits.requests_per_second = 1;
    let harness = Harness::with(config).await;
    harness.token().await;
    harness.clock.put_back(-3_600);
    let detail = harness.get("/readyz").await.json()["detail"].to_string();
    assert!(
        detail.contains("3600 s forward"),
        "fresh, but for the clock: {detail}"
    );
    assert_eq!(
        harness.post_as("checkout", "/token", GRANT).await.status,
        429
    );
}
