//! The life of signing keys: acknowledged rotation, timeout, schedule, restart, revocation (rule
//! I26). The pure decisions are tested in `keys::lifecycle`; here they meet database, bundle and
//! proxies.

use meshseal_issuer::config::Config;
use meshseal_issuer::keys::{
    Algorithm, KeyChange, KeyRecord, KeyState, MAX_DRAINING, Purpose, generate,
};
use meshseal_issuer::store::Change;
use serde_json::json;
use sqlx::{Connection as _, Executor as _};

use crate::support::database::Database;
use crate::support::{Harness, NOW, Proxy, accepts, config, deaf_worker, decode, master};

fn kid(token: &str) -> String {
    decode(token).0["kid"].as_str().unwrap().to_owned()
}

async fn ask(harness: &Harness) {
    assert_eq!(
        harness
            .post_as("operator", "/admin/keys/rotate", "")
            .await
            .status,
        202
    );
}

#[tokio::test]
async fn a_new_key_signs_once_every_proxy_has_it_and_no_token_is_refused() {
    let harness = Harness::new().await;
    let (mut near, mut far) = (Proxy::of(&harness, 1), Proxy::of(&harness, 2));
    near.confirm(&harness).await;
    far.confirm(&harness).await;
    let mut kids = vec![harness.active_kid()];
    for _ in 0..3 {
        ask(&harness).await;
        harness.tick().await;
        let token = harness.token().await;
        assert!(
            accepts(&harness, &near.trust, &token),
            "signed with a key that every proxy has, before the news is there"
        );
        assert!(accepts(&harness, &far.trust, &token));
        kids.push(kid(&token));
        near.confirm(&harness).await;
        far.confirm(&harness).await;
        let published = harness.issuer.publisher.current();
        assert!(
            published
                .verifiers
                .iter()
                .all(|key| published.tables.is_ready(key)),
            "verified as fast as the first"
        );
    }
    kids.dedup();
    assert_eq!(kids.len(), 4, "three rotations");
}

#[tokio::test]
async fn it_waits_for_the_slowest_proxy() {
    let harness = Harness::new().await;
    let (mut near, mut far) = (Proxy::of(&harness, 1), Proxy::of(&harness, 2));
    near.confirm(&harness).await;
    far.confirm(&harness).await;
    ask(&harness).await;
    harness.tick().await;
    // The next standby is new to both; only one hears of it.
    let (active, standby) = (harness.active_kid(), harness.next_kid());
    ask(&harness).await;
    near.confirm(&harness).await;
    for _ in 0..3 {
        harness.tick().await;
        assert_eq!(harness.active_kid(), active);
    }
    far.confirm(&harness).await;
    harness.tick().await;
    assert_eq!(harness.active_kid(), standby);
    assert!(
        harness
            .get("/metrics")
            .await
            .text
            .contains("meshseal_rotations_forced_total 0")
    );
}

#[tokio::test]
async fn after_the_timeout_it_is_forced_and_counted() {
    let harness = Harness::new().await;
    Proxy::of(&harness, 1).confirm(&harness).await;
    ask(&harness).await;
    harness.tick().await;
    let standby = harness.next_kid();
    let deaf = harness.issuer.proxies.enter(&deaf_worker(2));
    ask(&harness).await;
    harness.advance(59).await;
    harness.tick().await;
    assert_ne!(harness.active_kid(), standby);
    harness.advance(1).await;
    harness.tick().await;
    assert_eq!(harness.active_kid(), standby);
    assert!(
        harness
            .get("/metrics")
            .await
            .text
            .contains("meshseal_rotations_forced_total 1")
    );
    drop(deaf);
}

