//! The life of signing keys: acknowledged rotation, timeout, schedule and restart (rule I26). The
//! unit tests of `keys::lifecycle` cover the decisions; these tests cover database, bundle and
//! proxies.

use meshseal_issuer::config::Config;
use meshseal_issuer::keys::{KeyState, MAX_DRAINING, Purpose};

use crate::support::{Harness, NOW, Proxy, accepts, config, deaf_worker, decode};

fn kid(token: &str) -> String {
    decode(token).0["kid"].as_str().unwrap().to_owned()
}

pub(crate) async fn request_rotation(harness: &Harness) {
    assert_eq!(
        harness
            .post_as("operator", "/admin/keys/rotate", "")
            .await
            .status,
        202
    );
}

#[tokio::test]
async fn new_key_signs_once_every_proxy_confirms() {
    let harness = Harness::new().await;
    let (mut near, mut far) = (Proxy::of(&harness, 1), Proxy::of(&harness, 2));
    near.confirm(&harness).await;
    far.confirm(&harness).await;
    let mut kids = vec![harness.active_kid()];

    // Every proxy accepts the first token of each new key without another poll.
    for _ in 0..3 {
        request_rotation(&harness).await;
        harness.tick().await;
        let token = harness.token().await;
        assert!(
            accepts(&harness, &near.trust, &token),
            "signed with a key that every proxy already has"
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
            "every verifier has its precomputed tables"
        );
    }
    kids.dedup();
    assert_eq!(kids.len(), 4, "three rotations");
}

