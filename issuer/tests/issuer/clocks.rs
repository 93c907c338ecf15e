//! Clocks that step, differ between replicas, or are wrong at the start (rule I38, ADR 20).

use std::sync::Arc;
use std::time::Duration;

use meshseal_issuer::clock::{Clock as _, FixedClock};
use meshseal_issuer::keys::KeyState;

use crate::support::database::Database;
use crate::support::{Harness, ISSUER, NOW, config, decode};

const GRANT: &str = "grant_type=client_credentials&resource=orders";

/// Starts a replica with a revoked token, a revoked group and a draining key.
async fn with_entries() -> (Harness, String, String) {
    let harness = Harness::new().await;
    let (token, old) = (harness.token().await, harness.active_kid());
    harness
        .post_as("checkout", "/revoke", &format!("token={token}"))
        .await;
    harness.post_as("operator", "/revoke", "client=stock").await;
    harness.post_as("operator", "/admin/keys/rotate", "").await;
    for _ in 0..3 {
        harness.advance(3).await;
        harness.tick().await;
    }
    (harness, token, old)
}

/// Returns the numbers of revoked tokens and of revoked groups, and whether the key still drains.
fn entries(harness: &Harness, kid: &str) -> (usize, usize, bool) {
    let published = harness.issuer.publisher.current();
    let trust = published.trust(ISSUER).unwrap();
    let drains = published
        .keys
        .iter()
        .any(|key| key.kid == kid && key.state == KeyState::Draining);
    (trust.revoked.len(), trust.epochs.client.len(), drains)
}

async fn pass(harness: &Harness, seconds: u64) {
    for _ in 0..seconds / 15 {
        harness.advance(15).await;
        harness.tick().await;
    }
}

async fn end(harness: &Harness) {
    harness.issuer.keeper.resign(&harness.issuer).await.unwrap();
}

#[tokio::test]
async fn step_forward_for_a_minute_deletes_nothing() {
    let (harness, token, old) = with_entries().await;
    harness.clock.put_back(-90_000);
    pass(&harness, 75).await;
    let refused = harness.post_as("checkout", "/token", GRANT).await;
    assert_eq!(refused.error(), (503, "temporarily_unavailable".into()));
    assert!(
        harness
            .get("/metrics")
            .await
            .text
            .contains("meshseal_clock_ahead_seconds 90000\n")
    );

    // The clock is right again after 75 s.
    harness.clock.put_back(90_000);
    pass(&harness, 75).await;
    assert_eq!(entries(&harness, &old), (1, 1, true));
    assert_eq!(decode(&harness.token().await).1["iat"], NOW + 159);

    // A restart keeps the entries, too.
    end(&harness).await;
    let after = harness.restarted().await;
    assert_eq!(entries(&after, &old), (1, 1, true));
    assert!(!after.is_active(&token).await);
}

#[tokio::test]
async fn step_forward_that_lasts_deletes_nothing_early() {
    let (harness, _, old) = with_entries().await;
    harness.clock.put_back(-90_000);
    pass(&harness, 300).await;
    assert_eq!(entries(&harness, &old), (1, 1, true));
    pass(&harness, 600).await;
    assert_eq!(
        harness.post_as("checkout", "/token", GRANT).await.status,
        200,
        "accepted"
    );
    assert_eq!(
        entries(&harness, &old),
        (0, 1, true),
        "the token has expired by the monotonic clock, too"
    );
    pass(&harness, 3_600).await;
    assert_eq!(
        entries(&harness, &old),
        (0, 1, false),
        "the key has drained by the monotonic clock, too"
    );
    assert!(
        harness
            .get("/metrics")
            .await
            .text
            .contains("meshseal_kept_longer_seconds 90000\n")
    );
}

#[tokio::test]
async fn start_under_wrong_clock_deletes_nothing() {
    let (before, _, old) = with_entries().await;
    end(&before).await;
    let clock = Arc::new(FixedClock::at(NOW + 90_000));
    let after = Harness::at(before.database.clone(), config(), clock).await;
    assert_eq!(
        after.post_as("checkout", "/token", GRANT).await.status,
        200,
        "the machine may have been off"
    );
    pass(&after, 75).await;
    assert_eq!(entries(&after, &old), (1, 1, true));
    let clock = Arc::new(FixedClock::at(NOW + 90));
    let corrected = Harness::at(before.database.clone(), config(), clock).await;
    assert_eq!(
        corrected.get("/readyz").await.status,
        200,
        "a short error has no lasting effect"
    );
    assert_eq!(entries(&corrected, &old), (1, 1, true));
}