#[tokio::test]
async fn the_schedule_rotates_and_old_keys_go_their_way() {
    let harness = Harness::new().await;
    let first = harness.active_kid();
    let token = harness.token().await;
    harness.tick().await;
    harness.advance(24 * 3_600).await;
    harness.tick().await;
    let state = |kid: &str| {
        harness
            .issuer
            .publisher
            .current()
            .keys
            .iter()
            .find(|key| key.kid == kid)
            .map(|key| key.state)
    };
    assert_eq!(state(&first), Some(KeyState::Draining));
    assert!(
        harness
            .issuer
            .publisher
            .current()
            .keys
            .iter()
            .filter(|key| key.kid == first)
            .all(|key| key.sealed.is_none())
    );
    assert!(
        harness.get("/jwks").await.text.contains(&first),
        "its tokens may live"
    );
    // An hour, the largest leeway of proxies, and the time another replica may not have noticed.
    harness.advance(3_600 + 60 + 5).await;
    harness.tick().await;
    assert_eq!(state(&first), Some(KeyState::Draining));
    harness.advance(1).await;
    harness.tick().await;
    assert_eq!(state(&first), Some(KeyState::Retired));
    assert!(!harness.get("/jwks").await.text.contains(&first));
    assert!(!harness.is_active(&token).await);
    harness.advance(7 * 86_400 + 1).await;
    harness.tick().await;
    assert_eq!(state(&first), None);
}

#[tokio::test]
async fn after_a_restart_silent_proxies_get_time_to_report() {
    let before = Harness::new().await;
    Proxy::of(&before, 1).confirm(&before).await;
    before.tick().await;
    let after = before.restarted().await;
    let standby = after.next_kid();
    ask(&after).await;
    after.advance(14).await;
    after.tick().await;
    // Another replica's lease may still run; it is over by now.
    after.tick().await;
    assert_ne!(
        after.active_kid(),
        standby,
        "a proxy in back-off has not reported yet"
    );
    after.advance(2).await;
    after.tick().await;
    assert_eq!(after.active_kid(), standby);
}

#[tokio::test]
async fn a_confirmation_to_one_replica_counts_for_the_other() {
    let leader = Harness::new().await;
    leader.tick().await;
    let other = leader.restarted().await;
    let mut proxy = Proxy::of(&other, 1);
    proxy.confirm(&other).await;
    other.tick().await;
    ask(&leader).await;
    leader.tick().await;
    let (active, standby) = (leader.active_kid(), leader.next_kid());
    other.tick().await;
    ask(&other).await;
    // Other replicas' sightings are looked up now and then.
    leader.advance(1).await;
    leader.tick().await;
    assert_eq!(
        leader.active_kid(),
        active,
        "known through the database: it has not confirmed"
    );
    proxy.confirm(&other).await;
    other.tick().await;
    leader.advance(1).await;
    leader.tick().await;
    assert_eq!(leader.active_kid(), standby);
}

#[tokio::test]
async fn only_one_replica_does_scheduled_work() {
    let leader = Harness::new().await;
    leader.tick().await;
    let other = leader.restarted().await;
    let active = other.active_kid();
    ask(&other).await;
    other.tick().await;
    assert_eq!(other.active_kid(), active, "it does not lead");
    leader.issuer.keeper.resign(&leader.issuer).await.unwrap();
    other.tick().await;
    assert_ne!(other.active_kid(), active);
}

#[tokio::test]
async fn a_stolen_key_is_out_at_once() {
    let harness = Harness::new().await;
    let mut proxy = Proxy::of(&harness, 1);
    proxy.confirm(&harness).await;
    let (stolen, standby) = (harness.active_kid(), harness.next_kid());
    let token = harness.token().await;
    assert!(accepts(&harness, &proxy.trust, &token));
    let answer = harness
        .post_as("operator", "/admin/keys/revoke", &format!("kid={stolen}"))
        .await;
    assert_eq!(answer.json()["version"], harness.version());
    assert_eq!(
        harness.active_kid(),
        standby,
        "takes over without waiting for anybody"
    );
    assert!(!harness.get("/jwks").await.text.contains(&stolen));
    let fresh = harness.token().await;
    assert!(
        accepts(&harness, &proxy.trust, &fresh),
        "proxies had the standby already"
    );
    proxy.poll(&harness).await;
    assert!(!accepts(&harness, &proxy.trust, &token));
    assert!(!harness.is_active(&token).await);
    harness.tick().await;
    assert_ne!(harness.next_kid(), standby, "there is a standby again");
}

