//! `GET /bundle`, as a proxy sees it: core's own acceptance is the judge.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, header};
use meshseal_core::base64url;
use meshseal_core::trust::Accepted;
use serde_json::Value;

use crate::support::{Answer, Harness, NOW, Proxy, config, decode};

fn payload(answer: &Answer) -> Value {
    let middle = answer.text.split('.').nth(1).unwrap();
    serde_json::from_slice(&base64url::decode(middle).unwrap()).unwrap()
}

#[tokio::test]
async fn first_everything_then_what_is_new_then_that_nothing_is() {
    let harness = Harness::new().await;
    let mut proxy = Proxy::of(&harness, 1);
    let first = harness.poll(1, None).await;
    assert_eq!(
        (first.header(header::CONTENT_TYPE), first.header(header::CACHE_CONTROL)),
        ("application/jose", "no-store")
    );
    let content = payload(&first);
    assert_eq!((content.get("base"), &content["iat"], &content["exp"]), (None, &NOW.into(), &(NOW + 3_600).into()));
    assert_eq!(proxy.poll(&harness).await, Accepted::NewVersion);
    let token = harness.token().await;
    let have = harness.version();
    harness.post_as("checkout", "/revoke", &format!("token={token}")).await;
    let delta = payload(&harness.poll(1, Some(have)).await);
    assert_eq!((&delta["base"], &delta["ver"]), (&have.into(), &harness.version().into()));
    assert_eq!(
        delta["issuers"].as_object().unwrap().values().next().unwrap().as_object().unwrap().len(),
        1,
        "the revocation only"
    );
    assert_eq!(proxy.poll(&harness).await, Accepted::NewVersion);
    harness.advance(5).await;
    let heartbeat = payload(&harness.poll(1, proxy.trust.bundle_version()).await);
    assert_eq!((&heartbeat["base"], &heartbeat["iat"]), (&heartbeat["ver"], &(NOW + 5).into()));
    assert_eq!(heartbeat.get("issuers"), None);
    assert_eq!(proxy.poll(&harness).await, Accepted::Refreshed);
}

#[tokio::test]
async fn a_proxy_far_behind_gets_everything() {
    let harness = Harness::new().await;
    let mut proxy = Proxy::of(&harness, 1);
    proxy.poll(&harness).await;
    for at in 0..70 {
        harness.post_as("operator", "/revoke", &format!("subject=s{at}")).await;
    }
    assert_eq!(payload(&harness.poll(1, proxy.trust.bundle_version()).await).get("base"), None);
    assert_eq!(proxy.poll(&harness).await, Accepted::NewVersion);
    let after = harness.restarted().await;
    let have = proxy.trust.bundle_version();
    after.post_as("operator", "/revoke", "subject=late").await;
    assert_eq!(payload(&after.poll(1, have).await)["base"], have.unwrap(), "the version of the restart is remembered");
    assert_eq!(payload(&after.poll(1, Some(NOW)).await).get("base"), None, "one before it is not");
}

