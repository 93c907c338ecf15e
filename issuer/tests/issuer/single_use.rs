//! Single use of assertions: across replicas and restarts, and on a database that loses state (rule
//! I10, ADR 29).

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use axum::http::header;
use meshseal_issuer::background::follow_once;
use meshseal_issuer::clock::FixedClock;
use meshseal_issuer::store::{AssertionUse, Recorded, Uses};
use serde_json::{Value, json};

use crate::assertion::{changed, present};
use crate::support::database::{Database, on_both};
use crate::support::signing::{claims, header as head, sign, sign_foreign};
use crate::support::store::Fickle;
use crate::support::{Harness, NOW, config};

on_both! {
    assertion_is_used_once_across_replicas_and_restarts
    one_of_simultaneous_uses_passes
    process_may_record_its_own_use_again
    replica_restores_uses_that_the_database_lost
    next_use_restores_lost_uses_first
    rejects_lost_use_of_stopped_replica
    idle_replica_notices_lost_version
    uses_are_forgotten_by_certain_time
}

fn assertion(jti: &str) -> String {
    sign(&head("EdDSA", "ed"), &claims(jti))
}

/// Returns an assertion with this `iat`, or without one, that expires `life_s` seconds after `now`.
fn made_at(now: u64, jti: &str, iat: Value, life_s: u64) -> String {
    let claims = changed(claims(jti), "exp", json!(now + life_s));
    sign(&head("EdDSA", "ed"), &changed(claims, "iat", iat))
}

async fn status(harness: &Harness, assertion: &str) -> u16 {
    present(harness, assertion, "").await.status.as_u16()
}

/// Returns how many authentications at `/token` failed for this reason.
async fn failures(harness: &Harness, reason: &str) -> usize {
    let metrics = harness.metrics().await;
    let line = format!("{{endpoint=\"token\",reason=\"{reason}\"}} ");
    let count = metrics.lines().find_map(|text| text.split_once(&line));
    count.map_or(0, |(_, count)| count.parse().unwrap())
}

async fn lose_uses(database: &Database) {
    database.execute("DELETE FROM meshseal_assertions").await;
}

/// Returns whether the database has the row of a use.
async fn holds(harness: &Harness, id: u128) -> bool {
    let look = Uses {
        witness: Some(id),
        version: harness.version(),
        ..Uses::default()
    };
    let seen = harness.issuer.store.record_assertions(&look).await;
    !seen.unwrap().witness_lost
}

async fn assertion_is_used_once_across_replicas_and_restarts(database: Arc<Database>) {
    let one = Harness::on(database, config()).await;
    let other = one.restarted().await;
    let (first, second) = (assertion("1"), assertion("2"));
    assert_eq!(status(&one, &first).await, 200);
    assert_eq!(status(&other, &first).await, 401, "at another replica");
    assert_eq!(failures(&other, "assertion-replayed").await, 1);
    assert_eq!(status(&other, &second).await, 200);
    let after = one.restarted().await;
    drop((one, other));
    for used in [&first, &second] {
        assert_eq!(status(&after, used).await, 401, "after a restart");
    }
    assert_eq!(status(&after, &assertion("3")).await, 200);
}

async fn one_of_simultaneous_uses_passes(database: Arc<Database>) {
    let one = Arc::new(Harness::on(database, config()).await);
    let other = Arc::new(one.restarted().await);
    let mut asked = Vec::new();
    for at in 0..20 {
        let text = assertion(&format!("same-{at}"));
        for replica in [&one, &other] {
            let (replica, text) = (replica.clone(), text.clone());
            asked.push((
                at,
                tokio::spawn(async move { status(&replica, &text).await }),
            ));
        }
    }
    let mut passed = [0; 20];
    for (at, answer) in asked {
        match answer.await.unwrap() {
            200 => passed[at] += 1,
            refused => assert_eq!(refused, 401),
        }
    }
    assert_eq!(passed, [1; 20]);
}

/// A process may repeat a transaction whose answer was lost, or whose request ended early.
async fn process_may_record_its_own_use_again(database: Arc<Database>) {
    let harness = Harness::on(database, config()).await;
    // More ids than one statement can hold.
    let many: Vec<u128> = (0..300).rev().collect();
    for (process, ids, fresh) in [
        (1, vec![7, 5, 5], vec![true, true, false]),
        (1, vec![5, 6], vec![true, true]),
        (2, vec![6, 8, 7], vec![false, true, false]),
        (
            2,
            many.clone(),
            many.iter().map(|id| ![5, 6, 7].contains(id)).collect(),
        ),
    ] {
        let uses = ids.iter().map(|id| AssertionUse {
            id: *id,
            expires_at: NOW + 90,
        });
        let uses = Uses {
            process,
            uses: uses.collect(),
            witness: None,
            version: harness.version(),
        };
        let recorded = harness.issuer.store.record_assertions(&uses).await;
        let expected = Recorded {
            fresh,
            ..Recorded::default()
        };
        assert_eq!(recorded, Ok(expected), "{process} {ids:?}");
    }
}

