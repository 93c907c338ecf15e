//! A data file that is not ours, not whole or gone; a master key that does not fit.

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
    // A store that was dropped lets go of the file a moment later.
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
        "not a byte was changed"
    );
    error.to_string()
}

#[tokio::test]
async fn a_file_that_is_not_ours_is_refused_untouched() {
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
async fn a_file_of_a_newer_program_is_refused() {
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
async fn unknown_word_names_row_and_remedy() {
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
async fn a_damaged_file_is_refused() {
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
async fn a_file_that_vanishes_while_we_run_takes_no_revocation_with_it() {
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
    std::fs::rename(&elsewhere, harness.database.file()).unwrap();
    harness.tick().await;
    assert!(
        harness.is_active(&token).await,
        "what was refused was not done by halves"
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
async fn the_master_key_is_made_once_for_its_owner_and_no_other_will_do() {
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
    let made = std::fs::read_to_string(&file).unwrap();
    drop(start(&config).await.unwrap());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), made);

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
    assert!(missing.contains("give it back"), "{missing}");
    assert!(
        !file.exists(),
        "a new one would lock the old keys in for good"
    );
    std::fs::write(&file, made).unwrap();
    drop(start(&config).await.unwrap());
}

#[tokio::test]
async fn with_postgresql_no_master_key_is_made() {
    let Some(database) = Database::postgres().await else {
        return;
    };
    let mut config = config();
    config.database = database.location.clone();
    let error = start(&config).await.err().unwrap().to_string();
    assert!(error.contains("MESHSEAL_MASTER_KEY"), "{error}");
}

#[tokio::test]
async fn a_key_row_that_was_tampered_with_stops_the_start() {
    let harness = Harness::new().await;
    let file = harness.database.file().to_owned();
    sqlite(&file, "UPDATE meshseal_keys SET sealed = (SELECT sealed FROM meshseal_keys WHERE state = 'next' AND purpose = 'token') WHERE state = 'active' AND purpose = 'token'").await;
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
