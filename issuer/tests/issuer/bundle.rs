//! `GET /bundle`, as a proxy sees it: core's own acceptance is the judge.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, header};
use meshseal_core::authn::Accepted;
use meshseal_core::base64url;
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
        (
            first.header(header::CONTENT_TYPE),
            first.header(header::CACHE_CONTROL)
        ),
        ("application/jose", "no-store")
    );
    let content = payload(&first);
    assert_eq!(
        (content.get("base"), &content["iat"], &content["exp"]),
        (None, &NOW.into(), &(NOW + 3_600).into())
    );
    assert_eq!(proxy.poll(&harness).await, Accepted::NewVersion);
    let token = harness.token().await;
    let have = harness.version();
    harness
        .post_as("checkout", "/revoke", &format!("token={token}"))
        .await;
    let delta = payload(&harness.poll(1, Some(have)).await);
    assert_eq!(
        (&delta["base"], &delta["ver"]),
        (&have.into(), &harness.version().into())
    );
    assert_eq!(
        delta["issuers"]
            .as_object()
            .unwrap()
            .values()
            .next()
            .unwrap()
            .as_object()
            .unwrap()
            .len(),
        1,
        "the revocation only"
    );
    assert_eq!(proxy.poll(&harness).await, Accepted::NewVersion);
    harness.advance(5).await;
    let heartbeat = payload(&harness.poll(1, proxy.trust.bundle_version()).await);
    assert_eq!(
        (&heartbeat["base"], &heartbeat["iat"]),
        (&heartbeat["ver"], &(NOW + 5).into())
    );
    assert_eq!(heartbeat.get("issuers"), None);
    assert_eq!(proxy.poll(&harness).await, Accepted::Refreshed);
}

#[tokio::test]
async fn a_proxy_far_behind_gets_everything() {
    let harness = Harness::new().await;
    let mut proxy = Proxy::of(&harness, 1);
    proxy.poll(&harness).await;
    for at in 0..70 {
        harness
            .post_as("operator", "/revoke", &format!("subject=s{at}"))
            .await;
    }
    assert_eq!(
        payload(&harness.poll(1, proxy.trust.bundle_version()).await).get("base"),
        None
    );
    assert_eq!(proxy.poll(&harness).await, Accepted::NewVersion);
    let after = harness.restarted().await;
    let have = proxy.trust.bundle_version();
    after.post_as("operator", "/revoke", "subject=late").await;
    assert_eq!(
        payload(&after.poll(1, have).await)["base"],
        have.unwrap(),
        "the version of the restart is remembered"
    );
    assert_eq!(
        payload(&after.poll(1, Some(NOW)).await).get("base"),
        None,
        "one before it is not"
    );
}

