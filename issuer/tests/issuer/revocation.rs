//! `POST /revoke`: RFC 7009, groups, receipts, and how long entries stay.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use meshseal_core::authn::Accepted;
use meshseal_core::revocation::index_of;
use meshseal_issuer::revocation::{EpochKind, EpochRecord};
use meshseal_issuer::store::Change;
use serde_json::{Value, json};

use crate::support::store::Fickle;
use crate::support::{Harness, ISSUER, NOW, Proxy, config, decode};

fn entries(harness: &Harness) -> (usize, usize) {
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
async fn a_client_revokes_its_own_tokens() {
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
    assert!(harness.is_active(&two).await, "that one only");
    let published = harness.issuer.publisher.current();
    let index = index_of(decode(&one).1["jti"].as_str().unwrap()).unwrap();
    assert!(published.trust(ISSUER).unwrap().revoked.contains(index));
}

#[tokio::test]
async fn a_client_cannot_revoke_anothers_but_an_administrator_can() {
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
async fn a_client_that_revokes_too_much_is_told_what_to_do() {
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
        "nothing new, and a receipt for what there is"
    );
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
async fn what_is_no_token_of_ours_needs_no_revocation() {
    let harness = Harness::new().await;
    let expired = harness.token_for("checkout", "resource=stock").await;
    // It lives 60 s, and proxies may grant 60 s more.
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
        "and leaves no trace"
    );
    assert_eq!(
        harness.post("/revoke", "token=x").await.error(),
        (401, "invalid_client".into())
    );
}

#[tokio::test]
async fn a_token_that_only_a_patient_proxy_would_take_can_be_revoked() {
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
async fn token_of_a_removed_service_is_revoked() {
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
async fn request_without_effect_says_so() {
    let harness = Harness::new().await;
    let token = harness.token().await;
    let foreign = crate::support::signing::sign_foreign(&decode(&token).1);
    for (what, token, reason) in [
        (
            "a truncated paste",
            &token[..token.len() - 2],
            "signature-invalid",
        ),
        (
            "a paste without signature",
            token.rsplit_once('.').unwrap().0,
            "token-malformed",
        ),
        (
            "a token of another key",
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
async fn jti_revokes_a_token_not_at_hand() {
    let harness = Harness::new().await;
    let (token, other) = (harness.token().await, harness.token().await);
    let jti = decode(&token).1["jti"].as_str().unwrap().to_owned();
    let refused = harness
        .post_as("checkout", "/revoke", &format!("jti={jti}"))
        .await;
    assert_eq!(
        refused.error(),
        (403, "insufficient_scope".into()),
        "an index says nothing of its client"
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
    assert_eq!(entries(&harness), (1, 0), "no future token is revoked");
}

#[tokio::test]
async fn key_revokes_all_that_it_signed() {
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
    assert!(harness.is_active(&new).await, "the standby signs");
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
async fn key_without_living_tokens_revokes_nothing() {
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
    for _ in 0..3 {
        harness.advance(1_300).await;
        harness.tick().await;
    }
    let state = |kid: &str| {
        harness
            .issuer
            .publisher
            .current()
            .keys
            .iter()
            .find(|key| key.kid == kid)
            .unwrap()
            .state
    };
    assert_eq!(state(&old), meshseal_issuer::keys::KeyState::Retired);
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
        "a receipt for what is revoked"
    );
}

/// Tokens of any issuer live a day and a minute at most.
#[tokio::test]
async fn epoch_before_all_living_tokens_revokes_nothing() {
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
            "{group}: such a token may live"
        );
    }
    // A clock that is ahead proves nothing: living tokens would stay valid.
    harness.advance(10 * 86_400).await;
    let form = format!("all=true&issued_before={}", NOW + 10);
    assert_eq!(
        harness.post_as("operator", "/revoke", &form).await.json()["revoked"],
        true
    );
}

#[tokio::test]
async fn jti_older_than_any_living_token_is_expired() {
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
    for hour in 1..=25 {
        harness.advance(3_600).await;
        harness.tick().await;
        assert_eq!(
            ask(&old).await["revoked"],
            true,
            "hour {hour}: a block may be an hour old"
        );
    }
    harness.advance(130).await;
    harness.tick().await;
    assert_eq!(ask(&old).await["reason"], "jti-expired");
    // The same replica has issued all the time; its index does not stay behind.
    let new = harness.token().await;
    let told = ask(decode(&new).1["jti"].as_str().unwrap()).await;
    assert_eq!(
        (&told["revoked"], harness.is_active(&new).await),
        (&true.into(), false),
        "{told}"
    );
}

#[tokio::test]
async fn name_without_tokens_is_revoked_with_a_hint() {
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
async fn groups_are_for_administrators() {
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
async fn a_group_dies_up_to_its_time_and_no_further() {
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
        assert!(!harness.is_active(&new).await, "{group}: this second too");
        let others = harness
            .post_as("stock", "/introspect", &format!("token={other}"))
            .await
            .json()["active"]
            == true;
        assert_eq!(others, group != "all=true");
    }
}

#[tokio::test]
async fn an_earlier_time_takes_nothing_back() {
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
async fn entries_go_when_no_token_can_need_them() {
    let harness = Harness::new().await;
    let token = harness.token().await;
    harness
        .post_as("checkout", "/revoke", &format!("token={token}"))
        .await;
    harness
        .post_as("operator", "/revoke", "subject=checkout")
        .await;
    harness.tick().await;
    // The token lives 300 s, and proxies may grant 60 s more.
    harness.advance(360).await;
    harness.tick().await;
    assert_eq!(entries(&harness), (1, 1));
    // Kept for a minute more, so that no replica takes it for lost.
    harness.advance(121).await;
    harness.tick().await;
    assert_eq!(
        entries(&harness),
        (0, 1),
        "a token issued under another configuration may live a day"
    );
    harness.advance(86_400 - 481).await;
    harness.tick().await;
    assert_eq!(entries(&harness), (0, 1));
    harness.advance(182).await;
    harness.tick().await;
    assert_eq!(entries(&harness), (0, 0));
}

#[tokio::test]
async fn without_proxies_a_receipt_is_complete_at_once() {
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
async fn a_receipt_comes_when_the_last_proxy_has_confirmed() {
    let (harness, store) = Harness::fickle().await;
    let harness = std::sync::Arc::new(harness);
    let (mut one, mut two) = (Proxy::of(&harness, 1), Proxy::of(&harness, 2));
    one.confirm(&harness).await;
    two.confirm(&harness).await;
    // Other replicas' proxies are looked up; while the clock stands still, never again.
    harness.get("/metrics").await;
    let asked = harness.clone();
    let (before, looks) = (harness.version(), store.proxies_asked.load(SeqCst));
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
    // Waits for the same answer of the database as the receipt does: no timer may run ahead of
    // that.
    harness.get("/metrics").await;
    // Timers run ahead as soon as everything waits: the receipt has looked, and looked again.
    tokio::time::pause();
    tokio::time::sleep(Duration::from_millis(120)).await;
    assert!(!receipt.is_finished(), "one is missing");
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
async fn a_receipt_says_who_is_missing_when_the_wait_is_over() {
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

/// The case issuer-receipt-cut-off.
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
        // The not-after of an hour, and the skew of a clock.
        assert_eq!(
            (&named["state"], &named["accepts_until"]),
            (&"unreachable".into(), &(NOW + 3_660).into())
        );
    }
    harness.advance(3_643).await;
    assert_eq!(
        counts(&again(&harness).await),
        json!(["incomplete", false, 0, 0, 3, 3]),
        "the last second"
    );
    harness.advance(1).await;
    assert_eq!(
        counts(&again(&harness).await),
        json!(["complete", true, 0, 0, 0, 0])
    );
}

/// The case issuer-receipt-after-restart, with polls in protocol 1 as there.
#[tokio::test]
async fn receipt_after_restart_remembers_workers() {
    let harness = Harness::new().await;
    for worker in 1..=3 {
        harness.poll(worker, None).await;
        harness.poll(worker, Some(harness.version())).await;
    }
    // Killed: nothing more is written.
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
async fn worker_of_another_replica_counts_before_it_confirms() {
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
async fn worker_that_cannot_be_recorded_gets_no_bundle() {
    let (harness, store) = Harness::fickle().await;
    let mut known = Proxy::of(&harness, 1);
    known.confirm(&harness).await;
    store.records_fail.store(true, SeqCst);
    store.proxies_fail.store(true, SeqCst);
    assert_eq!(harness.poll_proving(2, None, "").await.status, 503);
    assert_eq!(
        known.poll(&harness).await,
        Accepted::Refreshed,
        "one that is recorded does"
    );
    assert_eq!(
        harness.get("/bundle").await.status,
        200,
        "and so does a reader that is no proxy"
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
async fn forgotten_worker_counts_no_more_at_any_replica() {
    let one = Harness::new().await;
    Proxy::of(&one, 1).confirm(&one).await;
    let other = one.restarted().await;
    let forget = |name: &'static str| one.post_as("operator", "/admin/proxies/forget", name);
    assert_eq!(forget("name=edge").await.status, 400, "it polls");
    one.advance(40).await;
    other.advance(0).await;
    for wrong in ["", "name=nobody"] {
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
async fn receipts_that_wait_are_limited() {
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
    let one_more = harness
        .post_as("operator", "/revoke", "all=true&wait=60")
        .await
        .json();
    assert_eq!(
        counts(&one_more),
        json!(["incomplete", false, 0, 1, 0, 1]),
        "at once"
    );
    assert!(waiting.iter().all(|receipt| !receipt.is_finished()));
    harness.issuer.ending.cancel();
    for receipt in waiting {
        assert_eq!(receipt.await.unwrap().json()["state"], "incomplete");
    }
}

/// B10: what is revoked within 20 ms is published together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocations_share_publications() {
    let harness = std::sync::Arc::new(Harness::new().await);
    let mut versions = harness.issuer.publisher.versions();
    let counted = tokio::spawn(async move {
        let mut publications = 0_u128;
        while versions.changed().await.is_ok() {
            publications += 1;
        }
        publications
    });
    let begun = tokio::time::Instant::now();
    let revocations: Vec<_> = (0..100)
        .map(|at| {
            let harness = harness.clone();
            tokio::spawn(async move {
                harness
                    .post_as("operator", "/revoke", &format!("subject=s{at}"))
                    .await
            })
        })
        .collect();
    for revocation in revocations {
        assert_eq!(revocation.await.unwrap().status, 200);
    }
    let most = begun.elapsed().as_millis() / 20 + 1;
    drop(std::sync::Arc::into_inner(harness).unwrap());
    let publications = counted.await.unwrap();
    assert!(
        publications <= most && publications < 100,
        "{publications} of {most}"
    );
}

/// Callers choose how often they present an unknown token, but not how often the issuer asks the
/// database and wakes its polls for that.
#[tokio::test]
async fn unknown_tokens_share_queries_and_publications() {
    let (harness, store) = Harness::fickle().await;
    let other = harness.database.open().await;
    let mut versions = harness.issuer.publisher.versions();
    let begun = tokio::time::Instant::now();
    let asked = store.heads_asked.load(SeqCst);
    let mut publications = 0;
    for at in 0..20 {
        let change = Change {
            epochs: vec![EpochRecord {
                kind: EpochKind::Subject,
                name: format!("s{at}"),
                before: NOW,
                expires_at: NOW + 1_000,
            }],
            ..Change::default()
        };
        other.commit(&change, NOW * 1_000).await.unwrap();
        for _ in 0..3 {
            let answer = harness.post_as("checkout", "/revoke", "token=a.b.c").await;
            assert_eq!(answer.json()["revoked"], false, "{}", answer.text);
        }
        publications += u32::from(versions.has_changed().unwrap());
        versions.mark_unchanged();
    }
    let most = u32::try_from(begun.elapsed().as_millis() / 20 + 1).unwrap();
    let asked = store.heads_asked.load(SeqCst) - asked;
    assert!(
        publications > 0 && publications <= most && asked <= most,
        "{asked} queries, {publications} publications of {most}"
    );
}

/// What waits while a transaction is under way is committed by one more, and nobody waits for a
/// later one. A request that ends with its client, while its transaction waits for the disk, takes
/// no other along.
#[tokio::test]
async fn revocations_share_transactions() {
    let (harness, store) = Harness::fickle().await;
    let harness = std::sync::Arc::new(harness);
    Fickle::close(&store.groups);
    let ask = |at: u32| {
        let harness = harness.clone();
        tokio::spawn(async move {
            harness
                .post_as("operator", "/revoke", &format!("subject=s{at}&wait=0"))
                .await
        })
    };
    let first = ask(0);
    let mut others: Vec<_> = (1..50).map(ask).collect();
    // Every request comes as far as it can.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    store.groups.add_permits(1);
    assert_eq!(first.await.unwrap().status, 200);
    // The turn goes round in the order of coming. This request has taken the others along.
    others.remove(0).abort();
    store.groups.add_permits(100);
    for other in others {
        assert_eq!(other.await.unwrap().status, 200);
    }
    assert_eq!(
        store.transactions.load(SeqCst),
        2,
        "the aborted one did not begin its own"
    );
    let epochs = harness
        .issuer
        .publisher
        .current()
        .trust(ISSUER)
        .unwrap()
        .epochs
        .sub
        .len();
    assert_eq!(epochs, 49, "without that of the aborted request");
}

/// Revokes nothing new: the receipt is for the version that revoked all.
async fn again(harness: &Harness) -> Value {
    let form = format!("all=true&issued_before={NOW}&wait=0");
    harness.post_as("operator", "/revoke", &form).await.json()
}

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
