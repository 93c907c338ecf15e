//! Attacks by a program that can write to the database, but lacks the master key (ADR 18).

use std::sync::Arc;

use meshseal_core::authn::Accepted;
use meshseal_issuer::issuer::Issuer;
use meshseal_issuer::keys::{Algorithm, KeyChange, KeyRecord, KeyState, Purpose, generate};
use meshseal_issuer::revocation::{EpochKind, EpochRecord, RevokedToken, Revoker};
use meshseal_issuer::store::{Change, StoreError};

use crate::incidents::index;
use crate::support::database::{Database, on_both};
use crate::support::{Harness, NOW, Proxy, config, master};

on_both! {
    detects_each_forged_removed_or_replayed_row
    seals_schema_1_once
}

const NOW_MS: u64 = NOW * 1000;

const GRANT: &str = "grant_type=client_credentials&resource=orders";

fn record(kid: &str) -> KeyRecord {
    KeyRecord {
        kid: kid.into(),
        ..generated(KeyState::Draining)
    }
}

fn generated(state: KeyState) -> KeyRecord {
    generate(Purpose::Token, Algorithm::EdDsa, state, NOW, &master()).unwrap()
}

fn epoch(name: &str, before: u64) -> EpochRecord {
    EpochRecord {
        kind: EpochKind::Subject,
        name: name.into(),
        before,
        expires_at: NOW + 1_000,
    }
}

/// Fills a store with two rows of each kind, and saves the state more than once.
async fn filled(database: &Database) -> Arc<dyn meshseal_issuer::store::Store> {
    let store = database.open().await;
    let tokens = [1, 2].map(|index| RevokedToken {
        index,
        expires_at: NOW + 1_000,
    });
    let change = Change {
        keys: ["a", "b"]
            .map(|kid| KeyChange::Insert(record(kid)))
            .to_vec(),
        revoke: tokens.to_vec(),
        revoker: Revoker {
            client: "checkout".into(),
            most: None,
        },
        epochs: vec![epoch("alice", 900), epoch("bob", 900)],
        ..Change::default()
    };
    store.commit(&change, NOW_MS).await.unwrap();
    store.lease_indices(100, 0).await.unwrap();
    store
        .load()
        .await
        .expect("the rows of the store are genuine");
    store
}

/// Statements that tamper with the rows of [`filled`], and the fault that the store must name.
const FORGERIES: [(&str, &str); 17] = [
    (
        "DELETE FROM meshseal_keys WHERE kid = 'a'",
        "meshseal_keys has 1 rows instead of 2, removed or replaced: \
             row `a` of meshseal_keys",
    ),
    (
        "UPDATE meshseal_keys SET state = 'active' WHERE kid = 'a'",
        "row `a` of meshseal_keys",
    ),
    (
        "UPDATE meshseal_keys SET ready_at = 1 WHERE kid = 'a'",
        "row `a` of meshseal_keys",
    ),
    (
        "UPDATE meshseal_keys SET drain_s = 1 WHERE kid = 'a'",
        "row `a` of meshseal_keys",
    ),
    (
        "UPDATE meshseal_keys SET mac = NULL WHERE kid = 'a'",
        "row `a` of meshseal_keys",
    ),
    (
        "INSERT INTO meshseal_keys (kid, purpose, algorithm, state, since, published, \
             public_jwk, sealed, ready_at, drain_s, mac) SELECT 'c', purpose, algorithm, state, \
             since, published, public_jwk, sealed, ready_at, drain_s, mac \
             FROM meshseal_keys WHERE kid = 'a'",
        "row `c` of meshseal_keys",
    ),
    (
        "DELETE FROM meshseal_revoked WHERE token_index = 1",
        "meshseal_revoked has 1 rows instead of 2, removed or replaced: \
             row `1` of meshseal_revoked",
    ),
    (
        "UPDATE meshseal_revoked SET expires_at = 5 WHERE token_index = 1",
        "row `1` of meshseal_revoked",
    ),
    (
        "UPDATE meshseal_revoked SET token_index = 3 WHERE token_index = 1",
        "row `3` of meshseal_revoked",
    ),
    (
        "UPDATE meshseal_revoked SET revoked_by = 'x' WHERE token_index = 2",
        "row `2` of meshseal_revoked",
    ),
    (
        "DELETE FROM meshseal_epochs WHERE name = 'bob'",
        "meshseal_epochs has 1 rows instead of 2, removed or replaced: \
             row `subject bob` of meshseal_epochs",
    ),
    (
        "UPDATE meshseal_epochs SET kind = 'client' WHERE name = 'bob'",
        "row `client bob` of meshseal_epochs",
    ),
    (
        "DELETE FROM meshseal_epochs; INSERT INTO meshseal_epochs SELECT * FROM old_epochs",
        "a row was replaced by an earlier state of it, removed or replaced: \
             row `subject alice` of meshseal_epochs",
    ),
    (
        "DELETE FROM meshseal_state; INSERT INTO meshseal_state SELECT * FROM old_state",
        "a row was replaced by an earlier state of it",
    ),
    (
        "UPDATE meshseal_state SET version = version + 1",
        "row `state` of meshseal_state",
    ),
    (
        "UPDATE meshseal_state SET next_index = 0",
        "row `state` of meshseal_state",
    ),
    (
        "UPDATE meshseal_state SET rows_used = '1 2'",
        "row `state` of meshseal_state",
    ),
];

