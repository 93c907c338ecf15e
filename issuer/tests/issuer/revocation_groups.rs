//! `POST /revoke` for a subject, client, session, grant or all tokens, and how long entries stay.

use crate::revocation::entries;
use crate::support::{Harness, NOW};

/// The longest lifetime of a token under any configuration is a day, and a minute of clock skew.
#[tokio::test]
async fn epoch_before_all_valid_tokens_revokes_nothing() {
    let harness = Harness::new().await;
    let longest = 86_400 + 60;
    for group in [
        "subject=checkout",
        "client=checkout",
        "session=s",
        "grant=g",
        "all=true",
    ] {
        let version = harness.version();
        let ask = async |before: u64| {
            let form = format!("{group}&issued_before={before}&wait=0");
            harness.post_as("operator", "/revoke", &form).await.json()
        };
        let told = ask(NOW - longest).await;
        assert_eq!(
            (&told["revoked"], &told["reason"]),
            (&false.into(), &"tokens-expired".into()),
            "{group}"
        );
        assert_eq!(
            (told.get("state"), harness.version()),
            (None, version),
            "{group}: neither a receipt nor an epoch"
        );
        assert_eq!(
            ask(NOW - longest + 1).await["revoked"],
            true,
            "{group}: such a token may be valid"
        );
    }
    // The clock alone does not prove that tokens have expired: it may be ahead.
    harness.advance(10 * 86_400).await;
    let form = format!("all=true&issued_before={}", NOW + 10);
    assert_eq!(
        harness.post_as("operator", "/revoke", &form).await.json()["revoked"],
        true
    );
}

#[tokio::test]
async fn unknown_name_is_revoked_with_hint() {
    let harness = Harness::new().await;
    for (group, known) in [
        ("client=checkout", true),
        ("subject=checkout", true),
        ("client=chekout", false),
        ("subject=chekout", false),
        ("session=s", false),
        ("grant=g", false),
    ] {
        let told = harness.post_as("operator", "/revoke", group).await.json();
        assert_eq!(
            (&told["revoked"], &told["known"]),
            (&true.into(), &known.into()),
            "{group}: {told}"
        );
        assert_eq!(told["hint"].is_string(), !known, "{group}: {told}");
    }
    assert_eq!(
        harness
            .post_as("operator", "/revoke", "all=true")
            .await
            .json()
            .get("known"),
        None
    );
}

#[tokio::test]
async fn only_administrators_revoke_groups() {
    let harness = Harness::new().await;
    for group in [
        "subject=checkout",
        "client=checkout",
        "session=s",
        "grant=g",
        "all=true",
    ] {
        assert_eq!(
            harness.post_as("checkout", "/revoke", group).await.error(),
            (403, "insufficient_scope".into()),
            "{group}"
        );
        let version = harness.version();
        assert_eq!(
            harness.post_as("operator", "/revoke", group).await.status,
            200,
            "{group}"
        );
        assert!(harness.version() > version);
    }
    assert_eq!(entries(&harness), (0, 5));
}

#[tokio::test]
async fn group_revocation_covers_earlier_tokens_only() {
    for group in ["subject=checkout", "client=checkout", "all=true"] {
        let harness = Harness::new().await;
        let old = harness.token().await;
        harness.advance(10).await;
        let new = harness.token().await;
        harness
            .post_as(
                "operator",
                "/revoke",
                &format!("{group}&issued_before={}", NOW + 10),
            )
            .await;
        assert_eq!(
            (harness.is_active(&old).await, harness.is_active(&new).await),
            (false, true),
            "{group}"
        );
        let other = harness.token_for("stock", "").await;
        harness.post_as("operator", "/revoke", group).await;
        assert!(
            !harness.is_active(&new).await,
            "{group}: includes the current second"
        );
        let others = harness
            .post_as("stock", "/introspect", &format!("token={other}"))
            .await
            .json()["active"]
            == true;
        assert_eq!(others, group != "all=true");
    }
}

#[tokio::test]
async fn earlier_epoch_restores_no_token() {
    let harness = Harness::new().await;
    let token = harness.token().await;
    harness
        .post_as("operator", "/revoke", "subject=checkout")
        .await;
    harness
        .post_as(
            "operator",
            "/revoke",
            &format!("subject=checkout&issued_before={}", NOW - 100),
        )
        .await;
    assert!(!harness.is_active(&token).await);
}

#[tokio::test]
async fn entries_expire_after_their_tokens() {
    let harness = Harness::new().await;
    let token = harness.token().await;
    harness
        .post_as("checkout", "/revoke", &format!("token={token}"))
        .await;
    harness
        .post_as("operator", "/revoke", "subject=checkout")
        .await;
    harness.tick().await;
    // The token expires after 300 s, and proxies may accept it for 60 s longer.
    harness.advance(360).await;
    harness.tick().await;
    assert_eq!(entries(&harness), (1, 1));
    // The entry is kept for another minute, so that no replica takes it for lost.
    harness.advance(121).await;
    harness.tick().await;
    assert_eq!(
        entries(&harness),
        (0, 1),
        "another configuration may allow tokens of a day"
    );
    harness.advance(86_400 - 481).await;
    harness.tick().await;
    assert_eq!(entries(&harness), (0, 1));
    harness.advance(182).await;
    harness.tick().await;
    assert_eq!(entries(&harness), (0, 0));
}