/// A database writer without the master key cannot make time pass, neither by a forged clock mark
/// nor by removing it.
#[tokio::test]
async fn forged_clock_mark_deletes_nothing() {
    let days_later = (NOW + 3 * 86_400) * 1_000;
    for forged in [
        format!(
            "UPDATE meshseal_meta SET value = '{days_later} 0 0 0 0 AAAA' WHERE name = 'clock mark'"
        ),
        "DELETE FROM meshseal_meta WHERE name = 'clock mark'".to_owned(),
    ] {
        let (before, token, old) = with_entries().await;
        end(&before).await;
        before.database.execute(&forged).await;
        // The machine's clock is wrong, too. It proves nothing without a genuine mark.
        let clock = Arc::new(FixedClock::at(NOW + 3_600));
        let after = Harness::at(before.database.clone(), config(), clock.clone()).await;
        assert_eq!(clock.now(), NOW + 3_600, "{forged}");
        pass(&after, 75).await;
        assert_eq!(entries(&after, &old), (1, 1, true), "{forged}");
        assert!(!after.is_active(&token).await, "{forged}");
    }
}

#[tokio::test]
async fn restart_refuses_earlier_time() {
    let (before, ..) = with_entries().await;
    end(&before).await;
    let clock = Arc::new(FixedClock::at(NOW - 60));
    let after = Harness::at(before.database.clone(), config(), clock.clone()).await;
    assert_eq!(after.post_as("checkout", "/token", GRANT).await.status, 503);
    let detail = after.get("/readyz").await.json()["detail"].to_string();
    assert!(
        detail.contains("69 s behind") && detail.contains("--accept-clock"),
        "{detail}"
    );
    assert_eq!(clock.now(), NOW + 9, "expired tokens stay expired");
    clock.put_back(-69);
    assert_eq!(after.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn group_revocation_covers_replica_that_is_ahead() {
    let database = Database::sqlite();
    let [behind, ahead] = [0, 4].map(|early| {
        let clock = FixedClock::at(NOW + early);
        clock.set_database(NOW + 3);
        Arc::new(clock)
    });
    let near = Harness::at(database.clone(), config(), behind).await;
    let far = Harness::at(database, config(), ahead).await;
    let token = far.token().await;
    assert_eq!(
        decode(&token).1["iat"],
        NOW + 3,
        "by the database server's clock"
    );
    assert!(far.is_active(&token).await);

    // The replica that is behind revokes the token of the one that is ahead.
    near.post_as("operator", "/revoke", "subject=checkout")
        .await;
    far.tick().await;
    assert!(!near.is_active(&token).await && !far.is_active(&token).await);
    for harness in [&near, &far] {
        harness.advance(4).await;
        let fresh = harness.token().await;
        assert!(
            near.is_active(&fresh).await && far.is_active(&fresh).await,
            "the revocation does not cover a later token"
        );
    }
}

#[tokio::test]
async fn token_waits_for_its_date() {
    let harness = Arc::new(Harness::new().await);
    harness.token().await;
    for group in ["client=checkout", "subject=checkout", "all=true"] {
        harness.post_as("operator", "/revoke", group).await;
        let asked = harness.clone();
        // With tokio's clock paused, timers fire at once and no database query runs.
        tokio::time::pause();
        let answer = tokio::spawn(async move { asked.token().await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!answer.is_finished(), "{group}");
        harness.clock.advance(1);
        let token = answer.await.unwrap();
        tokio::time::resume();
        assert_eq!(
            decode(&token).1["iat"],
            harness.clock.now(),
            "{group}: not in the future"
        );
        assert!(harness.is_active(&token).await, "{group}: active at once");
        harness.advance(1).await;
    }
}

#[tokio::test]
async fn token_wait_is_bounded() {
    let harness = Harness::new().await;
    harness.token().await;
    harness
        .post_as("operator", "/revoke", "client=checkout")
        .await;
    tokio::time::pause();
    let begun = tokio::time::Instant::now();
    let refused = harness.post_as("checkout", "/token", GRANT).await;
    assert_eq!(refused.error(), (503, "temporarily_unavailable".into()));
    assert!(begun.elapsed() < Duration::from_secs(9));
}

#[tokio::test]
async fn leader_with_wrong_clock_gives_way() {
    let (before, ..) = with_entries().await;
    end(&before).await;
    let ahead = Harness::at(
        before.database.clone(),
        config(),
        Arc::new(FixedClock::at(NOW + 90_000)),
    )
    .await;
    ahead.tick().await;
    let right = Harness::at(
        before.database.clone(),
        config(),
        Arc::new(FixedClock::at(NOW + 90)),
    )
    .await;
    let active = right.active_kid();
    right.post_as("operator", "/admin/keys/rotate", "").await;
    right.tick().await;
    assert_ne!(
        right.active_kid(),
        active,
        "keys of the wrong clock do not block rotation"
    );
}