async fn detects_each_forged_removed_or_replayed_row(database: Arc<Database>) {
    let store = filled(&database).await;
    database
        .execute("CREATE TABLE old_epochs AS SELECT * FROM meshseal_epochs")
        .await;
    database
        .execute("CREATE TABLE old_state AS SELECT * FROM meshseal_state")
        .await;
    store
        .commit(
            &Change {
                epochs: vec![epoch("alice", 950)],
                ..Change::default()
            },
            NOW_MS,
        )
        .await
        .unwrap();
    let tables = ["keys", "revoked", "epochs", "state"];
    for table in tables {
        database
            .execute(&format!(
                "CREATE TABLE kept_{table} AS SELECT * FROM meshseal_{table}"
            ))
            .await;
    }
    store.load().await.unwrap();
    for (statements, named) in FORGERIES {
        database.execute(statements).await;
        let error = store.load().await.unwrap_err();
        assert_eq!(error, StoreError::Tampered(named.into()), "{statements}");
        for table in tables {
            let undo = format!(
                "DELETE FROM meshseal_{table}; \
                 INSERT INTO meshseal_{table} SELECT * FROM kept_{table}"
            );
            database.execute(&undo).await;
        }
        store
            .load()
            .await
            .unwrap_or_else(|error| panic!("{statements}: undone, yet {error}"));
    }
}

/// The statements of the released schema 1.
const SCHEMA_1: &str = "
    CREATE TABLE meshseal_meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
    CREATE TABLE meshseal_state (
        id BIGINT PRIMARY KEY CHECK (id = 1), version BIGINT NOT NULL, next_index BIGINT NOT NULL,
        rotation_requested BIGINT, leader TEXT NOT NULL, leader_until BIGINT NOT NULL);
    INSERT INTO meshseal_state VALUES (1, 7, 8192, NULL, '', 0);
    CREATE TABLE meshseal_keys (
        kid TEXT PRIMARY KEY, purpose TEXT NOT NULL, algorithm TEXT NOT NULL, state TEXT NOT NULL,
        since BIGINT NOT NULL, published BIGINT NOT NULL, public_jwk TEXT NOT NULL, sealed {blob});
    CREATE UNIQUE INDEX meshseal_one_active ON meshseal_keys (purpose) WHERE state = 'active';
    CREATE TABLE meshseal_revoked (
        token_index BIGINT PRIMARY KEY, expires_at BIGINT NOT NULL, revoked_by TEXT NOT NULL);
    CREATE INDEX meshseal_revoked_by ON meshseal_revoked (revoked_by);
    CREATE TABLE meshseal_epochs (
        kind TEXT NOT NULL, name TEXT NOT NULL, before BIGINT NOT NULL, expires_at BIGINT NOT NULL,
        PRIMARY KEY (kind, name));
    CREATE TABLE meshseal_proxies (
        worker TEXT PRIMARY KEY, node TEXT NOT NULL, version BIGINT NOT NULL,
        seen_at BIGINT NOT NULL);
    INSERT INTO meshseal_revoked VALUES (5, 1900003600, 'checkout');
    INSERT INTO meshseal_epochs VALUES ('subject', 'alice', 1900000000, 1900003600);";

