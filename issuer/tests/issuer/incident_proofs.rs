//! Losses of the database that only the proof of a worker, or another replica, reveals (ADR 19).

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use crate::incidents::{back_up, index, restore, revoke};
use crate::support::database::{Database, on_both};
use crate::support::store::Fickle;
use crate::support::{Harness, Proxy, accepts, config};

on_both! {
    proof_of_lost_version_declares_incident
    proof_reveals_loss_behind_newer_version
    waits_for_replica_that_remembers_proved_version
    proof_keeps_forgotten_revoked_key_out
    replica_restores_keys_after_declared_incident
}

async fn proof_of_lost_version_declares_incident(database: Arc<Database>) {
    proves_lost_version(database, false).await;
}

async fn proof_reveals_loss_behind_newer_version(database: Arc<Database>) {
    proves_lost_version(database, true).await;
}

/// No replica remembers the lost revocations. Two workers prove that the database lost a version.
async fn proves_lost_version(database: Arc<Database>, has_newer_version: bool) {
    let before = Harness::on(database.clone(), config()).await;
    let (lost, good) = (before.token().await, before.token().await);
    back_up(&database).await;
    let (mut proxy, mut straggler) = (Proxy::of(&before, 1), Proxy::of(&before, 2));
    // The straggler confirms the first lost version, and the other worker the second.
    revoke(&before, &good).await;
    straggler.confirm(&before).await;
    revoke(&before, &lost).await;
    proxy.confirm(&before).await;
    let have = before.version();
    restore(&database).await;
    before.clock.advance(1);
    let after = before.restarted().await;
    drop(before);
    if has_newer_version {
        assert_eq!(
            after
                .post_as("operator", "/revoke", "subject=x")
                .await
                .status,
            200
        );
        assert!(after.version() > have);
    } else {
        assert_eq!(after.poll(3, Some(have)).await.status, 409);
    }
    // A claim without a valid proof changes nothing.
    after.poll_proving(3, Some(have), "a-guess").await;
    assert!(
        after.is_active(&lost).await,
        "the backup lacks the revocation"
    );
    let leased = index(&after.token().await);

    // A valid proof declares an incident, which revokes all earlier tokens.
    proxy.poll(&after).await;
    assert!(!accepts(&after, &proxy.trust, &lost));
    assert!(!after.is_active(&lost).await && !after.is_active(&good).await);
    after.clock.advance(10);
    after.tick().await;
    assert_eq!(after.get("/readyz").await.status, 200);
    let reason = after.issuer.publisher.incident().unwrap().reason.clone();
    assert!(
        reason.contains(&format!("proved version {have}")),
        "{reason}"
    );
    let fresh = after.token().await;
    assert!(
        index(&fresh) > leased + 2 * 8_192,
        "a gap after the leased block and the next one"
    );
    straggler.poll(&after).await;
    proxy.poll(&after).await;
    assert!(
        accepts(&after, &proxy.trust, &fresh) && accepts(&after, &straggler.trust, &fresh),
        "tokens from after the epoch"
    );
    assert!(!accepts(&after, &straggler.trust, &lost));
}

/// The replica reads the database, gives the other replica a second to restore, and reads again.
async fn waits_for_replica_that_remembers_proved_version(database: Arc<Database>) {
    let (one, store) = Harness::fickle_on(database.clone()).await;
    let other = one.restarted().await;
    let (lost, good) = (one.token().await, one.token().await);
    back_up(&database).await;
    revoke(&other, &lost).await;
    let mut proxy = Proxy::of(&other, 1);
    proxy.confirm(&other).await;
    restore(&database).await;
    one.clock.advance(1);
    Fickle::close(&store.heads);
    store.heads.add_permits(1);
    let (begun, looks) = (tokio::time::Instant::now(), store.heads_asked.load(SeqCst));
    let restored = async {
        while store.heads_asked.load(SeqCst) < looks + 2 {
            tokio::task::yield_now().await;
        }
        assert!(
            begun.elapsed() >= Duration::from_secs(1),
            "the other replica had a second"
        );
        other.tick().await;
        store.heads.add_permits(100);
    };
    tokio::join!(proxy.poll(&one), restored);
    assert!(!accepts(&one, &proxy.trust, &lost) && !one.is_active(&lost).await);
    assert!(
        accepts(&one, &proxy.trust, &good) && one.is_active(&good).await,
        "no incident, because the loss was restored"
    );
}

async fn proof_keeps_forgotten_revoked_key_out(database: Arc<Database>) {
    let before = Harness::on(database.clone(), config()).await;
    let stolen = before.active_kid();
    back_up(&database).await;
    assert_eq!(
        before
            .post_as("operator", "/admin/keys/revoke", &format!("kid={stolen}"))
            .await
            .status,
        200
    );
    let mut proxy = Proxy::of(&before, 1);
    proxy.confirm(&before).await;
    restore(&database).await;
    before.clock.advance(1);
    let after = before.restarted().await;
    drop(before);
    assert_eq!(after.active_kid(), stolen, "as in the backup");
    proxy.poll(&after).await;
    after.tick().await;
    assert_ne!(after.active_kid(), stolen);
    assert!(!after.get("/jwks").await.text.contains(&stolen));
    after.clock.advance(10);
    after.tick().await;
    let fresh = after.token().await;
    proxy.poll(&after).await;
    assert!(accepts(&after, &proxy.trust, &fresh));
}

/// A stolen key signs tokens of any date, so no expiry makes the loss of its revocation harmless.
#[tokio::test]
async fn revoked_key_stays_out_after_token_expiry() {
    let database = Database::sqlite();
    let before = Harness::on(database.clone(), config()).await;
    let stolen = before.active_kid();
    back_up(&database).await;
    let form = format!("kid={stolen}");
    before
        .post_as("operator", "/admin/keys/revoke", &form)
        .await;
    let mut proxy = Proxy::of(&before, 1);
    proxy.confirm(&before).await;
    restore(&database).await;
    before.clock.advance(25 * 3_600);
    let after = before.restarted().await;
    drop(before);
    assert!(after.get("/jwks").await.text.contains(&stolen));
    proxy.poll(&after).await;
    assert!(!after.get("/jwks").await.text.contains(&stolen));
}

/// The replica that remembers the revocation follows only after another one has declared an
/// incident.
async fn replica_restores_keys_after_declared_incident(database: Arc<Database>) {
    let one = Harness::on(database.clone(), config()).await;
    let stolen = one.active_kid();
    back_up(&database).await;
    assert_eq!(
        one.post_as("operator", "/admin/keys/revoke", &format!("kid={stolen}"))
            .await
            .status,
        200
    );
    let mut proxy = Proxy::of(&one, 1);
    proxy.confirm(&one).await;
    restore(&database).await;
    one.clock.advance(1);
    let other = one.restarted().await;
    assert_eq!(other.active_kid(), stolen, "as in the backup");
    proxy.poll(&other).await;
    assert!(other.issuer.publisher.incident().is_some());
    one.tick().await;
    other.tick().await;
    for replica in [&one, &other] {
        assert_ne!(replica.active_kid(), stolen);
        assert!(!replica.get("/jwks").await.text.contains(&stolen));
    }
}