#[tokio::test]
async fn everybody_at_one_version_gets_the_same_bytes() {
    let harness = Harness::new().await;
    let (one, two) = (harness.poll(1, None).await.text, harness.poll(2, None).await.text);
    assert_eq!(one, two);
    let have = Some(harness.version());
    assert_eq!(harness.poll(1, have).await.text, harness.poll(2, have).await.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_is_woken_by_the_next_change() {
    let harness = Arc::new(Harness::new().await);
    let have = harness.version();
    let polls: Vec<_> = (0..50_u64)
        .map(|worker| {
            let harness = harness.clone();
            tokio::spawn(async move {
                let request = Request::get(format!("/bundle?have={have}&wait=55"))
                    .header("x-meshseal-worker", format!("{worker:016x}"));
                harness.send(request.body(Body::empty()).unwrap()).await
            })
        })
        .collect();
    let all_wait = async {
        loop {
            let moved = harness.issuer.proxies.moved();
            if harness.issuer.proxies.waiting() == 50 {
                break;
            }
            moved.await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), all_wait).await.unwrap();
    harness.post_as("operator", "/revoke", "subject=x").await;
    for poll in polls {
        let answer = tokio::time::timeout(Duration::from_secs(5), poll).await.unwrap().unwrap();
        assert_eq!(payload(&answer)["ver"], harness.version());
    }
    assert_eq!(harness.issuer.proxies.waiting(), 0);
}

#[tokio::test]
async fn a_wait_ends_with_a_heartbeat() {
    let harness = Harness::new().await;
    // Timers run ahead as soon as everything waits.
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    let answer = harness.get(&format!("/bundle?have={}&wait=25", harness.version())).await;
    assert_eq!((payload(&answer)["base"].as_u64(), begun.elapsed().as_secs()), (Some(harness.version()), 25));
}

#[tokio::test]
async fn wait_without_database_extends_no_bundle() {
    let harness = Arc::new(Harness::new().await);
    let waiting = harness.clone();
    let before = harness.poll(1, Some(harness.version())).await;
    tokio::time::pause();
    let poll = tokio::spawn(async move { waiting.get(&format!("/bundle?have={}&wait=25", waiting.version())).await });
    tokio::task::yield_now().await;
    harness.clock.advance(6);
    let after = poll.await.unwrap();
    assert_eq!(decode(&after.text).1["exp"], decode(&before.text).1["exp"]);
}

#[tokio::test]
async fn the_end_answers_whoever_waits() {
    let harness = Arc::new(Harness::new().await);
    let waiting = harness.clone();
    let poll = tokio::spawn(async move { waiting.get(&format!("/bundle?have={}&wait=55", waiting.version())).await });
    tokio::task::yield_now().await;
    harness.issuer.ending.cancel();
    assert_eq!(tokio::time::timeout(Duration::from_secs(5), poll).await.unwrap().unwrap().status, 200);
    assert_eq!(harness.get("/readyz").await.status, 503);
}

#[tokio::test]
async fn a_proxy_ahead_is_told_so_and_after_a_restored_backup_overtaken() {
    let harness = Harness::new().await;
    let ahead = harness.poll(1, Some(NOW * 1000 + 5_000)).await;
    assert_eq!((ahead.status.as_u16(), ahead.header(header::CONTENT_TYPE)), (409, "application/problem+json"));
    harness.advance(60).await;
    // A version that may have been published before the database was put back.
    let have = harness.version() + 30_000;
    let answer = harness.poll(1, Some(have)).await;
    assert_eq!(answer.status, 200);
    assert!(payload(&answer)["ver"].as_u64().is_some_and(|version| version > have));
    let again = harness.poll(1, Some(harness.version() + 1)).await;
    assert_eq!(again.status, 409, "not at everybody's word, and not every time");
}

#[tokio::test]
async fn malformed_polls_are_refused() {
    let harness = Harness::new().await;
    for query in ["have=x", "have=-1", "wait=56", "wait=x", "have=1&have=2", "other=1", "have=18446744073709551616"] {
        let answer = harness.get(&format!("/bundle?{query}")).await;
        assert_eq!((answer.status.as_u16(), answer.json()["title"].as_str()), (400, Some("Bad request")), "{query}");
    }
    for worker in ["", "abc", "0123456789abcdeg", "0123456789abcdef0"] {
        let request = Request::get("/bundle").header("x-meshseal-worker", worker).body(Body::empty()).unwrap();
        assert_eq!(harness.send(request).await.status, 400, "{worker:?}");
    }
}

#[tokio::test]
async fn poll_tokens_are_asked_for_if_configured() {
    let mut config = config();
    let token = "a-poll-token-of-enough-length";
    config.bundle.poll_tokens = vec![meshseal_issuer::clients::SecretHash::of(token)];
    let harness = Harness::with(config).await;
    let poll = |authorization: &'static str| {
        let mut request = Request::get("/bundle");
        if !authorization.is_empty() {
            request = request.header("authorization", authorization);
        }
        harness.send(request.body(Body::empty()).unwrap())
    };
    for wrong in ["", "Bearer other", "Basic a-poll-token-of-enough-length"] {
        let answer = poll(wrong).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header(header::WWW_AUTHENTICATE)),
            (401, "Bearer realm=\"meshseal\""),
            "{wrong}"
        );
    }
    assert_eq!(poll("Bearer a-poll-token-of-enough-length").await.status, 200);
    let metrics = harness.metrics().await;
    for reason in ["credentials-missing", "poll-token-wrong", "header-malformed"] {
        assert!(metrics.contains(&format!("{{endpoint=\"bundle\",reason=\"{reason}\"}} 1\n")), "{reason}: {metrics}");
    }
}

#[tokio::test]
async fn a_poll_is_a_confirmation_and_is_written_down() {
    let harness = Harness::new().await;
    let mut proxy = Proxy::of(&harness, 0xfeed);
    proxy.confirm(&harness).await;
    harness.tick().await;
    let kept = harness.issuer.store.proxies(0).await.unwrap();
    assert_eq!(kept.len(), 1);
    assert_eq!(
        (kept[0].worker.as_str(), kept[0].node.as_str(), kept[0].version),
        ("000000000000feed", "edge", harness.version())
    );
    let listed = harness.get_as("operator", "/admin/proxies").await.json();
    assert_eq!((&listed["proxies"][0]["node"], &listed["proxies"][0]["current"]), (&"edge".into(), &true.into()));
    assert!(harness.get("/metrics").await.text.contains("meshseal_proxies_current 1"));
}