#[tokio::test]
async fn everybody_at_one_version_gets_the_same_bytes() {
    let harness = Harness::new().await;
    let (one, two) = (
        harness.poll(1, None).await.text,
        harness.poll(2, None).await.text,
    );
    assert_eq!(one, two);
    let have = Some(harness.version());
    assert_eq!(
        harness.poll(1, have).await.text,
        harness.poll(2, have).await.text
    );
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
    tokio::time::timeout(Duration::from_secs(5), all_wait)
        .await
        .unwrap();
    harness.post_as("operator", "/revoke", "subject=x").await;
    for poll in polls {
        let answer = tokio::time::timeout(Duration::from_secs(5), poll)
            .await
            .unwrap()
            .unwrap();
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
    let answer = harness
        .get(&format!("/bundle?have={}&wait=25", harness.version()))
        .await;
    assert_eq!(
        (payload(&answer)["base"].as_u64(), begun.elapsed().as_secs()),
        (Some(harness.version()), 25)
    );
}

#[tokio::test]
async fn wait_without_database_extends_no_bundle() {
    let harness = Arc::new(Harness::new().await);
    let waiting = harness.clone();
    let before = harness.poll(1, Some(harness.version())).await;
    tokio::time::pause();
    let poll = tokio::spawn(async move {
        waiting
            .get(&format!("/bundle?have={}&wait=25", waiting.version()))
            .await
    });
    tokio::task::yield_now().await;
    harness.clock.advance(6);
    let after = poll.await.unwrap();
    assert_eq!(decode(&after.text).1["exp"], decode(&before.text).1["exp"]);
}

#[tokio::test]
async fn the_end_answers_whoever_waits() {
    let harness = Arc::new(Harness::new().await);
    let waiting = harness.clone();
    let poll = tokio::spawn(async move {
        waiting
            .get(&format!("/bundle?have={}&wait=55", waiting.version()))
            .await
    });
    tokio::task::yield_now().await;
    harness.issuer.ending.cancel();
    assert_eq!(
        tokio::time::timeout(Duration::from_secs(5), poll)
            .await
            .unwrap()
            .unwrap()
            .status,
        200
    );
    assert_eq!(harness.get("/readyz").await.status, 503);
}

#[tokio::test]
async fn proved_version_of_restored_database_is_overtaken() {
    let harness = Harness::new().await;
    let unthinkable = NOW * 1000 + 90_000;
    let ahead = harness
        .poll_proving(
            1,
            Some(unthinkable),
            &harness.issuer.publisher.proof(unthinkable),
        )
        .await;
    assert_eq!(
        (ahead.status.as_u16(), ahead.header(header::CONTENT_TYPE)),
        (409, "application/problem+json")
    );
    harness.advance(60).await;
    // A version that was published before the database was put back.
    let have = harness.version() + 30_000;
    let answer = harness
        .poll_proving(1, Some(have), &harness.issuer.publisher.proof(have))
        .await;
    assert_eq!(answer.status, 200);
    assert!(
        payload(&answer)["ver"]
            .as_u64()
            .is_some_and(|version| version > have)
    );
    let newer = harness.version() + 1;
    harness.clock.advance(1);
    let again = harness
        .poll_proving(1, Some(newer), &harness.issuer.publisher.proof(newer))
        .await;
    assert_eq!(again.status, 409, "not every time");
}

/// B17: polls that prove nothing, in both protocols.
#[tokio::test]
async fn unproven_version_changes_nothing() {
    let harness = Harness::new().await;
    let mut proxy = Proxy::of(&harness, 1);
    proxy.confirm(&harness).await;
    harness.advance(60).await;
    let (version, begun) = (
        harness.version(),
        harness.issuer.store.head().await.unwrap(),
    );
    let (ahead, other) = (
        version + 30_000,
        harness.issuer.publisher.proof(version - 1),
    );
    for answer in [
        harness.poll(2, Some(ahead)).await,
        harness.poll_proving(3, Some(ahead), &other).await,
    ] {
        assert_eq!(answer.status, 409, "{}", answer.text);
    }
    assert_eq!(
        harness.issuer.store.head().await.unwrap(),
        begun,
        "nothing is written"
    );
    assert_eq!(harness.issuer.live_proxies().await.confirmed(), version);
    let answer = harness.poll_proving(4, Some(version), &other).await;
    assert_eq!(
        payload(&answer).get("base"),
        None,
        "all of it, as for a reader of nothing"
    );
    assert_eq!(
        harness.issuer.live_proxies().await.confirmed(),
        0,
        "worker 4 has proved nothing"
    );
    harness
        .poll_proving(4, Some(version), &harness.issuer.publisher.proof(version))
        .await;
    assert_eq!(harness.issuer.live_proxies().await.confirmed(), version);
}

/// B17: whoever knows a worker's id and a poll token may poll in its name, in the protocol of his
/// choice.
#[tokio::test]
async fn poll_without_proof_confirms_nothing_for_another() {
    let harness = Harness::new().await;
    let mut proxy = Proxy::of(&harness, 1);
    proxy.confirm(&harness).await;
    let held = harness.version();
    assert_eq!(
        harness
            .post_as("operator", "/revoke", "subject=alice")
            .await
            .status,
        200
    );
    let before = harness.issuer.live_proxies().await;
    for (what, answer) in [
        ("protocol 1", harness.poll(1, Some(harness.version())).await),
        (
            "other pins",
            harness
                .poll_pinning(1, Some(harness.version()), "a-guess", "other")
                .await,
        ),
        (
            "a shorter staleness",
            harness
                .poll_stating(
                    1,
                    None,
                    [("proof", ""), ("pins", "pin"), ("staleness", "1")],
                )
                .await,
        ),
    ] {
        assert_eq!(answer.status, 200, "{what}");
        let now = harness.issuer.live_proxies().await;
        assert_eq!(now.confirmed(), held, "{what}");
        let (before, now) = (&before.proxies[0].record, &now.proxies[0].record);
        assert_eq!(
            (now.protocol, &now.pins, now.accepts_until),
            (2, &before.pins, before.accepts_until),
            "{what}"
        );
    }
}

#[tokio::test]
async fn proof_is_valid_at_every_replica_and_restart() {
    let harness = Harness::new().await;
    let mut proxy = Proxy::of(&harness, 1);
    proxy.poll(&harness).await;
    let proof = proxy.trust.bundle_ack().unwrap().to_owned();
    let after = harness.restarted().await;
    assert!(
        after
            .issuer
            .publisher
            .proves(proxy.trust.bundle_version().unwrap(), &proof)
    );
    assert_eq!(
        proxy.poll(&after).await,
        Accepted::Refreshed,
        "a heartbeat, which needs the proof"
    );
}

/// B11: today's readers are strict.
#[tokio::test]
async fn new_members_reach_only_protocol_two() {
    let harness = Harness::new().await;
    let members = |answer: &Answer| -> Vec<String> {
        payload(answer)
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect()
    };
    assert_eq!(
        members(&harness.poll(1, None).await),
        ["exp", "iat", "iss", "issuers", "ver"]
    );
    assert_eq!(
        members(&harness.poll_proving(2, None, "").await),
        ["ack", "exp", "iat", "iss", "issuers", "ver"]
    );
    assert_eq!(
        members(&harness.poll(1, Some(harness.version())).await),
        ["base", "exp", "iat", "iss", "ver"]
    );
}

#[tokio::test]
async fn refuses_incomplete_protocol_two() {
    let harness = Harness::new().await;
    let complete = [
        ("x-meshseal-protocol", "2"),
        ("x-meshseal-staleness", "300"),
        ("x-meshseal-pins", "a,b"),
    ];
    let poll = |changed: usize, value: Option<&str>| {
        let mut request = Request::get("/bundle").header("x-meshseal-worker", "00000000000000aa");
        for (at, (name, right)) in complete.iter().enumerate() {
            if let Some(value) = if at == changed { value } else { Some(*right) } {
                request = request.header(*name, value);
            }
        }
        harness.send(request.body(Body::empty()).unwrap())
    };
    let long = "k".repeat(514);
    for (changed, value) in [
        (0, Some("0")),
        (0, Some("two")),
        (1, None),
        (1, Some("soon")),
        (1, Some("-1")),
        (1, Some("")),
        (2, None),
        (2, Some(long.as_str())),
    ] {
        assert_eq!(
            poll(changed, value).await.status,
            400,
            "{changed} {value:?}"
        );
    }
    for (changed, value) in [(0, "3"), (1, "unbounded"), (1, "not-after"), (2, "")] {
        assert_eq!(
            poll(changed, Some(value)).await.status,
            200,
            "{changed} {value:?}"
        );
    }
}

#[tokio::test]
async fn malformed_polls_are_refused() {
    let harness = Harness::new().await;
    for query in [
        "have=x",
        "have=-1",
        "wait=56",
        "wait=x",
        "have=1&have=2",
        "other=1",
        "have=18446744073709551616",
    ] {
        let answer = harness.get(&format!("/bundle?{query}")).await;
        assert_eq!(
            (answer.status.as_u16(), answer.json()["title"].as_str()),
            (400, Some("Bad request")),
            "{query}"
        );
    }
    for worker in ["", "abc", "0123456789abcdeg", "0123456789abcdef0"] {
        let request = Request::get("/bundle")
            .header("x-meshseal-worker", worker)
            .body(Body::empty())
            .unwrap();
        assert_eq!(harness.send(request).await.status, 400, "{worker:?}");
    }
}

#[tokio::test]
async fn poll_tokens_are_asked_for_if_configured() {
    let mut config = config();
    let token = "a-poll-token-of-enough-length";
    config.bundle.poll_tokens = vec![meshseal_issuer::clients::SecretHash::of(token)];
    let harness = Harness::with(config).await;
    let poll = |authorization: &[&str]| {
        let mut request = Request::get("/bundle");
        for value in authorization {
            request = request.header("authorization", *value);
        }
        harness.send(request.body(Body::empty()).unwrap())
    };
    let right = "Bearer a-poll-token-of-enough-length";
    for wrong in [
        &[][..],
        &["Bearer other"],
        &["Basic a-poll-token-of-enough-length"],
        &[right, right],
    ] {
        let answer = poll(wrong).await;
        assert_eq!(
            (
                answer.status.as_u16(),
                answer.header(header::WWW_AUTHENTICATE)
            ),
            (401, "Bearer realm=\"meshseal\""),
            "{wrong:?}"
        );
    }
    for value in [right, "bEARER  a-poll-token-of-enough-length"] {
        assert_eq!(poll(&[value]).await.status, 200, "{value}");
    }
    let metrics = harness.metrics().await;
    for reason in [
        "credentials-missing",
        "poll-token-wrong",
        "header-malformed",
        "header-repeated",
    ] {
        assert!(
            metrics.contains(&format!("{{endpoint=\"bundle\",reason=\"{reason}\"}} 1\n")),
            "{reason}: {metrics}"
        );
    }
}

#[tokio::test]
async fn a_poll_is_a_confirmation_and_is_written_down() {
    let harness = Harness::new().await;
    let mut proxy = Proxy::of(&harness, 0xfeed);
    proxy.confirm(&harness).await;
    harness.tick().await;
    let kept = harness.issuer.store.proxies("").await.unwrap();
    assert_eq!(kept.len(), 1);
    assert_eq!(
        (
            kept[0].worker.as_str(),
            kept[0].node.as_str(),
            kept[0].version
        ),
        ("000000000000feed", "edge", harness.version())
    );
    let listed = harness.get_as("operator", "/admin/proxies").await.json();
    assert_eq!(
        (
            &listed["proxies"][0]["node"],
            &listed["proxies"][0]["current"]
        ),
        (&"edge".into(), &true.into())
    );
    assert!(
        harness
            .get("/metrics")
            .await
            .text
            .contains("meshseal_proxies_current 1")
    );
}
