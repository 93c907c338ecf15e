use std::path::Path;
use std::sync::Arc;

use sqlx::{AnyConnection, AssertSqlSafe, Connection as _, Executor as _, Row as _};

use super::super::outage::Reason;
use super::super::{Location, open};
use super::*;
use crate::revocation::{EpochKind, EpochRecord, Full, RevokedToken, Revoker};

const NOW: u64 = 1_900_000_000;

async fn store(path: &Path) -> SqlStore {
    let store = open::open_sql(&Location::Sqlite(path.to_owned()), Duration::MAX)
        .await
        .unwrap();
    let master =
        MasterKey::from_base64("AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "test").unwrap();
    store.unlock(&master).await.unwrap();
    store
}

async fn run(store: &SqlStore, sql: String) -> i64 {
    let mut transaction = store.pool.begin(Access::Read).await.unwrap();
    let row = query(AssertSqlSafe(sql))
        .fetch_one(transaction.connection().unwrap())
        .await
        .unwrap();
    transaction.end(Ok(())).await.unwrap();
    row.get(0)
}

async fn revoke(store: &SqlStore, subject: u32) -> Result<u64, StoreError> {
    let name = format!("subject-{subject:0>1000}");
    let epoch = EpochRecord {
        kind: EpochKind::Subject,
        name,
        before: NOW,
        expires_at: NOW + 1_000,
    };
    store
        .commit(
            &Change {
                epochs: vec![epoch],
                ..Change::default()
            },
            NOW * 1_000,
        )
        .await
}

async fn kept(path: &Path) -> i64 {
    let mut other = AnyConnection::connect(&format!("sqlite://{}?mode=ro", path.display()))
        .await
        .unwrap();
    query("SELECT COUNT(*) FROM meshseal_epochs")
        .fetch_one(&mut other)
        .await
        .unwrap()
        .get(0)
}

#[tokio::test]
async fn keeps_revocations_after_failed_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("meshseal.db");
    let store = store(&path).await;
    let mut acknowledged = 0;
    for subject in 0..3 {
        revoke(&store, subject).await.unwrap();
        acknowledged += 1;
    }
    let pages = run(&store, "PRAGMA page_count".into()).await;
    run(&store, format!("PRAGMA max_page_count = {}", pages + 1)).await;
    let mut subject = 100;
    let outage = loop {
        match revoke(&store, subject).await {
            Ok(_) => acknowledged += 1,
            Err(StoreError::Unavailable(outage)) => break outage,
            Err(other) => panic!("{other}"),
        }
        subject += 1;
    };
    assert_eq!(outage.reason, Reason::Full, "{outage}");
    assert_eq!(store.health().write.unwrap().reason, Reason::Full);
    let most = Revoker {
        client: "a".into(),
        most: Some(0),
    };
    let quota = Change {
        revoke: vec![RevokedToken {
            index: 1,
            expires_at: NOW,
        }],
        revoker: most,
        ..Change::default()
    };
    assert_eq!(
        store.commit(&quota, NOW * 1_000).await,
        Err(StoreError::Full(Full::Client))
    );
    run(&store, "PRAGMA max_page_count = 1073741823".into()).await;
    for subject in 200..264 {
        revoke(&store, subject).await.unwrap();
        acknowledged += 1;
    }
    assert_eq!(kept(&path).await, acknowledged);
    assert_eq!(store.health().write, None);
    drop(store);
    let again = self::store(&path).await;
    assert_eq!(
        i64::try_from(again.load().await.unwrap().epochs.len()).unwrap(),
        acknowledged
    );
}

/// Sets a value that a new connection does not have.
async fn mark(transaction: &mut super::super::pool::Transaction<'_>) {
    transaction
        .connection()
        .unwrap()
        .execute("PRAGMA cache_size = -777")
        .await
        .unwrap();
}

async fn is_marked(store: &SqlStore) -> bool {
    run(store, "PRAGMA cache_size".into()).await == -777
}

#[tokio::test]
async fn reuses_connection_only_after_clean_end() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder.path().join("meshseal.db")).await;
    let failures: [(&str, Result<(), StoreError>, bool); 5] = [
        ("SELECT 1", Ok(()), true),
        ("SELECT 1", Err(StoreError::Conflict), true),
        (
            "SELECT 1",
            Err(StoreError::Unavailable("told to".into())),
            false,
        ),
        // No transaction is active any more, so that COMMIT and ROLLBACK fail.
        ("ROLLBACK", Ok(()), false),
        ("ROLLBACK", Err(StoreError::Conflict), false),
    ];
    for (statement, result, kept) in failures {
        let mut transaction = store.pool.begin(Access::Write).await.unwrap();
        mark(&mut transaction).await;
        transaction
            .connection()
            .unwrap()
            .execute(statement)
            .await
            .unwrap();
        let fails = result.is_err() || !kept;
        assert_eq!(transaction.end(result).await.is_err(), fails, "{statement}");
        assert_eq!(is_marked(&store).await, kept, "{statement}");
    }
    let mut transaction = store.pool.begin(Access::Write).await.unwrap();
    mark(&mut transaction).await;
    drop(transaction);
    assert!(!is_marked(&store).await, "cut off");
    let insert = "INSERT INTO meshseal_meta VALUES ('cut', 'off')";
    let mut transaction = store.pool.begin(Access::Write).await.unwrap();
    transaction
        .connection()
        .unwrap()
        .execute(insert)
        .await
        .unwrap();
    drop(transaction);
    assert_eq!(
        store.constant("cut", "again").await.unwrap(),
        "again",
        "undone"
    );
}

#[tokio::test]
async fn settings_apply_to_each_connection() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder.path().join("meshseal.db")).await;
    for _ in 0..2 {
        assert_eq!(run(&store, "PRAGMA synchronous".into()).await, 2, "FULL");
        drop(store.pool.begin(Access::Write).await.unwrap());
    }
}

#[tokio::test]
async fn waits_for_lock_and_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("meshseal.db");
    let store = Arc::new(store(&path).await);
    let mut other = AnyConnection::connect(&format!("sqlite://{}?mode=rw", path.display()))
        .await
        .unwrap();
    other.execute("BEGIN IMMEDIATE").await.unwrap();
    let Err(StoreError::Unavailable(outage)) = revoke(&store, 1).await else {
        panic!("locked")
    };
    assert_eq!(outage.reason, Reason::Locked, "{outage}");
    other.execute("COMMIT").await.unwrap();
    revoke(&store, 1).await.unwrap();
    assert_eq!(kept(&path).await, 1);
}

#[tokio::test]
async fn each_change_states_its_durability() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder.path().join("issuer.db")).await;
    // 2 is FULL, 1 is NORMAL.
    for (access, expected) in [(Access::Note, 1), (Access::Write, 2), (Access::Note, 1)] {
        let mut transaction = store.pool.begin(access).await.unwrap();
        let row = query("PRAGMA synchronous")
            .fetch_one(transaction.connection().unwrap())
            .await
            .unwrap();
        let setting: i64 = row.get(0);
        transaction.end(Ok(())).await.unwrap();
        assert_eq!(setting, expected, "{access:?}");
    }
}
