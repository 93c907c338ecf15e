//! A database that loses state: a restored backup, or a failover to a standby that lagged (ADR
//! 0019).

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use meshseal_issuer::keys::KeyState;
use meshseal_issuer::store::StoreError;
use serde_json::Value;

use crate::support::database::{Database, on_both};
use crate::support::store::Fickle;
use crate::support::{Harness, Proxy, accepts, config, decode};

on_both! {
    restores_revocations_that_the_database_lost
    restores_what_only_another_replica_remembers
    notices_a_branch_with_a_newer_version
    keeps_a_revoked_key_out_after_a_rollback
    proof_of_lost_version_declares_incident
    proof_reveals_loss_behind_newer_version
    waits_for_replica_that_remembers_proved_version
    revoked_key_stays_out_although_nobody_remembers
    replica_restores_keys_after_another_declared_the_incident
    replicas_lease_no_index_twice
    repair_removes_forged_rows_and_revokes_all
    receipt_is_unknown_while_workers_may_be_lost
    lost_record_of_worker_is_noticed_behind_later_ones
}

const TABLES: [&str; 5] = ["state", "keys", "revoked", "epochs", "workers"];

async fn back_up(database: &Database) {
    for table in TABLES {
        database
            .execute(&format!(
                "CREATE TABLE backup_{table} AS SELECT * FROM meshseal_{table}"
            ))
            .await;
    }
}

async fn restore(database: &Database) {
    let statements = TABLES.map(|table| {
        format!("DELETE FROM meshseal_{table}; INSERT INTO meshseal_{table} SELECT * FROM backup_{table};")
    });
    database
        .execute(&format!("BEGIN; {} COMMIT", statements.concat()))
        .await;
}

async fn revoke(harness: &Harness, token: &str) {
    assert_eq!(
        harness
            .post_as("checkout", "/revoke", &format!("token={token}"))
            .await
            .status,
        200
    );
}

fn index(token: &str) -> u64 {
    meshseal_core::revocation::index_of(decode(token).1["jti"].as_str().unwrap()).unwrap()
}

fn delta(bundle: &str) -> Value {
    decode(bundle).1["issuers"].clone()
}

