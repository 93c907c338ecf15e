//! `POST /revoke` for one token or one key: RFC 7009, rule I23.

use meshseal_core::revocation::index_of;

use crate::support::{Harness, ISSUER, config, decode};

/// Returns the numbers of revoked tokens and of epochs in the published bundle.
pub(crate) fn entries(harness: &Harness) -> (usize, usize) {
    let published = harness.issuer.publisher.current();
    let trust = published.trust(ISSUER).unwrap();
    let epochs = &trust.epochs;
    let kinds = [
        &epochs.sub,
        &epochs.client,
        &epochs.sid,
        &epochs.grant,
        &epochs.kid,
    ];
    (
        trust.revoked.len(),
        kinds.iter().map(|kind| kind.len()).sum::<usize>() + usize::from(epochs.all.is_some()),
    )
}

#[tokio::test]
async fn client_revokes_its_own_tokens() {
    let harness = Harness::new().await;
    let (one, two) = (harness.token().await, harness.token().await);
    let answer = harness
        .post_as(
            "checkout",
            "/revoke",
            &format!("token={one}&token_type_hint=refresh_token"),
        )
        .await;
    assert_eq!(
        (answer.status.as_u16(), answer.json()["version"].as_u64()),
        (200, Some(harness.version()))
    );
    assert!(!harness.is_active(&one).await);
    assert!(harness.is_active(&two).await, "the other token");
    let published = harness.issuer.publisher.current();
    let index = index_of(decode(&one).1["jti"].as_str().unwrap()).unwrap();
    assert!(published.trust(ISSUER).unwrap().revoked.contains(index));
}

#[tokio::test]
async fn only_administrator_revokes_tokens_of_others() {
    let harness = Harness::new().await;
    let token = harness.token().await;
    let refused = harness
        .post_as("stock", "/revoke", &format!("token={token}"))
        .await;
    assert_eq!(refused.error(), (400, "unauthorized_client".into()));
    assert!(harness.is_active(&token).await);
    assert_eq!(
        harness
            .post_as("operator", "/revoke", &format!("token={token}"))
            .await
            .status,
        200
    );
    assert!(!harness.is_active(&token).await);
}

#[tokio::test]
async fn names_limit_to_client_beyond_its_quota() {
    let mut config = config();
    config.limits.revoked_tokens_per_client = 1;
    let harness = Harness::with(config).await;
    let (one, two) = (harness.token().await, harness.token().await);
    let first = harness
        .post_as("checkout", "/revoke", &format!("token={one}"))
        .await
        .json();
    let again = harness
        .post_as("checkout", "/revoke", &format!("token={one}&wait=1"))
        .await
        .json();
    assert_eq!(
        again["version"], first["version"],
        "the same version, for a revocation that is stored already"
    );

    // A second revocation exceeds the quota of the client, but not of an administrator.
    let refused = harness
        .post_as("checkout", "/revoke", &format!("token={two}"))
        .await;
    assert_eq!(refused.error(), (429, "temporarily_unavailable".into()));
    assert!(
        refused.text.contains("limits.revokedTokensPerClient"),
        "{}",
        refused.text
    );
    assert!(harness.is_active(&two).await);
    assert_eq!(
        harness
            .post_as("operator", "/revoke", &format!("token={two}"))
            .await
            .status,
        200
    );
    assert!(!harness.is_active(&two).await);
}

#[tokio::test]
async fn foreign_or_expired_tokens_leave_no_entry() {
    let harness = Harness::new().await;
    let expired = harness.token_for("checkout", "resource=stock").await;
    // The token expires after 60 s, and proxies may accept it for 60 s longer.
    harness.advance(120).await;
    let version = harness.version();
    for token in ["x", "a.b.c", &expired, &"x".repeat(20_000)] {
        assert_eq!(
            harness
                .post_as("checkout", "/revoke", &format!("token={token}"))
                .await
                .status,
            200
        );
    }
    assert_eq!(
        (harness.version(), entries(&harness)),
        (version, (0, 0)),
        "no version and no entry"
    );
    assert_eq!(
        harness.post("/revoke", "token=x").await.error(),
        (401, "invalid_client".into())
    );
}