async fn schema_1(database: &Database) -> KeyRecord {
    let (blob, quoted, marks) = if database.is_sqlite() {
        (
            "BLOB",
            "x'",
            "PRAGMA application_id = 1296388936; PRAGMA user_version = 1",
        )
    } else {
        (
            "BYTEA",
            "'\\x",
            "INSERT INTO meshseal_meta VALUES ('schema', '1')",
        )
    };
    database.execute(&SCHEMA_1.replace("{blob}", blob)).await;
    let key = generated(KeyState::Active);
    let private = master()
        .open(
            &KeyRecord::seal_name(&key.kid),
            key.sealed.as_ref().unwrap(),
        )
        .unwrap();
    let sealed: String = master()
        .seal(&key.kid, &private)
        .unwrap()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let (kid, jwk) = (&key.kid, &key.public_jwk);
    database
        .execute(&format!(
            "INSERT INTO meshseal_keys VALUES \
             ('{kid}', 'token', 'EdDSA', 'active', {NOW}, 7, '{jwk}', {quoted}{sealed}')"
        ))
        .await;
    database.execute(marks).await;
    key
}

async fn seals_schema_1_once(database: Arc<Database>) {
    let key = schema_1(&database).await;
    let harness = Harness::on(database.clone(), config()).await;
    assert_eq!(harness.active_kid(), key.kid);
    let kept = database.open().await.load().await.unwrap();
    assert_eq!(
        (kept.revoked.len(), kept.epochs.len(), kept.next_index),
        (1, 1, 8_192)
    );
    assert!(harness.is_active(&harness.token().await).await);
    database
        .execute("UPDATE meshseal_keys SET mac = NULL; UPDATE meshseal_state SET mac = NULL")
        .await;
    let store = meshseal_issuer::store::open(&database.location)
        .await
        .unwrap();
    let refused = store.unlock(&master()).await.unwrap_err();
    assert!(
        matches!(&refused, StoreError::Tampered(reason) if reason.contains("has no MAC")),
        "{refused}"
    );
}

fn forged_row() -> String {
    let key = generated(KeyState::Draining);
    let (kid, jwk) = (key.kid, key.public_jwk);
    format!(
        "INSERT INTO meshseal_keys (kid, purpose, algorithm, state, since, published, public_jwk)
         VALUES ('{kid}', 'token', 'EdDSA', 'draining', {NOW}, 0, '{jwk}')"
    )
}

#[tokio::test]
async fn forged_key_is_named_and_never_published() {
    let harness = Harness::new().await;
    let token = harness.token().await;
    let mut proxy = Proxy::of(&harness, 1);
    proxy.confirm(&harness).await;
    let before = harness.get("/jwks").await.text;
    harness
        .database
        .execute(&format!(
            "{}; UPDATE meshseal_state SET version = version + 1",
            forged_row()
        ))
        .await;
    // The replica names the table, keeps its state, and stops minting and revoking.
    let error = harness
        .issuer
        .publisher
        .refresh()
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("meshseal_keys") && error.contains("meshseal_state"),
        "{error}"
    );
    assert_eq!(
        harness.get("/jwks").await.text,
        before,
        "the last good key set stays published"
    );
    assert!(harness.is_active(&token).await);
    let ready = harness.get("/readyz").await;
    assert_eq!(ready.status, 503);
    let metrics = harness.get("/metrics").await.text;
    assert!(
        metrics.contains("\nmeshseal_database_tampered 1\n"),
        "{metrics}"
    );
    for (path, form) in [
        ("/token", GRANT.to_owned()),
        ("/revoke", format!("token={token}")),
    ] {
        assert_eq!(
            harness.post_as("checkout", path, &form).await.error(),
            (503, "temporarily_unavailable".into())
        );
    }

    // Workers get the last good bundle with its old dates.
    harness.clock.advance(30);
    assert!(harness.issuer.publisher.refresh().await.is_err());
    let issued = proxy.trust.bundle_issued_at();
    assert_eq!(proxy.poll(&harness).await, Accepted::Refreshed);
    assert_eq!(
        proxy.trust.bundle_issued_at(),
        issued,
        "unproven state gets no new date"
    );
    let mut other = Proxy::of(&harness, 2);
    other.poll(&harness).await;
    assert_eq!(
        other.trust.bundle_issued_at(),
        issued,
        "a new worker gets the same bundle"
    );

    let undo = "DELETE FROM meshseal_keys WHERE mac IS NULL; \
                UPDATE meshseal_state SET version = version - 1";
    harness.database.execute(undo).await;
    harness.tick().await;
    assert_eq!(harness.get("/readyz").await.status, 200);
    harness.token().await;
}