async fn restores_revocations_that_the_database_lost(database: Arc<Database>) {
    let harness = Harness::on(database.clone(), config()).await;
    let (token, of_stock) = (
        harness.token().await,
        harness.token_for("stock", "resource=orders").await,
    );
    back_up(&database).await;
    revoke(&harness, &token).await;
    assert_eq!(
        harness
            .post_as("operator", "/revoke", "client=stock")
            .await
            .status,
        200
    );
    let mut proxy = Proxy::of(&harness, 1);
    proxy.confirm(&harness).await;
    let version = harness.version();
    restore(&database).await;
    harness.clock.advance(1);
    harness.tick().await;

    assert!(!harness.is_active(&token).await && !harness.is_active(&of_stock).await);
    let answer = harness.poll(1, Some(version)).await;
    assert!(
        decode(&answer.text).1["ver"].as_u64() > Some(version),
        "proxies follow: {}",
        answer.text
    );
    assert_eq!(
        delta(&answer.text),
        Value::Null,
        "nothing is forgotten, and nothing is new"
    );
    proxy.confirm(&harness).await;
    assert!(
        !harness.restarted().await.is_active(&token).await,
        "the database has it again"
    );

    harness.tick().await;
    let ready = harness.get("/readyz").await;
    assert_eq!(ready.status, 200, "what is known is whole: {}", ready.text);
    assert!(ready.json()["incident"].is_string(), "{}", ready.text);
    assert!(
        harness
            .get("/metrics")
            .await
            .text
            .contains("\nmeshseal_incident 1\n")
    );
    let shown = harness.get_as("operator", "/admin/incident").await.json();
    assert!(
        shown["incident"]["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("1 revoked tokens and 1 epochs")),
        "{shown}"
    );
    assert_eq!(
        harness
            .post_as("checkout", "/admin/incident/end", "")
            .await
            .status,
        403
    );
    assert_eq!(
        harness
            .post_as("operator", "/admin/incident/end", "")
            .await
            .status,
        200
    );
    harness.tick().await;
    assert!(harness.get("/readyz").await.json()["incident"].is_null());
    assert!(
        !harness.is_active(&token).await,
        "the end un-revokes nothing"
    );
}

/// The record of a worker may be among what the database lost: then it still acts on its bundle,
/// and no list has it.
async fn receipt_is_unknown_while_workers_may_be_lost(database: Arc<Database>) {
    let harness = Harness::on(database.clone(), config()).await;
    back_up(&database).await;
    let mut proxy = Proxy::of(&harness, 1);
    proxy.confirm(&harness).await;
    revoke(&harness, &harness.token().await).await;
    restore(&database).await;
    harness.clock.advance(1);
    harness.tick().await;

    let restarted = harness.restarted().await;
    restarted.tick().await;
    let receipt = async |subject: &str| {
        restarted
            .post_as("operator", "/revoke", &format!("subject={subject}&wait=0"))
            .await
            .json()["state"]
            .clone()
    };
    assert_eq!(receipt("alice").await, "unknown");
    let ended = restarted
        .post_as("operator", "/admin/incident/end", "")
        .await;
    assert_eq!(ended.status, 200, "{}", ended.text);
    restarted.tick().await;
    assert_eq!(
        receipt("carol").await,
        "unknown",
        "the end of the incident brings no record back"
    );
    restarted.advance(3_600 + 60).await;
    restarted.tick().await;
    assert_ne!(
        receipt("bob").await,
        "unknown",
        "no worker acts on a bundle of that time any more"
    );
}

/// A backup of the present version loses no revocation, and may lose records of workers.
async fn lost_record_of_worker_is_noticed_behind_later_ones(database: Arc<Database>) {
    let one = Harness::on(database.clone(), config()).await;
    let other = one.restarted().await;
    let (token, version) = (one.token().await, one.version());
    back_up(&database).await;
    Proxy::of(&one, 1).confirm(&one).await;
    other.tick().await;
    restore(&database).await;
    Proxy::of(&other, 2).confirm(&other).await;
    Proxy::of(&other, 3).confirm(&other).await;
    other.tick().await;

    let receipt = other
        .post_as("operator", "/revoke", "subject=alice&wait=0")
        .await
        .json();
    assert_eq!(receipt["state"], "unknown", "{receipt}");
    let reason =
        other.get_as("operator", "/admin/incident").await.json()["incident"]["reason"].clone();
    assert!(
        reason
            .as_str()
            .is_some_and(|reason| reason.contains("records of workers")),
        "{reason}"
    );
    assert!(
        other.version() > version && other.is_active(&token).await,
        "no token is revoked"
    );
    one.tick().await;
    let declared = one.version();
    one.tick().await;
    assert_eq!(one.version(), declared, "noticed once");
}

async fn restores_what_only_another_replica_remembers(database: Arc<Database>) {
    let one = Harness::on(database.clone(), config()).await;
    let other = one.restarted().await;
    let token = one.token().await;
    back_up(&database).await;
    revoke(&other, &token).await;
    restore(&database).await;
    one.tick().await;
    assert!(one.is_active(&token).await, "this one never knew");
    other.tick().await;
    one.tick().await;
    assert!(!one.is_active(&token).await && !other.is_active(&token).await);
    assert_eq!(one.version(), other.version());
}

async fn notices_a_branch_with_a_newer_version(database: Arc<Database>) {
    let one = Harness::on(database.clone(), config()).await;
    let (lost, kept) = (one.token().await, one.token().await);
    back_up(&database).await;
    revoke(&one, &lost).await;
    restore(&database).await;
    one.clock.advance(1);
    let other = one.restarted().await;
    revoke(&other, &kept).await;
    assert!(other.version() > one.version(), "no version falls");
    one.tick().await;
    other.tick().await;
    for token in [&lost, &kept] {
        assert!(!one.is_active(token).await && !other.is_active(token).await);
    }
    assert!(
        one.issuer.publisher.incident().is_none()
            || one.get("/readyz").await.text.contains("incident")
    );
    assert!(other.get("/readyz").await.text.contains("incident"));
}

async fn keeps_a_revoked_key_out_after_a_rollback(database: Arc<Database>) {
    let harness = Harness::on(database.clone(), config()).await;
    let (token, stolen) = (harness.token().await, harness.active_kid());
    back_up(&database).await;
    assert_eq!(
        harness
            .post_as("operator", "/admin/keys/revoke", &format!("kid={stolen}"))
            .await
            .status,
        200
    );
    let active = harness.active_kid();
    restore(&database).await;
    harness.clock.advance(1);
    harness.tick().await;
    assert_eq!(harness.active_kid(), active);
    assert!(!harness.get("/jwks").await.text.contains(&stolen));
    assert!(!harness.is_active(&token).await);
    let restarted = harness.restarted().await;
    let states = restarted.issuer.publisher.current().keys.clone();
    let stolen = states
        .iter()
        .find(|key| key.kid == stolen)
        .expect("kept for the record");
    assert_eq!(
        (stolen.state, stolen.sealed.is_some()),
        (KeyState::Retired, false)
    );
    let token = restarted.token().await;
    assert!(harness.is_active(&token).await);
}

async fn proof_of_lost_version_declares_incident(database: Arc<Database>) {
    proves_lost_version(database, false).await;
}

async fn proof_reveals_loss_behind_newer_version(database: Arc<Database>) {
    proves_lost_version(database, true).await;
}

/// No issuer remembers the lost revocations. Two workers prove that something was lost.
async fn proves_lost_version(database: Arc<Database>, has_newer_version: bool) {
    let before = Harness::on(database.clone(), config()).await;
    let (lost, good) = (before.token().await, before.token().await);
    back_up(&database).await;
    let (mut proxy, mut straggler) = (Proxy::of(&before, 1), Proxy::of(&before, 2));
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
    after.poll_proving(3, Some(have), "a-guess").await;
    assert!(
        after.is_active(&lost).await,
        "the backup does not know, and a claim without proof is nothing"
    );
    let leased = index(&after.token().await);

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
        "neither what is leased nor what follows it"
    );
    straggler.poll(&after).await;
    proxy.poll(&after).await;
    assert!(
        accepts(&after, &proxy.trust, &fresh) && accepts(&after, &straggler.trust, &fresh),
        "one epoch is enough"
    );
    assert!(!accepts(&after, &straggler.trust, &lost));
}