#[tokio::test]
async fn a_revoked_standby_or_old_key_is_replaced_or_gone_without_touching_the_active_one() {
    let harness = Harness::new().await;
    let (active, standby) = (harness.active_kid(), harness.next_kid());
    let by_json = axum::http::Request::post("/admin/keys/revoke")
        .header("authorization", crate::support::basic("operator"))
        .header("content-type", "application/json")
        .body(json!({ "kid": standby }).to_string().into())
        .unwrap();
    assert_eq!(harness.send(by_json).await.status, 200);
    harness.tick().await;
    assert_eq!(harness.active_kid(), active);
    assert_ne!(harness.next_kid(), standby);
    let token = harness.token().await;
    ask(&harness).await;
    harness.tick().await;
    assert!(harness.is_active(&token).await, "drains");
    harness
        .post_as("operator", "/admin/keys/revoke", &format!("kid={active}"))
        .await;
    assert!(!harness.is_active(&token).await);
    let unknown = harness
        .post_as("operator", "/admin/keys/revoke", "kid=nonsense")
        .await;
    assert_eq!(unknown.error(), (400, "invalid_request".into()));
}

#[tokio::test]
async fn a_stolen_bundle_key_gives_way_to_the_one_that_is_pinned_beside_it() {
    let harness = Harness::new().await;
    let mut proxy = Proxy::of(&harness, 1);
    proxy.confirm(&harness).await;
    let old = harness.key(Purpose::Bundle, KeyState::Active).unwrap().kid;
    let standby = harness.key(Purpose::Bundle, KeyState::Next).unwrap().kid;
    harness
        .post_as("operator", "/admin/keys/revoke", &format!("kid={old}"))
        .await;
    assert_eq!(
        harness.key(Purpose::Bundle, KeyState::Active).unwrap().kid,
        standby
    );
    proxy.poll(&harness).await;
    assert_eq!(
        proxy.trust.bundle_version(),
        Some(harness.version()),
        "accepted under the second pin"
    );
}

#[tokio::test]
async fn another_algorithm_in_the_configuration_takes_over_by_rotation() {
    let harness = Harness::new().await;
    let token = harness.token().await;
    let mut config = config();
    config.keys.algorithm = meshseal_issuer::keys::Algorithm::Rs256;
    let after = Harness::at(harness.database.clone(), config, harness.clock.clone()).await;
    after.tick().await;
    let new = after.token().await;
    assert_eq!(
        (
            decode(&token).0["alg"].as_str(),
            decode(&new).0["alg"].as_str()
        ),
        (Some("EdDSA"), Some("RS256"))
    );
    assert!(after.is_active(&token).await && after.is_active(&new).await);
}

#[tokio::test]
async fn rotating_all_day_does_not_pile_up_keys() {
    let harness = Harness::new().await;
    for _ in 0..MAX_DRAINING + 3 {
        ask(&harness).await;
        harness.tick().await;
    }
    let keys = harness.get("/jwks").await.json()["keys"]
        .as_array()
        .unwrap()
        .len();
    assert_eq!(keys, MAX_DRAINING + 2);
    harness.advance(3_666).await;
    harness.tick().await;
    harness.tick().await;
    harness.tick().await;
    let keys = harness.get("/jwks").await.json()["keys"]
        .as_array()
        .unwrap()
        .len();
    assert!(keys < MAX_DRAINING, "{keys}: they have drained");
}

