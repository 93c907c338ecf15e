//! Receipts of `POST /revoke`: the workers that confirmed a revocation, and those that did not.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use meshseal_core::authn::Accepted;
use serde_json::{Value, json};

use crate::support::{Harness, NOW, Proxy};

#[tokio::test]
async fn receipt_without_proxies_is_complete_immediately() {
    let harness = Harness::new().await;
    let receipt = harness
        .post_as("operator", "/revoke", "all=true&wait=60")
        .await
        .json();
    assert_eq!(
        (&receipt["confirmed"], &receipt["proxies"]),
        (&0.into(), &0.into())
    );
    assert_eq!(receipt["version"], harness.version());
}

#[tokio::test]
async fn receipt_completes_with_last_confirmation() {
    let (harness, store) = Harness::fickle().await;
    let harness = std::sync::Arc::new(harness);
    let (mut one, mut two) = (Proxy::of(&harness, 1), Proxy::of(&harness, 2));
    one.confirm(&harness).await;
    two.confirm(&harness).await;
    // This request reads the records of other replicas; the fixed clock prevents another read.
    harness.get("/metrics").await;
    let asked = harness.clone();
    let (before, looks) = (harness.version(), store.proxies_asked.load(SeqCst));
    // The receipt waits for both proxies, and one confirms.
    let receipt = tokio::spawn(async move {
        asked
            .post_as("operator", "/revoke", "subject=checkout&wait=60")
            .await
    });
    let mut versions = harness.issuer.publisher.versions();
    versions
        .wait_for(|version| *version > before)
        .await
        .unwrap();
    one.confirm(&harness).await;
    while store.proxies_asked.load(SeqCst) == looks {
        tokio::task::yield_now().await;
    }
    // Waits for the same database query as the receipt, because no timer may fire before it ends.
    harness.get("/metrics").await;
    // With tokio's clock paused, timers fire once all tasks wait: the receipt has checked twice.
    tokio::time::pause();
    tokio::time::sleep(Duration::from_millis(120)).await;
    assert!(!receipt.is_finished(), "one proxy has not confirmed");
    two.confirm(&harness).await;
    let receipt = receipt.await.unwrap().json();
    assert_eq!(
        (&receipt["confirmed"], &receipt["proxies"]),
        (&2.into(), &2.into())
    );
    assert_eq!(receipt["version"], harness.version());
    assert!(
        receipt["elapsed_ms"]
            .as_u64()
            .is_some_and(|elapsed| (100..10_000).contains(&elapsed)),
        "{receipt}"
    );
}

#[tokio::test]
async fn receipt_counts_unconfirmed_proxies_after_wait() {
    let harness = Harness::new().await;
    let (mut one, mut two) = (Proxy::of(&harness, 1), Proxy::of(&harness, 2));
    one.confirm(&harness).await;
    two.confirm(&harness).await;
    let receipt = harness
        .post_as("operator", "/revoke", "all=true&wait=0")
        .await
        .json();
    assert_eq!(
        (&receipt["confirmed"], &receipt["proxies"]),
        (&0.into(), &2.into())
    );
    let proxies = harness.get_as("operator", "/admin/proxies").await.json();
    assert_eq!(proxies["proxies"].as_array().unwrap().len(), 2);
    assert!(
        proxies["proxies"]
            .as_array()
            .unwrap()
            .iter()
            .all(|proxy| proxy["current"] == false)
    );
}

/// Reproduces the case issuer-receipt-cut-off.
#[tokio::test]
async fn receipt_names_unreachable_workers_until_they_expire() {
    let harness = Harness::new().await;
    for worker in 1..=3 {
        Proxy::of(&harness, worker).confirm(&harness).await;
    }
    harness.advance(17).await;
    let receipt = harness
        .post_as("operator", "/revoke", "all=true&wait=0")
        .await
        .json();
    assert_eq!(counts(&receipt), json!(["incomplete", false, 0, 0, 3, 3]));
    for (worker, named) in (1..).zip(receipt["waiting_for"].as_array().unwrap()) {
        assert_eq!(named["worker"], format!("{worker:016x}"));
        // The not-after of an hour, and the clock skew.
        assert_eq!(
            (&named["state"], &named["accepts_until"]),
            (&"unreachable".into(), &(NOW + 3_660).into())
        );
    }
    harness.advance(3_643).await;
    assert_eq!(
        counts(&again(&harness).await),
        json!(["incomplete", false, 0, 0, 3, 3]),
        "the last second of the bundle"
    );
    harness.advance(1).await;
    assert_eq!(
        counts(&again(&harness).await),
        json!(["complete", true, 0, 0, 0, 0])
    );
}

