//! `GET /bundle`: content and proofs, judged by the code of core that accepts bundles in a proxy.

use axum::http::header;
use meshseal_core::authn::Accepted;
use meshseal_core::base64url;
use serde_json::Value;

use crate::support::{Answer, Harness, NOW, Proxy};

/// Decodes the payload of a bundle without verification.
pub(crate) fn payload(answer: &Answer) -> Value {
    let middle = answer.text.split('.').nth(1).unwrap();
    serde_json::from_slice(&base64url::decode(middle).unwrap()).unwrap()
}

#[tokio::test]
async fn sends_full_bundle_then_delta_then_heartbeat() {
    let harness = Harness::new().await;
    let mut proxy = Proxy::of(&harness, 1);

    // A worker without a bundle gets the full one.
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

    // After a revocation it gets a delta.
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
        "only the revocation"
    );
    assert_eq!(proxy.poll(&harness).await, Accepted::NewVersion);

    // Without a change it gets a heartbeat with new times.
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
async fn sends_full_bundle_to_outdated_proxy() {
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
        "the replica keeps the version of its start"
    );
    assert_eq!(
        payload(&after.poll(1, Some(NOW)).await).get("base"),
        None,
        "the replica has no earlier version"
    );
}

#[tokio::test]
async fn same_version_gets_same_bytes() {
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

#[tokio::test]
async fn overtakes_proved_version_of_restored_database() {
    let harness = Harness::new().await;
    // A version far ahead of the clock.
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
    // A version that was published before a backup was restored.
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
    assert_eq!(again.status, 409, "overtaking is limited");
}

/// Polls without a valid proof, in both protocols (B17).
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

    // A proof of another version confirms nothing.
    let answer = harness.poll_proving(4, Some(version), &other).await;
    assert_eq!(
        payload(&answer).get("base"),
        None,
        "a full bundle, as for a worker without a version"
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

/// An attacker who knows a worker's id and a poll token may poll in its name, in either protocol
/// (B17).
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
            "shorter staleness",
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
async fn proof_is_valid_across_replicas_and_restarts() {
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
        "only a proved version gets a heartbeat"
    );
}

/// Returns the names of the members of a bundle.
fn members(answer: &Answer) -> Vec<String> {
    payload(answer)
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect()
}

/// Readers of protocol 1 reject unknown members (B11).
#[tokio::test]
async fn new_members_reach_only_protocol_two() {
    let harness = Harness::new().await;
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