#[tokio::test]
async fn keys_begin_at_the_first_start_with_a_standby_of_each_sort() {
    let harness = Harness::new().await;
    let published = harness.issuer.publisher.current();
    let mut seen: Vec<_> = published
        .keys
        .iter()
        .map(|key| (key.purpose.name(), key.state.name(), key.since))
        .collect();
    seen.sort_unstable();
    assert_eq!(
        seen,
        [
            ("bundle", "active", NOW),
            ("bundle", "next", NOW),
            ("token", "active", NOW),
            ("token", "next", NOW)
        ]
    );
}

#[tokio::test]
async fn lowered_max_lifetime_keeps_good_tokens() {
    let before = Harness::new().await;
    let (token, old) = (before.token().await, before.active_kid());
    let mut config = config();
    config.tokens.max_lifetime_s = 60;
    config
        .services
        .iter_mut()
        .for_each(|service| service.lifetime_s = 60);
    let after = Harness::at(before.database.clone(), config, before.clock.clone()).await;
    before.issuer.keeper.resign(&before.issuer).await.unwrap();
    ask(&after).await;
    after.tick().await;
    assert_ne!(after.active_kid(), old);
    for _ in 0..29 {
        after.advance(10).await;
        after.tick().await;
        assert!(after.is_active(&token).await);
    }
    assert!(after.get("/jwks").await.text.contains(&old));
}

#[tokio::test]
async fn raised_max_lifetime_lets_keys_drain_longer() {
    let before = Harness::new().await;
    let mut longer = config();
    longer.tokens.max_lifetime_s = 7_200;
    let after = Harness::at(before.database.clone(), longer, before.clock.clone()).await;
    assert_eq!(
        after.key(Purpose::Token, KeyState::Active).unwrap().drain_s,
        7_200 + 60 + 5,
        "before it signs"
    );
}

#[tokio::test]
async fn new_key_waits_for_cached_key_sets() {
    let mut config = config();
    config.keys.jwks_max_age_s = 360;
    let harness = Harness::with(config).await;
    ask(&harness).await;
    harness.tick().await;
    let (active, standby) = (harness.active_kid(), harness.next_kid());
    ask(&harness).await;
    // It may have been published eight seconds after the clock was read.
    for _ in 0..367 {
        harness.advance(1).await;
        harness.tick().await;
    }
    assert_eq!(
        harness.active_kid(),
        active,
        "a reader may not have seen the standby"
    );
    harness.advance(1).await;
    harness.tick().await;
    assert_eq!(harness.active_kid(), standby);
    assert!(
        harness
            .get("/metrics")
            .await
            .text
            .contains("meshseal_rotations_forced_total 0")
    );
}

fn with_max_age(seconds: u64) -> Config {
    let mut config = config();
    config.keys.jwks_max_age_s = seconds;
    config
}

/// Lets time pass in steps that no clock check takes for a jump.
async fn wait(harness: &Harness, seconds: u64) {
    for _ in 0..seconds.div_ceil(20) {
        harness.advance(20).await;
        harness.tick().await;
    }
}

#[tokio::test]
async fn new_key_waits_for_copies_of_earlier_setting() {
    let before = Harness::with(with_max_age(3_600)).await;
    before.tick().await;
    let database = before.database.clone();
    let harness = Harness::at(database, with_max_age(360), before.clock.clone()).await;
    ask(&harness).await;
    // The other replica leads for that long.
    wait(&harness, 20).await;
    let (active, standby) = (harness.active_kid(), harness.next_kid());
    ask(&harness).await;
    wait(&harness, 3_600).await;
    assert_eq!(
        (harness.active_kid(), harness.next_kid()),
        (active, standby.clone()),
        "a reader may keep a copy without the standby"
    );
    wait(&harness, 20).await;
    assert_eq!(harness.active_kid(), standby);
    wait(&harness, 300).await;
    let next = harness.key(Purpose::Token, KeyState::Next).unwrap();
    assert_eq!(next.ready_at - next.since, 360 + 8, "no such copy is left");

    let forget = "UPDATE meshseal_meta SET value = '' WHERE name = 'jwks max-age'";
    harness.database.execute(forget).await;
    let active = harness.active_kid();
    ask(&harness).await;
    wait(&harness, 400).await;
    assert_eq!(harness.active_kid(), active, "the record is not genuine");
}