#[tokio::test]
async fn only_administrators_learn_row_names_and_reasons() {
    let harness = Harness::new().await;
    let reason = "reason=backup%20of%20bob";
    for (path, form) in [
        ("/revoke", "subject=alice"),
        ("/admin/incident/declare", reason),
    ] {
        let answer = harness.post_as("operator", path, form).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
    }
    harness.tick().await;
    let lost = harness.get("/readyz").await;
    let shown = harness.get_as("operator", "/admin/incident").await.text;
    assert!(shown.contains("declared by operator: backup of bob"));
    harness
        .database
        .execute("UPDATE meshseal_epochs SET before = before + 1 WHERE name = 'alice'")
        .await;
    harness.clock.advance(61);
    let error = harness.issuer.publisher.refresh().await.unwrap_err();
    assert!(error.to_string().contains("subject alice"), "{error}");
    let shown = harness.get_as("operator", "/admin/incident").await.text;
    assert!(shown.contains("subject alice"), "{shown}");

    // Answers to everyone else name neither rows nor the operator's reason.
    let mut public = vec![lost, harness.get("/readyz").await];
    for (path, form) in [
        ("/token", GRANT),
        ("/introspect", "token=a.b.c"),
        ("/revoke", "token=a.b.c"),
    ] {
        public.push(harness.post_as("checkout", path, form).await);
    }
    for answer in public {
        for name in ["alice", "bob", "operator", "meshseal_"] {
            assert!(!answer.text.contains(name), "{name}: {}", answer.text);
        }
    }
}

#[tokio::test]
async fn proves_all_rows_each_minute() {
    let harness = Harness::new().await;
    harness.database.execute(&forged_row()).await;
    harness.tick().await;
    harness.clock.advance(61);
    let error = harness.issuer.publisher.refresh().await.unwrap_err();
    assert!(matches!(error, StoreError::Tampered(_)), "{error}");
}

#[tokio::test]
async fn tampered_database_stops_the_start() {
    let harness = Harness::new().await;
    harness.database.execute(&forged_row()).await;
    let started = Issuer::start(
        config(),
        harness.clock.clone(),
        harness.database.open().await,
        master(),
    )
    .await;
    let error = started.err().unwrap().to_string();
    assert!(
        error.contains("meshseal_keys") && error.contains("meshseal incident repair"),
        "{error}"
    );
}

#[tokio::test]
async fn restored_database_leases_no_index_twice() {
    let database = Database::sqlite();
    let first = Harness::on(database.clone(), config()).await;
    database
        .execute("CREATE TABLE backup AS SELECT * FROM meshseal_state")
        .await;
    let lost = index(&first.token().await);
    database
        .execute("DELETE FROM meshseal_state; INSERT INTO meshseal_state SELECT * FROM backup")
        .await;
    first.clock.advance(1);
    let second = first.restarted().await;
    let reused = index(&second.token().await);
    assert!(
        reused > lost + 8_192,
        "{reused} may be in the block that {lost} came from"
    );
}