async fn replica_restores_uses_that_the_database_lost(database: Arc<Database>) {
    let one = Harness::on(database.clone(), config()).await;
    let other = one.restarted().await;
    let token = one.token().await;
    // The second assertion expires first.
    let used = [
        made_at(NOW, "1", json!(NOW), 200),
        made_at(NOW, "2", json!(NOW), 60),
    ];
    for text in &used {
        assert_eq!(status(&one, text).await, 200);
    }
    one.clock.advance(100);
    follow_once(&one.issuer).await.unwrap();
    assert!(one.issuer.publisher.incident().is_none());

    // The database loses the uses, and the replica restores them.
    lose_uses(&database).await;
    follow_once(&one.issuer).await.unwrap();
    other.advance(100).await;
    assert_eq!(status(&other, &used[0]).await, 401);
    assert_eq!(
        failures(&other, "assertion-replayed").await,
        1,
        "the row was restored"
    );
    let incident = other.issuer.publisher.incident().expect("an incident");
    assert!(
        incident.reason.contains("client assertions"),
        "{}",
        incident.reason
    );
    assert!(other.is_active(&token).await, "no token is revoked");
    let version = one.version();
    follow_once(&one.issuer).await.unwrap();
    assert_eq!(one.version(), version, "declared once");
}

async fn next_use_restores_lost_uses_first(database: Arc<Database>) {
    let one = Harness::on(database.clone(), config()).await;
    let other = one.restarted().await;
    let used = assertion("used");
    assert_eq!(status(&one, &used).await, 200);
    lose_uses(&database).await;
    assert_eq!(status(&one, &assertion("next")).await, 503);
    assert_eq!(failures(&one, "assertion-before-incident").await, 1);
    assert_eq!(status(&other, &used).await, 401);
    assert_eq!(failures(&other, "assertion-replayed").await, 1);
}

/// No running replica remembers the use. Another replica noticed the loss by one of its own uses.
async fn rejects_lost_use_of_stopped_replica(database: Arc<Database>) {
    let gone = Harness::on(database.clone(), config()).await;
    let other = gone.restarted().await;
    let used = [("1", json!(NOW), 60), ("2", Value::Null, 300)];
    let used = used.map(|(jti, iat, life_s)| made_at(NOW, jti, iat, life_s));
    for text in &used {
        assert_eq!(status(&gone, text).await, 200);
    }

    // Another replica notices the loss by its own use.
    drop(gone);
    assert_eq!(status(&other, &assertion("witness")).await, 200);
    lose_uses(&database).await;
    follow_once(&other.issuer).await.unwrap();
    let answer = present(&other, &used[0], "").await;
    assert_eq!(answer.error(), (503, "temporarily_unavailable".into()));
    assert_eq!(answer.header(header::RETRY_AFTER), "1");
    let after = other.restarted().await;
    assert_eq!(
        status(&after, &used[1]).await,
        503,
        "a new replica reads the incident"
    );
    for replica in [&other, &after] {
        assert_eq!(failures(replica, "assertion-before-incident").await, 1);
    }

    // After the end of the incident, only assertions from before it are rejected.
    let ended = other
        .post_as("operator", "/admin/incident/end", "")
        .await
        .status;
    assert_eq!(ended, 200);
    other.advance(36).await;
    let now = NOW + 36;
    for (text, expected) in [
        (made_at(now, "3", json!(now - 1), 60), 503),
        (made_at(now, "4", json!(now), 60), 200),
        (made_at(now, "5", Value::Null, 299), 503),
        (made_at(now, "6", Value::Null, 300), 200),
    ] {
        assert_eq!(status(&other, &text).await, expected, "{expected}");
    }
}

/// The transaction that records a use also checks the version, before the next read of the head.
async fn idle_replica_notices_lost_version(database: Arc<Database>) {
    let gone = Harness::on(database.clone(), config()).await;
    database
        .execute("CREATE TABLE backup AS SELECT * FROM meshseal_state")
        .await;
    let commit = gone.issuer.publisher.commit(&Default::default()).await;
    commit.unwrap();
    let used = assertion("used");
    assert_eq!(status(&gone, &used).await, 200);
    let other = gone.restarted().await;
    drop(gone);
    lose_uses(&database).await;
    database
        .execute("DELETE FROM meshseal_state; INSERT INTO meshseal_state SELECT * FROM backup")
        .await;
    assert_eq!(status(&other, &used).await, 503);
    assert!(other.issuer.publisher.incident().is_some());
}