fn bundle_kid(harness: &Harness, state: KeyState) -> String {
    harness.key(Purpose::Bundle, state).unwrap().kid
}

#[tokio::test]
async fn unpinned_bundle_key_signs_only_by_force() {
    let harness = Harness::new().await;
    let mut proxy = Proxy::of(&harness, 1);
    proxy.confirm(&harness).await;
    let revoke = |kid: String, more: &str| format!("kid={kid}{more}");
    let first = revoke(bundle_kid(&harness, KeyState::Active), "");
    assert_eq!(
        harness
            .post_as("operator", "/admin/keys/revoke", &first)
            .await
            .status,
        200,
        "two were printed"
    );
    harness.tick().await;
    let active = bundle_kid(&harness, KeyState::Active);
    let refused = harness
        .post_as(
            "operator",
            "/admin/keys/revoke",
            &revoke(active.clone(), ""),
        )
        .await;
    assert_eq!(refused.error(), (400, "invalid_request".into()));
    assert!(
        refused.text.contains("not pinned") || refused.text.contains("is pinned by 0 of 1"),
        "{}",
        refused.text
    );
    for _ in 0..3 {
        harness
            .post_as("operator", "/admin/keys/rotate", "purpose=bundle")
            .await;
        harness.advance(3_600).await;
        harness.tick().await;
    }
    assert_eq!(
        bundle_kid(&harness, KeyState::Active),
        active,
        "no time-out makes it sign"
    );
    assert!(
        harness
            .get("/metrics")
            .await
            .text
            .contains("meshseal_rotations_forced_total 0")
    );
    let forced = harness
        .post_as(
            "operator",
            "/admin/keys/revoke",
            &revoke(active, "&force=true"),
        )
        .await;
    assert_eq!(forced.status, 200);
    assert!(
        harness
            .get("/metrics")
            .await
            .text
            .contains("meshseal_rotations_forced_total 1")
    );
}

#[tokio::test]
async fn bundle_rotation_is_requested_and_done_once() {
    let harness = Harness::new().await;
    let (active, standby) = (
        bundle_kid(&harness, KeyState::Active),
        bundle_kid(&harness, KeyState::Next),
    );
    let token_key = harness.active_kid();
    harness
        .post_as("operator", "/admin/keys/rotate", "purpose=bundle")
        .await;
    assert!(
        harness.get_as("operator", "/admin/keys").await.json()["bundle_rotation_requested"]
            .is_u64()
    );
    harness.tick().await;
    harness.tick().await;
    assert_eq!(
        bundle_kid(&harness, KeyState::Active),
        standby,
        "pinned since the first start"
    );
    assert_eq!(
        harness.active_kid(),
        token_key,
        "the other purpose is untouched"
    );
    assert!(
        harness
            .key(Purpose::Bundle, KeyState::Draining)
            .is_some_and(|key| key.kid == active)
    );
    assert!(
        harness.get_as("operator", "/admin/keys").await.json()["bundle_rotation_requested"]
            .is_null()
    );
    let forced = harness
        .post_as(
            "operator",
            "/admin/keys/rotate",
            "purpose=bundle&force=true",
        )
        .await;
    assert_eq!(forced.status, 200);
    assert_ne!(bundle_kid(&harness, KeyState::Active), standby);
}