#[tokio::test]
async fn revokes_token_within_longest_clock_skew() {
    let harness = Harness::new().await;
    let token = harness.token_for("checkout", "resource=stock").await;
    harness.advance(119).await;
    assert_eq!(
        harness
            .post_as("checkout", "/revoke", &format!("token={token}"))
            .await
            .status,
        200
    );
    assert_eq!(entries(&harness), (1, 0));
}

#[tokio::test]
async fn revokes_token_of_removed_service() {
    let harness = Harness::new().await;
    let token = harness.token().await;
    let without = crate::support::yaml()
        .replace("audience: orders", "audience: other")
        .replace("[orders", "[other");
    let config = meshseal_issuer::config::from_yaml(&without).unwrap();
    let harness = Harness::at(harness.database.clone(), config, harness.clock.clone()).await;
    assert!(
        harness.is_active(&token).await,
        "proxies that still serve `orders` accept it"
    );
    let answer = harness
        .post_as("operator", "/revoke", &format!("token={token}"))
        .await
        .json();
    let jti = decode(&token).1["jti"].clone();
    assert_eq!(
        (&answer["revoked"], &answer["kind"], &answer["jti"]),
        (&true.into(), &"token".into(), &jti)
    );
    assert!(!harness.is_active(&token).await);
}

#[tokio::test]
async fn reports_request_without_effect() {
    let harness = Harness::new().await;
    let token = harness.token().await;
    let foreign = crate::support::signing::sign_foreign(&decode(&token).1);
    for (what, token, reason) in [
        (
            "truncated token",
            &token[..token.len() - 2],
            "signature-invalid",
        ),
        (
            "token without signature",
            token.rsplit_once('.').unwrap().0,
            "token-malformed",
        ),
        (
            "token signed by another key",
            foreign.as_str(),
            "type-not-allowed",
        ),
    ] {
        let form = format!("token={token}");
        let told = harness.post_as("operator", "/revoke", &form).await;
        assert_eq!(
            (told.status.as_u16(), &told.json()["revoked"]),
            (200, &false.into()),
            "{what}"
        );
        assert_eq!(told.json()["reason"], reason, "{what}");
        let plain = harness.post_as("checkout", "/revoke", &form).await;
        assert_eq!(
            (plain.status.as_u16(), &plain.json()["revoked"]),
            (200, &false.into()),
            "{what}"
        );
        assert_eq!(
            plain.json()["reason"],
            serde_json::Value::Null,
            "RFC 7009 §2.2"
        );
    }
    assert!(harness.is_active(&token).await);
}

#[tokio::test]
async fn revokes_token_by_jti() {
    let harness = Harness::new().await;
    let (token, other) = (harness.token().await, harness.token().await);
    let jti = decode(&token).1["jti"].as_str().unwrap().to_owned();

    // Only an administrator may revoke by token id.
    let refused = harness
        .post_as("checkout", "/revoke", &format!("jti={jti}"))
        .await;
    assert_eq!(
        refused.error(),
        (403, "insufficient_scope".into()),
        "a token id does not identify its client"
    );
    let answer = harness
        .post_as("operator", "/revoke", &format!("jti={jti}"))
        .await
        .json();
    assert_eq!(
        (&answer["revoked"], &answer["jti"]),
        (&true.into(), &jti.as_str().into())
    );
    assert_eq!(
        (
            harness.is_active(&token).await,
            harness.is_active(&other).await
        ),
        (false, true)
    );

    // Token ids that the issuer cannot have issued.
    for (jti, reason) in [
        (
            meshseal_core::revocation::jti_with_index(1 << 60, [7; 8]),
            "jti-unknown",
        ),
        ("not-a-jti".to_owned(), "jti-without-index"),
    ] {
        let told = harness
            .post_as("operator", "/revoke", &format!("jti={jti}"))
            .await
            .json();
        assert_eq!(
            (&told["revoked"], &told["reason"]),
            (&false.into(), &reason.into()),
            "{jti}"
        );
    }
    assert_eq!(
        entries(&harness),
        (1, 0),
        "an unknown jti must not revoke a future token"
    );
}

