//! `GET /bundle`: waiting, well-formed and authenticated polls.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, header};

use crate::bundle::payload;
use crate::support::{Harness, Proxy, config, decode};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn next_change_wakes_waiting_polls() {
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

    // Wait until the issuer counts all polls as waiting.
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
async fn wait_ends_with_heartbeat() {
    let harness = Harness::new().await;
    // With tokio's clock paused, the timeout fires once all tasks wait.
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
async fn shutdown_answers_waiting_polls() {
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
async fn rejects_incomplete_protocol_two() {
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

    // Each case changes or removes one header.
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
async fn rejects_malformed_polls() {
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
async fn requires_configured_poll_token() {
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
async fn poll_confirms_and_is_recorded() {
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