/// Reproduces the case issuer-receipt-after-restart, which polls in protocol 1.
#[tokio::test]
async fn receipt_after_restart_remembers_workers() {
    let harness = Harness::new().await;
    for worker in 1..=3 {
        harness.poll(worker, None).await;
        harness.poll(worker, Some(harness.version())).await;
    }
    // The first replica is killed: it writes nothing more.
    let after = harness.restarted().await;
    after.advance(36).await;
    let receipt = after
        .post_as("operator", "/revoke", "all=true&wait=0")
        .await
        .json();
    assert_eq!(counts(&receipt), json!(["incomplete", false, 0, 0, 3, 3]));
    after.poll(1, Some(after.version())).await;
    assert_eq!(
        counts(&again(&after).await),
        json!(["incomplete", false, 1, 0, 2, 3])
    );
}

#[tokio::test]
async fn counts_unconfirmed_worker_of_another_replica() {
    let one = Harness::new().await;
    let other = one.restarted().await;
    one.poll_proving(1, None, "").await;
    let receipt = other
        .post_as("operator", "/revoke", "all=true&wait=0")
        .await
        .json();
    assert_eq!(counts(&receipt), json!(["incomplete", false, 0, 1, 0, 1]));
}

#[tokio::test]
async fn unrecorded_worker_gets_no_bundle() {
    let (harness, store) = Harness::fickle().await;
    let mut known = Proxy::of(&harness, 1);
    known.confirm(&harness).await;
    store.records_fail.store(true, SeqCst);
    store.proxies_fail.store(true, SeqCst);
    assert_eq!(harness.poll_proving(2, None, "").await.status, 503);
    assert_eq!(
        known.poll(&harness).await,
        Accepted::Refreshed,
        "a recorded worker gets bundles"
    );
    assert_eq!(
        harness.get("/bundle").await.status,
        200,
        "a reader without a worker id gets bundles"
    );
    let receipt = harness
        .post_as("operator", "/revoke", "all=true&wait=0")
        .await
        .json();
    assert_eq!(
        (&receipt["state"], &receipt["complete"]),
        (&"unknown".into(), &false.into())
    );
}

#[tokio::test]
async fn only_administrators_learn_names_of_workers() {
    let harness = Harness::new().await;
    Proxy::of(&harness, 1).confirm(&harness).await;
    let token = harness.token().await;
    let receipt = harness
        .post_as("checkout", "/revoke", &format!("token={token}&wait=0"))
        .await
        .json();
    assert_eq!(
        (counts(&receipt), receipt.get("waiting_for")),
        (json!(["incomplete", false, 0, 1, 0, 1]), None)
    );
}

#[tokio::test]
async fn no_replica_counts_forgotten_worker() {
    let one = Harness::new().await;
    Proxy::of(&one, 1).confirm(&one).await;
    let other = one.restarted().await;
    let forget = |name: &'static str| one.post_as("operator", "/admin/proxies/forget", name);
    assert_eq!(
        forget("name=edge").await.status,
        400,
        "a worker that polls cannot be forgotten"
    );

    // Once the worker is unreachable, only an administrator may forget it.
    one.advance(40).await;
    other.advance(0).await;
    for wrong in ["", "name=unknown"] {
        assert_eq!(forget(wrong).await.status, 400, "{wrong}");
    }
    assert_eq!(
        one.post_as("checkout", "/admin/proxies/forget", "name=edge")
            .await
            .status,
        403
    );
    assert_eq!(
        forget("name=edge").await.json()["forgotten"],
        json!(["0000000000000001"])
    );
    for replica in [&one, &other, &one.restarted().await] {
        assert_eq!(
            counts(&again(replica).await),
            json!(["complete", true, 0, 0, 0, 0])
        );
    }
}

#[tokio::test]
async fn waiting_receipts_are_limited() {
    let harness = std::sync::Arc::new(Harness::new().await);
    Proxy::of(&harness, 1).confirm(&harness).await;
    let waiting: Vec<_> = (0..256)
        .map(|_| {
            let harness = harness.clone();
            tokio::spawn(async move {
                harness
                    .post_as("operator", "/revoke", "all=true&wait=60")
                    .await
            })
        })
        .collect();
    while harness.issuer.receipts_waiting() < 256 {
        tokio::task::yield_now().await;
    }

    // A receipt beyond the limit does not wait.
    let one_more = harness
        .post_as("operator", "/revoke", "all=true&wait=60")
        .await
        .json();
    assert_eq!(
        counts(&one_more),
        json!(["incomplete", false, 0, 1, 0, 1]),
        "answered without a wait"
    );
    assert!(waiting.iter().all(|receipt| !receipt.is_finished()));
    harness.issuer.ending.cancel();
    for receipt in waiting {
        assert_eq!(receipt.await.unwrap().json()["state"], "incomplete");
    }
}

/// Repeats the revocation of all tokens. The receipt is for the version that revoked them.
async fn again(harness: &Harness) -> Value {
    let form = format!("all=true&issued_before={NOW}&wait=0");
    harness.post_as("operator", "/revoke", &form).await.json()
}

/// Returns the members of a receipt that count workers.
fn counts(receipt: &Value) -> Value {
    [
        "state",
        "complete",
        "confirmed",
        "pending",
        "unreachable",
        "proxies",
    ]
    .map(|name| receipt[name].clone())
    .into_iter()
    .collect()
}
