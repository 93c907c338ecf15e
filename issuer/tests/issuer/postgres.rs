//! Faults that only PostgreSQL has: foreign schemas, simultaneous starts and outages.

use meshseal_issuer::store::{Location, OpenError, open};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use crate::support::database::{Database, PostgresServer};
use crate::support::{Harness, config};

async fn run(database: &Database, statements: &str) {
    let Location::Postgres(url) = &database.location else {
        return;
    };
    PgConnection::connect(url)
        .await
        .unwrap()
        .execute(AssertSqlSafe(statements.to_owned()))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejects_foreign_or_newer_database() {
    for (statements, expected) in [
        ("CREATE TABLE meshseal_meta (id int)", "another program"),
        (
            "CREATE TABLE meshseal_meta (name text primary key, value text)",
            "another program",
        ),
        (
            "CREATE TABLE meshseal_meta (name text primary key, value text); \
             INSERT INTO meshseal_meta VALUES ('schema', '99')",
            "newer",
        ),
    ] {
        let Some(database) = Database::postgres().await else {
            return;
        };
        run(&database, statements).await;
        let error = open(&database.location).await.err().unwrap();
        assert!(
            matches!(&error, OpenError::Refused { reason, .. } if reason.contains(expected)),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn simultaneous_starts_create_one_schema_and_key() {
    let Some(database) = Database::postgres().await else {
        return;
    };
    let start = || Harness::on(database.clone(), config());
    let (one, two, three, four) = tokio::join!(start(), start(), start(), start());
    let mut kids = [one, two, three, four]
        .map(|replica| replica.active_kid())
        .to_vec();
    kids.dedup();
    assert_eq!(kids.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_outage_loses_no_revocation() {
    let Some(mut server) = PostgresServer::start() else {
        return;
    };
    server.connect().await;
    let location = Location::Postgres(server.new_database().await);
    let store = open(&location).await.unwrap();
    let clock = std::sync::Arc::new(meshseal_issuer::clock::FixedClock::at(crate::support::NOW));
    let issuer = meshseal_issuer::issuer::Issuer::start(
        config(),
        clock.clone(),
        store,
        crate::support::master(),
    )
    .await
    .unwrap();
    let issuer = std::sync::Arc::new(issuer);
    let harness = Harness::serving(issuer, clock, Database::sqlite());
    let (revoked, lost) = (harness.token().await, harness.token().await);
    assert_eq!(
        harness
            .post_as("checkout", "/revoke", &format!("token={revoked}"))
            .await
            .status,
        200
    );

    // During the outage the replica serves only state that does not need the database.
    server.stop();
    let form = format!("token={lost}");
    let refused = harness.post_as("checkout", "/revoke", &form).await;
    assert_eq!(refused.error(), (503, "temporarily_unavailable".into()));
    assert_eq!(refused.header(axum::http::header::RETRY_AFTER), "1");
    harness.clock.advance(6);
    for (path, form) in [
        ("/token", "grant_type=client_credentials&resource=orders"),
        ("/introspect", "token=x"),
    ] {
        assert_eq!(
            harness.post_as("checkout", path, form).await.status,
            503,
            "{path} without current state"
        );
    }
    assert_eq!(harness.get("/readyz").await.status, 503);
    assert_eq!(
        harness.get("/bundle").await.status,
        503,
        "stale state gets no new bundle"
    );
    assert_eq!(harness.get("/healthz").await.status, 200);
    assert_eq!(harness.get("/jwks").await.status, 200);

    // After the outage every acknowledged revocation is in effect.
    server.start_again().await;
    harness.tick().await;
    assert_eq!(harness.get("/readyz").await.status, 200);
    assert!(
        !harness.is_active(&revoked).await,
        "the acknowledged revocation is kept"
    );
    assert!(
        harness.is_active(&lost).await,
        "the refused revocation had no effect"
    );
    assert_eq!(
        harness.post_as("checkout", "/revoke", &form).await.status,
        200
    );
    assert!(!harness.is_active(&lost).await);
}
