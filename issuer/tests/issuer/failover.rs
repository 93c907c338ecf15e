//! The issuer on PostgreSQL with standbys, service addresses and roles, also when it reaches the
//! wrong server.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use meshseal_issuer::store::{Change, Location, Reason, StoreError, migrate, open, open_for};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _, Row as _};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use crate::support::database::{Database, PostgresServer, unlocked};
use crate::support::{Harness, NOW, config, decode};

async fn sql(url: &str, statement: &str) {
    let options: PgConnectOptions = url.parse().unwrap();
    let mut connection = options.application_name(QUESTION).connect().await.unwrap();
    connection
        .execute(AssertSqlSafe(statement.to_owned()))
        .await
        .unwrap();
}

/// Application name of the tests' own connections, each of which closes soon after its answer.
const QUESTION: &str = "question";

async fn texts(url: &str, statement: &str) -> Vec<String> {
    ask(url, statement).await.unwrap()
}

async fn ask(url: &str, statement: &str) -> Result<Vec<String>, sqlx::Error> {
    let options: PgConnectOptions = url.parse()?;
    let mut connection = options.application_name(QUESTION).connect().await?;
    let rows = connection
        .fetch_all(AssertSqlSafe(statement.to_owned()))
        .await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// Repeats a query until it returns the expected text. A standby answers with errors until it has
/// replayed the tables.
async fn until(url: &str, statement: &str, expected: &str) {
    let mut last = Ok(Vec::new());
    for _ in 0..600 {
        last = ask(url, statement).await;
        if last.as_ref().is_ok_and(|answer| *answer == [expected]) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{statement}: never {expected}, but {last:?}");
}

async fn replayed(standby: &str, version: u64) {
    until(
        standby,
        "SELECT version::text FROM meshseal_state",
        &version.to_string(),
    )
    .await;
}

/// One address in front of changing servers, like a proxy or a service address.
struct Forwarder {
    folder: TempDir,
    target: Arc<Mutex<PathBuf>>,
    connections: Arc<Mutex<JoinSet<()>>>,
}

impl Forwarder {
    fn start(server: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(socket(folder.path())).unwrap();
        let target = Arc::new(Mutex::new(socket(server)));
        let connections: Arc<Mutex<JoinSet<()>>> = Arc::default();
        let (to, spawned) = (target.clone(), connections.clone());
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let server = to.lock().unwrap().clone();
                spawned.lock().unwrap().spawn(async move {
                    if let Ok(mut server) = UnixStream::connect(server).await {
                        let _ended = copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
        });
        Self {
            folder,
            target,
            connections,
        }
    }

    fn point_at(&self, server: &Path) {
        *self.target.lock().unwrap() = socket(server);
    }

    fn cut(&self) {
        self.connections.lock().unwrap().abort_all();
    }
}

/// Returns the name of the database in a URL of the tests' server.
pub(crate) fn database_name(url: &str) -> &str {
    let (_, rest) = url.split_once("localhost/").unwrap();
    rest.split('?').next().unwrap()
}

pub(crate) fn socket(folder: &Path) -> PathBuf {
    folder.join(".s.PGSQL.5432")
}

pub(crate) fn url(folder: &Path, database: &str) -> String {
    format!(
        "postgres://meshseal@localhost/{database}?host={}",
        folder.display()
    )
}

/// Starts a primary with a database for one test, and a standby.
async fn pair() -> Option<(PostgresServer, PostgresServer, String)> {
    let primary = PostgresServer::start()?;
    let database = primary.new_database().await;
    let name = database_name(&database).to_owned();
    let standby = primary.standby().await;
    Some((primary, standby, name))
}

/// Checks that a replica behind a standby serves keys and its bundle, and nothing that needs the
/// database.
async fn serves_held_state_only(replica: &Harness, token: &str, held: &str) {
    let Err(StoreError::Unavailable(outage)) = replica.issuer.publisher.refresh().await else {
        panic!("the replica reads from a standby")
    };
    assert_eq!(outage.reason, Reason::ReadOnly, "{outage}");
    replica.clock.advance(10);
    let ready = replica.get("/readyz").await;
    assert_eq!(
        (
            ready.status.as_u16(),
            ready.text.contains("database: read-only")
        ),
        (503, true),
        "{}",
        ready.text
    );
    let form = format!("token={token}");
    for path in ["/introspect", "/revoke"] {
        assert_eq!(
            replica.post_as("checkout", path, &form).await.status,
            503,
            "{path}"
        );
    }
    assert_eq!(replica.get("/bundle").await.status, 503);
    let polled = replica.poll(1, Some(replica.version())).await;
    assert_eq!(
        decode(&polled.text).1["exp"],
        decode(held).1["exp"],
        "no bundle is extended"
    );
    assert_eq!(replica.get("/jwks").await.status, 200);
    assert_eq!(replica.get("/readyz/keys").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaves_standby_and_extends_nothing() {
    let Some((primary, standby, name)) = pair().await else {
        return;
    };
    let forwarder = Forwarder::start(primary.folder());
    let at = |folder: &Path| Database::at(Location::Postgres(url(folder, &name)));
    let one = Harness::on(at(primary.folder()), config()).await;
    let other = Harness::on(at(forwarder.folder.path()), config()).await;
    let token = one.token().await;
    other.tick().await;
    assert!(other.is_active(&token).await);
    let before = other.poll(1, Some(other.version())).await;

    // The address moves to a standby that no longer replays.
    let standby_url = url(standby.folder(), &name);
    replayed(&standby_url, other.version()).await;
    sql(&standby_url, "SELECT pg_wal_replay_pause()").await;
    until(
        &standby_url,
        "SELECT pg_get_wal_replay_pause_state()",
        "paused",
    )
    .await;
    forwarder.point_at(standby.folder());
    forwarder.cut();

    // The replica behind the address refuses to answer from the standby.
    assert_eq!(
        one.post_as("checkout", "/revoke", &format!("token={token}"))
            .await
            .status,
        200
    );
    serves_held_state_only(&other, &token, &before.text).await;

    // The address moves back to the primary.
    sql(&standby_url, "SELECT pg_wal_replay_resume()").await;
    forwarder.point_at(primary.folder());
    other.tick().await;
    assert_eq!(other.get("/readyz").await.status, 200);
    assert!(!other.is_active(&token).await);
    let again = other.token().await;
    assert_eq!(
        other
            .post_as("checkout", "/revoke", &format!("token={again}"))
            .await
            .status,
        200
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finds_promoted_standby_among_hosts() {
    let Some((mut primary, standby, name)) = pair().await else {
        return;
    };
    let hosts = format!(
        "{},{}",
        standby.folder().display(),
        primary.folder().display()
    );
    let listed = format!(
        "postgres://meshseal@localhost/{name}?host={hosts}&target_session_attrs=read-write"
    );
    let store = unlocked(open(&Location::parse(&listed).unwrap()).await.unwrap()).await;
    let version = store.commit(&Change::default(), NOW * 1_000).await.unwrap();
    let standby_url = url(standby.folder(), &name);
    replayed(&standby_url, version).await;
    primary.stop();
    let Err(StoreError::Unavailable(_)) = store.commit(&Change::default(), NOW * 1_000).await
    else {
        panic!("the commit succeeded without a writable server")
    };
    sql(&standby_url, "SELECT pg_promote()").await;
    let next = store.commit(&Change::default(), NOW * 1_000).await.unwrap();
    assert!(next > version);
    assert_eq!(
        texts(&standby_url, "SELECT version::text FROM meshseal_state").await,
        [next.to_string()]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn treats_read_only_database_as_unavailable() {
    let Some((database, url)) = postgres().await else {
        return;
    };
    let store = database.open().await;
    store.head().await.unwrap();
    let name = database_name(&url);
    let others = "SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity \
                  WHERE datname = current_database() AND pid <> pg_backend_pid()";
    sql(
        &url,
        &format!("ALTER DATABASE {name} SET default_transaction_read_only = on"),
    )
    .await;
    texts(&url, others).await;
    let Err(StoreError::Unavailable(outage)) = store.head().await else {
        panic!("read-only")
    };
    assert_eq!(outage.reason, Reason::ReadOnly);
    assert_eq!(
        store.health().read.map(|outage| outage.reason),
        Some(Reason::ReadOnly)
    );
    let elsewhere = url.replace(&format!("/{name}?"), "/postgres?");
    sql(
        &elsewhere,
        &format!("ALTER DATABASE {name} RESET default_transaction_read_only"),
    )
    .await;
    store.head().await.unwrap();
    assert_eq!(store.health().read, None);
}

/// Creates a database on the tests' server. Returns it with its URL.
async fn postgres() -> Option<(Arc<Database>, String)> {
    let database = Database::postgres().await?;
    let Location::Postgres(url) = database.location.clone() else {
        return None;
    };
    Some((database, url))
}

/// Query for the server processes of other connections to a database.
const BACKENDS: &str = "SELECT pid::text FROM pg_stat_activity
    WHERE datname = current_database() AND application_name <> 'question'";

/// A server can turn read-only inside a transaction that began before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closes_connection_after_refused_write() {
    let Some((database, url)) = postgres().await else {
        return;
    };
    let store = database.open().await;
    store.head().await.unwrap();
    // The INSERT fails with 25006, the code of a standby.
    let refuse = "CREATE TABLE seen (id int);
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN SET LOCAL transaction_read_only = on; INSERT INTO seen VALUES (1);
             RETURN NEW; END';
        CREATE TRIGGER refuse BEFORE UPDATE ON meshseal_state
            FOR EACH ROW EXECUTE FUNCTION refuse();";
    sql(&url, refuse).await;
    let before = texts(&url, BACKENDS).await.join(", ");
    let Err(StoreError::Unavailable(outage)) = store.commit(&Change::default(), NOW * 1_000).await
    else {
        panic!("read-only")
    };
    assert_eq!(outage.reason, Reason::ReadOnly, "{outage}");
    let left = format!("SELECT count(*)::text FROM pg_stat_activity WHERE pid IN ({before})");
    until(&url, &left, "0").await;
    sql(&url, "DROP TRIGGER refuse ON meshseal_state").await;
    store.commit(&Change::default(), NOW * 1_000).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replaces_connections_after_their_lifetime() {
    let Some((database, url)) = postgres().await else {
        return;
    };
    for (life, stays) in [
        (Duration::from_secs(600), true),
        (Duration::from_millis(1), false),
    ] {
        let store = unlocked(open_for(&database.location, life).await.unwrap()).await;
        store.head().await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let count = format!("SELECT count(*)::text FROM ({BACKENDS}) AS rest");
        until(&url, &count, "1").await;
        let before = texts(&url, BACKENDS).await;
        store.head().await.unwrap();
        until(&url, &count, "1").await;
        let after = texts(&url, BACKENDS).await;
        assert_eq!(before == after, stays, "{before:?} {after:?}");
        drop(store);
        until(&url, &count, "0").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_durably_despite_asynchronous_default() {
    let Some((database, url)) = postgres().await else {
        return;
    };
    drop(database.open().await);
    let name = database_name(&url);
    let note = "CREATE TABLE seen (setting text);
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN INSERT INTO seen VALUES (current_setting(''synchronous_commit''));
             RETURN NEW; END';
        CREATE TRIGGER note BEFORE UPDATE ON meshseal_state
            FOR EACH ROW EXECUTE FUNCTION note();";
    sql(
        &url,
        &format!("{note} ALTER DATABASE {name} SET synchronous_commit = off"),
    )
    .await;
    let store = database.open().await;
    store.commit(&Change::default(), NOW * 1_000).await.unwrap();
    assert_eq!(
        texts(&url, "SELECT DISTINCT setting FROM seen").await,
        ["on"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serves_without_ddl_rights() {
    let Some((database, url)) = postgres().await else {
        return;
    };
    let name = database_name(&url);
    let role = format!("app_{name}");
    sql(&url, &format!("CREATE ROLE {role} LOGIN")).await;
    let location = Location::parse(&url.replace("meshseal@", &format!("{role}@"))).unwrap();
    let refused = open(&location).await.err().unwrap().to_string();
    assert!(refused.contains("meshseal migrate"), "{refused}");
    migrate(&database.location, None).await.unwrap();
    let refused = open(&location).await.err().unwrap().to_string();
    assert!(refused.contains("--grant-to"), "{refused}");
    for _ in 0..2 {
        migrate(&database.location, Some(&role)).await.unwrap();
        let harness = Harness::on(Database::at(location.clone()), config()).await;
        harness.tick().await;
        let token = harness.token().await;
        assert_eq!(
            harness
                .post_as("checkout", "/revoke", &format!("token={token}"))
                .await
                .status,
            200
        );
    }
}