/// The replica looks at the database, gives the other one a second, and looks again.
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
            "the other replica has had its time"
        );
        other.tick().await;
        store.heads.add_permits(100);
    };
    tokio::join!(proxy.poll(&one), restored);
    assert!(!accepts(&one, &proxy.trust, &lost) && !one.is_active(&lost).await);
    assert!(
        accepts(&one, &proxy.trust, &good) && one.is_active(&good).await,
        "nothing is unproven"
    );
}

async fn revoked_key_stays_out_although_nobody_remembers(database: Arc<Database>) {
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
    assert_eq!(after.active_kid(), stolen, "the backup says so");
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
async fn revoked_key_stays_out_after_its_tokens_expired() {
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

/// The replica that remembers comes too late to explain what a worker proves to another one.
async fn replica_restores_keys_after_another_declared_the_incident(database: Arc<Database>) {
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
    assert_eq!(other.active_kid(), stolen, "the backup says so");
    proxy.poll(&other).await;
    assert!(other.issuer.publisher.incident().is_some());
    one.tick().await;
    other.tick().await;
    for replica in [&one, &other] {
        assert_ne!(replica.active_kid(), stolen);
        assert!(!replica.get("/jwks").await.text.contains(&stolen));
    }
}

/// The database loses a lease that only the replica knows which made it.
async fn replicas_lease_no_index_twice(database: Arc<Database>) {
    let one = Harness::on(database.clone(), config()).await;
    let other = one.restarted().await;
    // Every replica has used what it leased at its start.
    one.issuer.indices.forget();
    other.issuer.indices.forget();
    one.clock.advance(2);
    database
        .execute("CREATE TABLE backup AS SELECT * FROM meshseal_state")
        .await;
    let first = index(&one.token().await);
    database
        .execute("DELETE FROM meshseal_state; INSERT INTO meshseal_state SELECT * FROM backup")
        .await;
    one.clock.advance(1);
    let second = index(&other.token().await);
    assert!(
        second > first + 8_192,
        "{second} may be in the block that {first} came from"
    );
    one.tick().await;
    let third = index(&one.token().await);
    assert!(
        third.abs_diff(second) > 8_192,
        "{third} may be in the block that {second} came from"
    );
}

async fn repair_removes_forged_rows_and_revokes_all(database: Arc<Database>) {
    let harness = Harness::on(database.clone(), config()).await;
    let (revoked, token) = (harness.token().await, harness.token().await);
    revoke(&harness, &revoked).await;
    let (active, now_ms) = (harness.active_kid(), crate::support::NOW * 1_000);
    drop(harness);
    database
        .execute(
            "DELETE FROM meshseal_revoked; UPDATE meshseal_state SET version = 9223372036854775806;
             INSERT INTO meshseal_epochs (kind, name, before, expires_at) VALUES ('martian', 'x', 1, 2)",
        )
        .await;
    let store = database.open().await;
    let removed = store.repair(now_ms).await.unwrap();
    assert_eq!(removed.len(), 2, "the state row and the epoch: {removed:?}");
    assert_eq!(
        store
            .load()
            .await
            .map(|kept| (kept.revoked.len(), kept.epochs.len())),
        Ok((0, 3)),
        "epochs over all tokens and over two keys"
    );
    let harness = Harness::on(database, config()).await;
    let kept = harness.issuer.publisher.current().keys.clone();
    assert!(
        kept.iter()
            .any(|key| key.kid == active && key.state == KeyState::Retired),
        "it may have been revoked"
    );
    harness.clock.advance(10);
    harness.tick().await;
    assert!(!harness.is_active(&token).await && !harness.is_active(&revoked).await);
    assert!(harness.is_active(&harness.token().await).await);
    let incident = harness.issuer.publisher.incident().unwrap();
    assert!(incident.reason.contains("2 rows"), "{}", incident.reason);
}

#[tokio::test]
async fn declared_incident_revokes_all_and_jumps_indices() {
    let harness = Harness::new().await;
    let before = harness.token().await;
    assert_eq!(
        harness
            .post_as("operator", "/admin/incident/declare", "reason=")
            .await
            .status,
        400
    );
    let answer = harness
        .post_as("operator", "/admin/incident/declare", "reason=backup")
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert!(!harness.is_active(&before).await);
    harness.clock.advance(10);
    harness.tick().await;
    let after = harness.token().await;
    assert!(
        harness.is_active(&after).await,
        "only what was issued before"
    );
    assert!(index(&after) > index(&before) + 2 * 8_192);
}

#[tokio::test]
async fn database_that_cannot_restore_publishes_nothing() {
    let (harness, store) = Harness::fickle().await;
    let token = harness.token().await;
    back_up(&harness.database).await;
    revoke(&harness, &token).await;
    restore(&harness.database).await;
    store.conflicts.store(u32::MAX, SeqCst);
    let refreshed = harness.issuer.publisher.refresh().await;
    assert!(
        matches!(refreshed, Err(StoreError::Unavailable(_))),
        "{refreshed:?}"
    );
    assert!(!harness.is_active(&token).await);
}