#[tokio::test]
async fn rotation_waits_for_slowest_proxy() {
    let harness = Harness::new().await;
    let (mut near, mut far) = (Proxy::of(&harness, 1), Proxy::of(&harness, 2));
    near.confirm(&harness).await;
    far.confirm(&harness).await;
    request_rotation(&harness).await;
    harness.tick().await;
    // Both proxies lack the next standby, and only one receives it.
    let (active, standby) = (harness.active_kid(), harness.next_kid());
    request_rotation(&harness).await;
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
async fn timeout_forces_and_counts_rotation() {
    let harness = Harness::new().await;
    Proxy::of(&harness, 1).confirm(&harness).await;
    request_rotation(&harness).await;
    harness.tick().await;
    let standby = harness.next_kid();
    // This worker never confirms.
    let deaf = harness.issuer.proxies.enter(&deaf_worker(2));
    request_rotation(&harness).await;
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
async fn schedule_rotates_drains_and_retires_keys() {
    let harness = Harness::new().await;
    let first = harness.active_kid();
    let token = harness.token().await;
    harness.tick().await;

    // The schedule rotates after a day, and the old key drains.
    harness.advance(24 * 3_600).await;
    harness.tick().await;
    assert_eq!(harness.key_state(&first), Some(KeyState::Draining));
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
        "its tokens may still be valid"
    );
    // An hour of lifetime, the largest clock skew of proxies, and the time until every replica has
    // followed.
    harness.advance(3_600 + 60 + 5).await;
    harness.tick().await;
    assert_eq!(harness.key_state(&first), Some(KeyState::Draining));
    harness.advance(1).await;
    harness.tick().await;
    assert_eq!(harness.key_state(&first), Some(KeyState::Retired));
    assert!(!harness.get("/jwks").await.text.contains(&first));
    assert!(!harness.is_active(&token).await);

    // A retired key is deleted after a week.
    harness.advance(7 * 86_400 + 1).await;
    harness.tick().await;
    assert_eq!(harness.key_state(&first), None);
}

#[tokio::test]
async fn restart_waits_for_silent_proxies() {
    let before = Harness::new().await;
    Proxy::of(&before, 1).confirm(&before).await;
    before.tick().await;
    let after = before.restarted().await;
    let standby = after.next_kid();
    request_rotation(&after).await;
    after.advance(14).await;
    after.tick().await;
    // The lease of the earlier leader may have run until now.
    after.tick().await;
    assert_ne!(
        after.active_kid(),
        standby,
        "a proxy in back-off may not have polled yet"
    );
    after.advance(2).await;
    after.tick().await;
    assert_eq!(after.active_kid(), standby);
}

#[tokio::test]
async fn confirmation_counts_at_every_replica() {
    let leader = Harness::new().await;
    leader.tick().await;
    let other = leader.restarted().await;
    let mut proxy = Proxy::of(&other, 1);
    proxy.confirm(&other).await;
    other.tick().await;
    request_rotation(&leader).await;
    leader.tick().await;
    let (active, standby) = (leader.active_kid(), leader.next_kid());
    other.tick().await;
    request_rotation(&other).await;
    // A replica reads the records of the others twice a second.
    leader.advance(1).await;
    leader.tick().await;
    assert_eq!(
        leader.active_kid(),
        active,
        "the database has the proxy, but no confirmation"
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
    request_rotation(&other).await;
    other.tick().await;
    assert_eq!(other.active_kid(), active, "only the leader rotates");
    leader.issuer.keeper.resign(&leader.issuer).await.unwrap();
    other.tick().await;
    assert_ne!(other.active_kid(), active);
}

#[tokio::test]
async fn configured_algorithm_takes_over_by_rotation() {
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
async fn frequent_rotation_bounds_published_keys() {
    let harness = Harness::new().await;
    for _ in 0..MAX_DRAINING + 3 {
        request_rotation(&harness).await;
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
    assert!(keys < MAX_DRAINING, "{keys}: old keys have drained");
}

#[tokio::test]
async fn first_start_creates_active_and_standby_keys() {
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
    request_rotation(&after).await;
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
        "raised at the start, before the key signs longer tokens"
    );
}

#[tokio::test]
async fn new_key_waits_for_cached_key_sets() {
    let mut config = config();
    config.keys.jwks_max_age_s = 360;
    let harness = Harness::with(config).await;
    request_rotation(&harness).await;
    harness.tick().await;
    let (active, standby) = (harness.active_kid(), harness.next_kid());
    request_rotation(&harness).await;
    // The key may have been published up to eight seconds after the clock was read.
    for _ in 0..367 {
        harness.advance(1).await;
        harness.tick().await;
    }
    assert_eq!(
        harness.active_kid(),
        active,
        "a cached key set may lack the standby"
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

/// Lets time pass in steps that are too short for the clock guard to see a jump.
async fn wait(harness: &Harness, seconds: u64) {
    for _ in 0..seconds.div_ceil(20) {
        harness.advance(20).await;
        harness.tick().await;
    }
}

#[tokio::test]
async fn new_key_waits_for_older_cached_copies() {
    let before = Harness::with(with_max_age(3_600)).await;
    before.tick().await;

    // A second replica starts with a shorter `max-age`.
    let database = before.database.clone();
    let harness = Harness::at(database, with_max_age(360), before.clock.clone()).await;
    request_rotation(&harness).await;
    // The lease of the other replica ends.
    wait(&harness, 20).await;
    let (active, standby) = (harness.active_kid(), harness.next_kid());
    request_rotation(&harness).await;
    wait(&harness, 3_600).await;
    assert_eq!(
        (harness.active_kid(), harness.next_kid()),
        (active, standby.clone()),
        "a cached key set may lack the standby"
    );
    wait(&harness, 20).await;
    assert_eq!(harness.active_kid(), standby);
    wait(&harness, 300).await;
    let next = harness.key(Purpose::Token, KeyState::Next).unwrap();
    assert_eq!(
        next.ready_at - next.since,
        360 + 8,
        "every older copy has expired"
    );

    // Without a genuine record of earlier settings the longest `max-age` applies.
    let forget = "UPDATE meshseal_meta SET value = '' WHERE name = 'jwks max-age'";
    harness.database.execute(forget).await;
    let active = harness.active_kid();
    request_rotation(&harness).await;
    wait(&harness, 400).await;
    assert_eq!(
        harness.active_kid(),
        active,
        "a forged record does not shorten the wait"
    );
}
