//! Rolling upgrades: two adjacent versions of the issuer on one database.

use std::sync::Arc;

use meshseal_issuer::store::{Peek, open};

use crate::assertion::present;
use crate::support::database::{Database, on_both};
use crate::support::signing::{claims, header, sign};
use crate::support::{Harness, Proxy, accepts, config};

on_both! {
    versions_share_extended_tables
    rejects_tables_of_newer_programs
    upgrade_to_assertions_needs_no_stop
}

/// Changes that the next version may make to the tables while this version runs.
const GROWN: &str = "CREATE TABLE meshseal_audit (id BIGINT PRIMARY KEY, entry TEXT NOT NULL);
    ALTER TABLE meshseal_keys ADD COLUMN hint TEXT NOT NULL DEFAULT 'none';
    ALTER TABLE meshseal_revoked ADD COLUMN hint TEXT NOT NULL DEFAULT 'none';
    ALTER TABLE meshseal_epochs ADD COLUMN hint TEXT NOT NULL DEFAULT 'none';
    ALTER TABLE meshseal_state ADD COLUMN hint TEXT NOT NULL DEFAULT 'none';
    ALTER TABLE meshseal_workers ADD COLUMN hint TEXT NOT NULL DEFAULT 'none'";

/// Marks the tables with their schema, and with the oldest schema whose programs may use them.
async fn mark(database: &Database, schema: u32, usable_since: u32) {
    let statement = if database.is_sqlite() {
        format!("PRAGMA user_version = {}", (usable_since << 16) | schema)
    } else {
        format!("UPDATE meshseal_meta SET value = '{schema} {usable_since}' WHERE name = 'schema'")
    };
    database.execute(&statement).await;
}

async fn versions_share_extended_tables(database: Arc<Database>) {
    let running = Harness::on(database.clone(), config()).await;
    let first = running.token().await;
    database.execute(GROWN).await;
    mark(&database, 5, 2).await;
    // A replica of this version may start again, as after a rollback.
    let started = running.restarted().await;
    let mut proxy = Proxy::of(&started, 1);
    proxy.confirm(&started).await;
    let second = started.token().await;
    for (by, token) in [(&started, &first), (&running, &second)] {
        assert_eq!(
            by.post_as("checkout", "/revoke", &format!("token={token}"))
                .await
                .status,
            200
        );
    }
    let standby = running.next_kid();
    assert_eq!(
        running
            .post_as("operator", "/admin/keys/rotate", "force=true")
            .await
            .status,
        200
    );
    for replica in [&started, &running] {
        replica.tick().await;
        assert!(!replica.is_active(&first).await && !replica.is_active(&second).await);
        assert_eq!(replica.active_kid(), standby);
        assert_eq!(replica.issuer.live_proxies().await.proxies.len(), 1);
    }
    proxy.confirm(&started).await;
    let third = running.token().await;
    assert!(accepts(&started, &proxy.trust, &third) && !accepts(&started, &proxy.trust, &first));
}

/// The running replica stands for a program of schema 3, which records no assertions.
async fn upgrade_to_assertions_needs_no_stop(database: Arc<Database>) {
    let running = Harness::on(database.clone(), config()).await;
    database.execute("DROP TABLE meshseal_assertions").await;
    mark(&database, 3, 2).await;
    let first = running.token().await;
    let started = running.restarted().await;
    let assertion = sign(&header("EdDSA", "ed"), &claims("1"));
    assert_eq!(present(&started, &assertion, "").await.status, 200);
    let form = format!("token={first}");
    let revoked = running.post_as("checkout", "/revoke", &form).await.status;
    assert_eq!(revoked, 200);
    started.tick().await;
    assert!(!started.is_active(&first).await);
    let upgraded = running.restarted().await;
    assert_eq!(present(&upgraded, &assertion, "").await.status, 401);
}

async fn rejects_tables_of_newer_programs(database: Arc<Database>) {
    drop(Harness::on(database.clone(), config()).await);
    mark(&database, 9, 2).await;
    assert!(open(&database.location).await.is_ok() && Peek::open(&database.location).await.is_ok());
    mark(&database, 5, 5).await;
    let opened = open(&database.location)
        .await
        .err()
        .map(|error| error.to_string());
    assert!(opened.is_some_and(|said| said.contains("schema 5") && said.contains("upgrade")));
    let peeked = Peek::open(&database.location)
        .await
        .err()
        .map(|error| error.to_string());
    assert!(
        peeked.is_some_and(|said| said.contains("schema 5")),
        "older programs do not change the mark"
    );
}