async fn uses_are_forgotten_by_certain_time(database: Arc<Database>) {
    let harness = Harness::on(database, config()).await;
    harness.tick().await;
    let uses = Uses {
        process: 1,
        uses: vec![AssertionUse {
            id: 7,
            expires_at: NOW + 90,
        }],
        version: harness.version(),
        ..Uses::default()
    };
    harness.issuer.store.record_assertions(&uses).await.unwrap();
    // A wall clock that is a day ahead for a minute expires no use.
    harness.clock.put_back(-90_000);
    pass(&harness, 60).await;
    harness.clock.put_back(90_000);
    pass(&harness, 90).await;
    assert!(holds(&harness, 7).await, "kept for a minute after expiry");
    pass(&harness, 90).await;
    assert!(!holds(&harness, 7).await);
}

async fn pass(harness: &Harness, seconds: u64) {
    for _ in 0..seconds / 15 {
        harness.advance(15).await;
        harness.tick().await;
    }
}

#[tokio::test]
async fn unavailable_database_rejects_assertions() {
    let harness = Harness::new().await;
    let token = harness.token().await;
    let elsewhere = harness.database.file().with_extension("moved");
    std::fs::rename(harness.database.file(), &elsewhere).unwrap();
    let text = assertion("1");
    let answer = present(&harness, &text, "").await;
    assert_eq!(answer.error(), (503, "temporarily_unavailable".into()));
    assert_eq!(answer.header(header::RETRY_AFTER), "1");
    assert!(
        harness.is_active(&token).await,
        "authentication with a secret needs no database"
    );
    std::fs::rename(&elsewhere, harness.database.file()).unwrap();
    assert_eq!(status(&harness, &text).await, 401, "the use stays recorded");
    assert_eq!(status(&harness, &assertion("2")).await, 200);
}

#[tokio::test]
async fn only_unused_assertions_reach_the_database() {
    let mut config = config();
    config.limits.requests_per_second = 1;
    let database = Database::sqlite();
    let store = Fickle::before(database.open().await);
    let clock = Arc::new(FixedClock::at(NOW));
    let harness = Harness::over(store.clone(), database, config, clock).await;
    let text = assertion("1");
    assert_eq!(status(&harness, &text).await, 200);
    assert_eq!(status(&harness, &text).await, 401);
    assert_eq!(
        status(&harness, &sign_foreign(&claims("2"))).await,
        401,
        "the signature is checked before the database"
    );
    harness.token().await;
    let mut passed = 1;
    for at in 3..10 {
        match status(&harness, &assertion(&at.to_string())).await {
            200 => passed += 1,
            refused => assert_eq!(refused, 429, "above the rate of the client"),
        }
    }
    assert!(passed < 8, "{passed}");
    assert_eq!(store.uses_recorded.load(SeqCst), passed);
}

/// Uses that arrive during a transaction share the next one. A request that ends does not abort the
/// others.
#[tokio::test]
async fn uses_share_transactions() {
    let (harness, store) = Harness::fickle().await;
    let harness = Arc::new(harness);
    Fickle::close(&store.uses);
    let ask = |at: u32| {
        let harness = harness.clone();
        tokio::spawn(async move { status(&harness, &assertion(&at.to_string())).await })
    };
    let first = ask(0);
    let mut others: Vec<_> = (1..50).map(ask).collect();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    store.uses.add_permits(1);
    assert_eq!(first.await.unwrap(), 200);
    others.remove(0).abort();
    store.uses.add_permits(100);
    for other in others {
        assert_eq!(other.await.unwrap(), 200);
    }
    assert_eq!(store.uses_recorded.load(SeqCst), 2);
}

/// A power cut may undo the last uses in a SQLite file.
#[tokio::test]
async fn other_boot_rejects_earlier_assertions() {
    let one = Harness::new().await;
    one.tick().await;
    let now = NOW + 60;
    let later = made_at(now, "later", json!(now + 36), 100);
    for (boot, expected) in [(9, 503), (0, 200)] {
        let clock = Arc::new(FixedClock::at(now));
        clock.set_boot(boot);
        let after = Harness::at(one.database.clone(), config(), clock).await;
        let earlier = made_at(now, &boot.to_string(), json!(now - 10), 100);
        assert_eq!(status(&after, &earlier).await, expected, "boot {boot}");
        if expected == 503 {
            after.advance(20).await;
            assert_eq!(status(&after, &later).await, 200);
        }
    }
}