#[tokio::test]
async fn key_revocation_covers_all_its_tokens() {
    let harness = Harness::new().await;
    let (token, kid) = (harness.token().await, harness.active_kid());
    assert_eq!(
        harness
            .post_as("checkout", "/revoke", &format!("key={kid}"))
            .await
            .status,
        403
    );
    let answer = harness
        .post_as("operator", "/revoke", &format!("key={kid}"))
        .await
        .json();
    assert_eq!(
        (&answer["revoked"], &answer["name"]),
        (&true.into(), &kid.as_str().into())
    );
    assert!(!harness.is_active(&token).await);
    let new = harness.token().await;
    assert!(harness.is_active(&new).await, "signed by the standby");

    // Keys that sign no tokens.
    let bundle_kid = harness.key(
        meshseal_issuer::keys::Purpose::Bundle,
        meshseal_issuer::keys::KeyState::Active,
    );
    for (kid, reason) in [
        ("unknown".into(), "key-unknown"),
        (bundle_kid.unwrap().kid, "key-signs-no-tokens"),
    ] {
        let told = harness
            .post_as("operator", "/revoke", &format!("key={kid}"))
            .await
            .json();
        assert_eq!(
            (&told["revoked"], &told["reason"]),
            (&false.into(), &reason.into()),
            "{kid}"
        );
    }
}

#[tokio::test]
async fn retired_key_revokes_nothing() {
    let harness = Harness::new().await;
    harness.tick().await;
    let old = harness.active_kid();
    assert_eq!(
        harness
            .post_as("operator", "/admin/keys/rotate", "force=true")
            .await
            .status,
        200
    );

    // The key drains and retires.
    for _ in 0..3 {
        harness.advance(1_300).await;
        harness.tick().await;
    }
    assert_eq!(
        harness.key_state(&old),
        Some(meshseal_issuer::keys::KeyState::Retired)
    );
    let ask = async |kid: &str| {
        harness
            .post_as("operator", "/revoke", &format!("key={kid}"))
            .await
            .json()
    };
    assert_eq!(ask(&old).await["reason"], "key-retired");
    let stolen = harness.active_kid();
    let (first, again) = (ask(&stolen).await, ask(&stolen).await);
    assert_eq!(
        (&first["revoked"], &again["revoked"]),
        (&true.into(), &true.into()),
        "a repeated revocation gets a receipt"
    );
}

#[tokio::test]
async fn jti_older_than_valid_tokens_is_expired() {
    let harness = Harness::new().await;
    harness.tick().await;
    let old = decode(&harness.token().await).1["jti"]
        .as_str()
        .unwrap()
        .to_owned();
    let made_up = meshseal_core::revocation::jti_with_index(5, [7; 8]);
    let ask = async |jti: &str| {
        harness
            .post_as("operator", "/revoke", &format!("jti={jti}"))
            .await
            .json()
    };
    let told = ask(&made_up).await;
    assert_eq!(
        (&told["revoked"], &told["reason"]),
        (&false.into(), &"jti-expired".into()),
        "{told}"
    );

    // A token of a day may still be valid.
    for hour in 1..=25 {
        harness.advance(3_600).await;
        harness.tick().await;
        assert_eq!(
            ask(&old).await["revoked"],
            true,
            "hour {hour}: a replica may issue from an older block"
        );
    }
    harness.advance(130).await;
    harness.tick().await;
    assert_eq!(ask(&old).await["reason"], "jti-expired");
    // The replica advances its indices while it issues, so that new tokens stay revocable.
    let new = harness.token().await;
    let told = ask(decode(&new).1["jti"].as_str().unwrap()).await;
    assert_eq!(
        (&told["revoked"], harness.is_active(&new).await),
        (&true.into(), false),
        "{told}"
    );
}
