//! Data files that are foreign, damaged or missing, and master keys that are wrong or missing.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use meshseal_issuer::clock::FixedClock;
use meshseal_issuer::config::{Config, MasterKeySource};
use meshseal_issuer::issuer::{Issuer, StartError};
use meshseal_issuer::keys::MasterKeyError;
use meshseal_issuer::store::{Location, OpenError, open};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, SqliteConnection};

use crate::support::database::Database;
use crate::support::{Harness, NOW, config};

async fn sqlite(path: &Path, statements: &str) {
    let url = format!("sqlite://{}?mode=rwc", path.display());
    let mut connection = SqliteConnection::connect(&url).await.unwrap();
    // A dropped store releases the file a moment later.
    while let Err(error) = connection
        .execute(AssertSqlSafe(statements.to_owned()))
        .await
    {
        assert!(error.to_string().contains("locked"), "{error}");
        tokio::task::yield_now().await;
    }
    connection.close().await.unwrap();
}

async fn refusal(path: &Path) -> String {
    let before = std::fs::read(path).unwrap();
    let error = open(&Location::Sqlite(path.into()))
        .await
        .err()
        .expect("a refusal");
    assert!(matches!(error, OpenError::Refused { .. }), "{error}");
    assert_eq!(
        std::fs::read(path).unwrap(),
        before,
        "the file is unchanged"
    );
    error.to_string()
}

#[tokio::test]
async fn rejects_foreign_file_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    std::fs::write(&path, "my holiday photographs").unwrap();
    assert!(refusal(&path).await.contains("not a SQLite file"));
    std::fs::write(&path, [7; 5_000]).unwrap();
    assert!(refusal(&path).await.contains("not a SQLite file"));
    std::fs::remove_file(&path).unwrap();
    sqlite(
        &path,
        "CREATE TABLE photographs (id int); PRAGMA user_version = 1",
    )
    .await;
    assert!(refusal(&path).await.contains("another program"));
}

#[tokio::test]
async fn rejects_file_of_newer_program() {
    let database = Database::sqlite();
    drop(database.open().await);
    sqlite(
        database.file(),
        "PRAGMA journal_mode = DELETE; PRAGMA user_version = 99",
    )
    .await;
    assert!(refusal(database.file()).await.contains("newer"));
}

#[tokio::test]
async fn unknown_state_names_row_and_remedy() {
    let harness = Harness::new().await;
    let kid = harness.active_kid();
    sqlite(
        harness.database.file(),
        &format!("UPDATE meshseal_keys SET state = 'frozen' WHERE kid = '{kid}'"),
    )
    .await;
    let error = harness.issuer.store.load().await.unwrap_err().to_string();
    for part in [kid.as_str(), "state `frozen`", "upgrade this replica"] {
        assert!(error.contains(part), "{part} in {error}");
    }
}

#[tokio::test]
async fn rejects_damaged_file() {
    let database = Database::sqlite();
    let harness = Harness::on(database.clone(), config()).await;
    harness.token().await;
    drop(harness);
    sqlite(database.file(), "PRAGMA journal_mode = DELETE").await;
    let whole = std::fs::read(database.file()).unwrap();
    let mut damaged = whole.clone();
    damaged[4_096..].fill(0x5a);
    std::fs::write(database.file(), &damaged).unwrap();
    assert!(refusal(database.file()).await.contains("damaged"));
    std::fs::write(database.file(), &whole[..whole.len() / 2]).unwrap();
    assert!(refusal(database.file()).await.contains("damaged"));
}

#[tokio::test]
async fn vanished_file_loses_no_revocation() {
    let harness = Harness::new().await;
    let token = harness.token().await;
    let elsewhere = harness.database.file().with_extension("moved");
    std::fs::rename(harness.database.file(), &elsewhere).unwrap();
    let answer = harness
        .post_as("checkout", "/revoke", &format!("token={token}"))
        .await;
    assert_eq!(
        answer.error(),
        (503, "temporarily_unavailable".into()),
        "{}",
        answer.text
    );
    harness.clock.advance(6);
    assert_eq!(
        harness
            .post_as(
                "checkout",
                "/token",
                "grant_type=client_credentials&resource=orders"
            )
            .await
            .status,
        503
    );

    // The file returns.
    std::fs::rename(&elsewhere, harness.database.file()).unwrap();
    harness.tick().await;
    assert!(
        harness.is_active(&token).await,
        "the refused revocation had no effect"
    );
    assert_eq!(
        harness
            .post_as("checkout", "/revoke", &format!("token={token}"))
            .await
            .status,
        200
    );
    assert!(!harness.restarted().await.is_active(&token).await);
}

async fn start(config: &Config) -> Result<Issuer, StartError> {
    Issuer::open(config.clone(), Arc::new(FixedClock::at(NOW))).await
}

#[tokio::test]
async fn creates_master_key_once_and_requires_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("master.key");
    let mut config = config();
    config.database = Location::Sqlite(folder.path().join("meshseal.db"));
    config.master_key = MasterKeySource::File(file.clone());
    drop(start(&config).await.unwrap());
    assert_eq!(
        std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );

    // A second start keeps the key.
    let made = std::fs::read_to_string(&file).unwrap();
    drop(start(&config).await.unwrap());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), made);

    // A wrong, a malformed and a missing key stop the start.
    std::fs::write(&file, "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=").unwrap();
    assert!(matches!(
        start(&config).await.err(),
        Some(StartError::Master(MasterKeyError::Wrong))
    ));
    std::fs::write(&file, "not a key").unwrap();
    assert!(matches!(
        start(&config).await.err(),
        Some(StartError::Master(MasterKeyError::Form(_)))
    ));
    std::fs::remove_file(&file).unwrap();
    let missing = start(&config).await.err().unwrap().to_string();
    assert!(missing.contains("restore it"), "{missing}");
    assert!(
        !file.exists(),
        "a new master key could not open the existing keys"
    );
    std::fs::write(&file, made).unwrap();
    drop(start(&config).await.unwrap());
}

#[tokio::test]
async fn postgresql_creates_no_master_key() {
    let Some(database) = Database::postgres().await else {
        return;
    };
    let mut config = config();
    config.database = database.location.clone();
    let error = start(&config).await.err().unwrap().to_string();
    assert!(error.contains("MESHSEAL_MASTER_KEY"), "{error}");
}

#[tokio::test]
async fn tampered_key_row_stops_start() {
    let harness = Harness::new().await;
    let file = harness.database.file().to_owned();
    let swap = "UPDATE meshseal_keys SET sealed = (SELECT sealed FROM meshseal_keys \
                WHERE state = 'next' AND purpose = 'token') \
                WHERE state = 'active' AND purpose = 'token'";
    sqlite(&file, swap).await;
    let store = harness.database.open().await;
    let started = Issuer::start(
        config(),
        harness.clock.clone(),
        store,
        crate::support::master(),
    )
    .await;
    let error = started.err().unwrap().to_string();
    assert!(error.contains("of meshseal_keys"), "{error}");
}
