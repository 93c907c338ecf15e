//! A database that loses state: a restored backup, or a failover to a standby that lagged (ADR 19).

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use meshseal_issuer::keys::KeyState;
use meshseal_issuer::store::StoreError;
use serde_json::Value;

use crate::support::database::{Database, on_both};
use crate::support::{Harness, Proxy, config, decode};

on_both! {
    restores_revocations_that_the_database_lost
    restores_revocation_known_to_another_replica
    notices_branch_with_newer_version
    revoked_key_stays_retired_after_rollback
    replicas_lease_no_index_twice
    repair_removes_forged_rows_and_revokes_all
    receipt_is_unknown_after_lost_records
    notices_lost_worker_record_behind_newer_ones
}

const TABLES: [&str; 5] = ["state", "keys", "revoked", "epochs", "workers"];

pub(crate) async fn back_up(database: &Database) {
    for table in TABLES {
        database
            .execute(&format!(
                "CREATE TABLE backup_{table} AS SELECT * FROM meshseal_{table}"
            ))
            .await;
    }
}

pub(crate) async fn restore(database: &Database) {
    let statements = TABLES.map(|table| {
        format!(
            "DELETE FROM meshseal_{table}; \
             INSERT INTO meshseal_{table} SELECT * FROM backup_{table};"
        )
    });
    database
        .execute(&format!("BEGIN; {} COMMIT", statements.concat()))
        .await;
}

pub(crate) async fn revoke(harness: &Harness, token: &str) {
    assert_eq!(
        harness
            .post_as("checkout", "/revoke", &format!("token={token}"))
            .await
            .status,
        200
    );
}

pub(crate) fn index(token: &str) -> u64 {
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

    // The replica restores both revocations under a new version.
    assert!(!harness.is_active(&token).await && !harness.is_active(&of_stock).await);
    let answer = harness.poll(1, Some(version)).await;
    assert!(
        decode(&answer.text).1["ver"].as_u64() > Some(version),
        "a higher version: {}",
        answer.text
    );
    assert_eq!(delta(&answer.text), Value::Null, "the delta is empty");
    proxy.confirm(&harness).await;
    assert!(
        !harness.restarted().await.is_active(&token).await,
        "the database holds the revocation again"
    );

    // The incident is reported, but does not stop the replica.
    harness.tick().await;
    let ready = harness.get("/readyz").await;
    assert_eq!(ready.status, 200, "{}", ready.text);
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
    // Only an administrator ends it, and its revocations stay in effect.
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
        "the token stays revoked after the incident"
    );
}

/// The database may have lost the record of a worker, which still uses its bundle and is in no
/// list.
async fn receipt_is_unknown_after_lost_records(database: Arc<Database>) {
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
        "the end of the incident restores no record"
    );
    restarted.advance(3_600 + 60).await;
    restarted.tick().await;
    assert_ne!(
        receipt("bob").await,
        "unknown",
        "every bundle from before the loss has expired"
    );
}

/// A backup of the current version loses no revocation, but may lose records of workers.
async fn notices_lost_worker_record_behind_newer_ones(database: Arc<Database>) {
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
    assert_eq!(one.version(), declared, "declared once");
}

async fn restores_revocation_known_to_another_replica(database: Arc<Database>) {
    let one = Harness::on(database.clone(), config()).await;
    let other = one.restarted().await;
    let token = one.token().await;
    back_up(&database).await;
    revoke(&other, &token).await;
    restore(&database).await;
    one.tick().await;
    assert!(one.is_active(&token).await, "this replica never read it");
    other.tick().await;
    one.tick().await;
    assert!(!one.is_active(&token).await && !other.is_active(&token).await);
    assert_eq!(one.version(), other.version());
}

async fn notices_branch_with_newer_version(database: Arc<Database>) {
    let one = Harness::on(database.clone(), config()).await;
    let (lost, kept) = (one.token().await, one.token().await);
    back_up(&database).await;
    revoke(&one, &lost).await;
    restore(&database).await;
    one.clock.advance(1);
    let other = one.restarted().await;
    revoke(&other, &kept).await;
    assert!(
        other.version() > one.version(),
        "the branch is newer than the lost version"
    );
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

async fn revoked_key_stays_retired_after_rollback(database: Arc<Database>) {
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
        .expect("the revoked key is kept as retired");
    assert_eq!(
        (stolen.state, stolen.sealed.is_some()),
        (KeyState::Retired, false)
    );
    let token = restarted.token().await;
    assert!(harness.is_active(&token).await);
}

/// The database loses a lease of indices that only the replica that made it knows.
async fn replicas_lease_no_index_twice(database: Arc<Database>) {
    let one = Harness::on(database.clone(), config()).await;
    let other = one.restarted().await;
    // Every replica has used up the lease of its start.
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
             INSERT INTO meshseal_epochs (kind, name, before, expires_at)
             VALUES ('martian', 'x', 1, 2)",
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
        "the key may have been revoked"
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
        "later tokens are not revoked"
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