/// Neither free pages nor the write-ahead log keep what was destroyed.
#[tokio::test]
async fn destroyed_private_half_leaves_no_copy() {
    let harness = Harness::new().await;
    let sealed = harness
        .key(Purpose::Token, KeyState::Active)
        .unwrap()
        .sealed
        .unwrap();
    let copies = || {
        ["", "-wal", "-shm", "-journal"].iter().filter(|suffix| {
            let path = format!("{}{suffix}", harness.database.file().display());
            std::fs::read(path)
                .is_ok_and(|file| file.windows(24).any(|window| window == &sealed[20..44]))
        })
    };
    assert!(copies().count() > 0, "it is there while it signs");
    ask(&harness).await;
    harness.tick().await;
    assert_eq!(copies().collect::<Vec<_>>(), Vec::<&&str>::new());
    let retired = harness.active_kid();
    let sealed_again = harness
        .key(Purpose::Token, KeyState::Active)
        .unwrap()
        .sealed
        .unwrap();
    harness
        .post_as("operator", "/admin/keys/revoke", &format!("kid={retired}"))
        .await;
    let wal =
        std::fs::read(format!("{}-wal", harness.database.file().display())).unwrap_or_default();
    let file = std::fs::read(harness.database.file()).unwrap();
    assert!([wal, file].iter().all(|bytes| {
        !bytes
            .windows(24)
            .any(|window| window == &sealed_again[20..44])
    }));
}

/// SQLite reuses the freed bytes of a short row at once. Those of an RSA key stay in its page, and
/// longer ones in pages of their own, unless they are overwritten.
#[tokio::test]
async fn destroyed_private_half_is_overwritten() {
    let database = Database::sqlite();
    let store = database.open().await;
    let state = KeyState::Next;
    let record = generate(Purpose::Token, Algorithm::EdDsa, state, NOW, &master()).unwrap();
    for length in [1_300_u16, 9_000] {
        let sealed: Vec<u8> = (0..length).flat_map(u16::to_be_bytes).collect();
        let key = KeyRecord {
            kid: format!("with {length} numbers"),
            sealed: Some(sealed.clone()),
            ..record.clone()
        };
        let entered = KeyChange::Enter {
            kid: key.kid.clone(),
            state: KeyState::Draining,
            since: NOW,
        };
        let copies = || {
            let files = ["", "-wal", "-journal"].map(|suffix| {
                let path = format!("{}{suffix}", database.file().display());
                std::fs::read(path).unwrap_or_default()
            });
            let files = files.concat();
            let kept = |part: &&[u8]| files.windows(part.len()).any(|window| window == *part);
            sealed.chunks_exact(100).filter(kept).count()
        };
        for (step, change) in [KeyChange::Insert(key), entered].into_iter().enumerate() {
            let change = Change {
                keys: vec![change],
                ..Change::default()
            };
            store.commit(&change, NOW * 1_000).await.unwrap();
            store.tidy().await;
            assert_eq!(copies() == 0, step == 1, "{length}");
        }
    }
}

/// A backup program that reads keeps the log, so that it is emptied later.
#[tokio::test]
async fn destroyed_private_half_leaves_the_log_once_readers_end() {
    let harness = Harness::new().await;
    let (kid, sealed) = (
        harness.active_kid(),
        harness
            .key(Purpose::Token, KeyState::Active)
            .unwrap()
            .sealed
            .unwrap(),
    );
    let file = harness.database.file().display().to_string();
    let holds = |name: &str| {
        std::fs::read(name)
            .unwrap()
            .windows(24)
            .any(|window| window == &sealed[20..44])
    };
    let mut reader = sqlx::SqliteConnection::connect(&format!("sqlite:{file}"))
        .await
        .unwrap();
    reader
        .execute("BEGIN; SELECT * FROM meshseal_keys")
        .await
        .unwrap();
    harness
        .post_as("operator", "/admin/keys/revoke", &format!("kid={kid}"))
        .await;
    assert!(
        holds(&format!("{file}-wal")) || holds(&file),
        "the reader still needs it"
    );
    reader.execute("ROLLBACK").await.unwrap();
    harness.issuer.store.tidy().await;
    assert!(!holds(&format!("{file}-wal")) && !holds(&file));
}
