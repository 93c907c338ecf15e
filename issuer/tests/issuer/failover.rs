//! PostgreSQL with standbys, poolers and roles: what the issuer does when it reaches the wrong
//! server.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use meshseal_issuer::clock::FixedClock;
use meshseal_issuer::store::{
    Change, Location, Reason, Store, StoreError, migrate, open, open_for,
};
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

/// Name of the tests' own connections, each of which ends a moment after its answer.
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

/// Repeats a question until its answer is the expected one. A standby fails to answer until it has
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

/// One address in front of servers that change, as a proxy or a service address is.
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

fn socket(folder: &Path) -> PathBuf {
    folder.join(".s.PGSQL.5432")
}

fn url(folder: &Path, database: &str) -> String {
    format!(
        "postgres://meshseal@localhost/{database}?host={}",
        folder.display()
    )
}

/// A primary with a database of one test, and its standby.
async fn pair() -> Option<(PostgresServer, PostgresServer, String)> {
    let primary = PostgresServer::start()?;
    let database = primary.new_database().await;
    let name = database
        .split_once("localhost/")
        .unwrap()
        .1
        .split('?')
        .next()
        .unwrap()
        .to_owned();
    let standby = primary.standby().await;
    Some((primary, standby, name))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaves_standby_and_extends_nothing() {
    let Some((primary, standby, name)) = pair().await else {
        return;
    };
    let forwarder = Forwarder::start(primary.folder());
    let at = |folder: &Path| Database::at(Location::Postgres(url(folder, &name)));
    let clock = || Arc::new(FixedClock::at(NOW));
    let one = Harness::at(at(primary.folder()), config(), clock()).await;
    let other = Harness::at(at(forwarder.folder.path()), config(), clock()).await;
    let token = one.token().await;
    other.tick().await;
    assert!(other.is_active(&token).await);
    let before = other.poll(1, Some(other.version())).await;
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

    assert_eq!(
        one.post_as("checkout", "/revoke", &format!("token={token}"))
            .await
            .status,
        200
    );
    let Err(StoreError::Unavailable(outage)) = other.issuer.publisher.refresh().await else {
        panic!("a standby")
    };
    assert_eq!(outage.reason, Reason::ReadOnly, "{outage}");
    other.clock.advance(10);
    let ready = other.get("/readyz").await;
    assert_eq!(
        (
            ready.status.as_u16(),
            ready.text.contains("database: read-only")
        ),
        (503, true),
        "{}",
        ready.text
    );
    for path in ["/introspect", "/revoke"] {
        assert_eq!(
            other
                .post_as("checkout", path, &format!("token={token}"))
                .await
                .status,
            503,
            "{path}"
        );
    }
    assert_eq!(other.get("/bundle").await.status, 503);
    let held = other.poll(1, Some(other.version())).await;
    assert_eq!(
        decode(&held.text).1["exp"],
        decode(&before.text).1["exp"],
        "a bundle was extended"
    );
    assert_eq!(other.get("/jwks").await.status, 200);
    assert_eq!(other.get("/readyz/keys").await.status, 200);

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
        panic!("no server is writable")
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
async fn counts_read_only_database_as_away() {
    let Some((database, url)) = postgres().await else {
        return;
    };
    let store = database.open().await;
    store.head().await.unwrap();
    let name = url
        .split_once("localhost/")
        .unwrap()
        .1
        .split('?')
        .next()
        .unwrap();
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

/// A database on the tests' server, and its URL.
async fn postgres() -> Option<(Arc<Database>, String)> {
    let database = Database::postgres().await?;
    let Location::Postgres(url) = database.location.clone() else {
        return None;
    };
    Some((database, url))
}

/// Server processes of the other connections to a database.
const BACKENDS: &str = "SELECT pid::text FROM pg_stat_activity
    WHERE datname = current_database() AND application_name <> 'question'";

/// A server can turn read-only inside a transaction that began before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closes_connection_whose_write_is_refused() {
    let Some((database, url)) = postgres().await else {
        return;
    };
    let store = database.open().await;
    store.head().await.unwrap();
    // The INSERT fails with 25006, the code of a standby.
    let refuse = "CREATE TABLE seen (id int);
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN SET LOCAL transaction_read_only = on; INSERT INTO seen VALUES (1); RETURN NEW; END';
        CREATE TRIGGER refuse BEFORE UPDATE ON meshseal_state FOR EACH ROW EXECUTE FUNCTION refuse();";
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
async fn commits_durably_whatever_the_default() {
    let Some((database, url)) = postgres().await else {
        return;
    };
    drop(database.open().await);
    let name = url
        .split_once("localhost/")
        .unwrap()
        .1
        .split('?')
        .next()
        .unwrap();
    let note = "CREATE TABLE seen (setting text);
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN INSERT INTO seen VALUES (current_setting(''synchronous_commit'')); RETURN NEW; END';
        CREATE TRIGGER note BEFORE UPDATE ON meshseal_state FOR EACH ROW EXECUTE FUNCTION note();";
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
async fn serves_without_rights_on_tables_definitions() {
    let Some((database, url)) = postgres().await else {
        return;
    };
    let name = url
        .split_once("localhost/")
        .unwrap()
        .1
        .split('?')
        .next()
        .unwrap();
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

/// PgBouncer in transaction mode in front of a server. It ends when its standard input closes.
struct PgBouncer {
    folder: TempDir,
    shell: std::process::Child,
}

impl PgBouncer {
    /// Returns `None`, and says so, where PgBouncer is not installed. Where CI is set, that is an
    /// error.
    fn start(server: &Path, settings: &str) -> Option<Self> {
        let program = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"]
            .iter()
            .find(|path| Path::new(path).is_file());
        let Some(program) = program else {
            assert!(
                std::env::var("CI").is_err(),
                "pgbouncer is missing, and CI must run its tests"
            );
            std::io::Write::write_all(
                &mut std::io::stderr(),
                b"SKIPPED: pgbouncer is not installed\n",
            )
            .unwrap();
            return None;
        };
        let folder = tempfile::Builder::new()
            .prefix("meshseal-pgb")
            .tempdir()
            .unwrap();
        let path = folder.path().display();
        let ini = format!(
            "[databases]\n* = host={}\n[pgbouncer]\nlisten_addr =\nunix_socket_dir = {path}\nlisten_port = 5432\n\
             auth_type = any\npool_mode = transaction\ndefault_pool_size = 3\nlogfile = {path}/log\n{settings}\n",
            server.display()
        );
        // `auth_type = any` takes the user from the connection string.
        let ini = ini.replace(
            &format!("host={}", server.display()),
            &format!("host={} user=meshseal", server.display()),
        );
        std::fs::write(folder.path().join("pgbouncer.ini"), ini).unwrap();
        let script = r#""$0" "$1/pgbouncer.ini" >"$1/out" 2>&1 & server=$!; read -r word; kill -INT $server; wait $server"#;
        let mut shell: Command = crate::support::database::as_user(&folder, "sh".into());
        let shell = shell
            .arg("-c")
            .arg(script)
            .arg(program)
            .arg(folder.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        Some(Self { folder, shell })
    }

    /// Opens a store through it; the first attempts come before it listens.
    async fn open(&self, database: &str) -> Result<Arc<dyn Store>, String> {
        let location = Location::Postgres(url(self.folder.path(), database));
        for _ in 0..100 {
            match open(&location).await {
                Ok(store) => return Ok(unlocked(store).await),
                Err(error) if socket(self.folder.path()).exists() => return Err(error.to_string()),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        panic!(
            "PgBouncer did not start: {:?}",
            std::fs::read_to_string(self.folder.path().join("log"))
        );
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ended = self.shell.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn works_behind_pgbouncer_in_transaction_mode() {
    let Some(server) = PostgresServer::start() else {
        return;
    };
    let database = server.new_database().await;
    let name = database
        .split_once("localhost/")
        .unwrap()
        .1
        .split('?')
        .next()
        .unwrap()
        .to_owned();
    let Some(bouncer) = PgBouncer::start(
        server.folder(),
        "ignore_startup_parameters = extra_float_digits",
    ) else {
        return;
    };
    let (one, other) = (
        bouncer.open(&name).await.unwrap(),
        bouncer.open(&name).await.unwrap(),
    );
    // More transactions at a time than server connections, so that each connection sees statements
    // of all.
    let mut tasks = JoinSet::new();
    for task in 0..12_u64 {
        let store = if task % 2 == 0 {
            one.clone()
        } else {
            other.clone()
        };
        tasks.spawn(async move {
            for _ in 0..10 {
                let lease = store.lease_indices(2, 0).await.unwrap();
                assert_eq!(lease.end - lease.start, 2);
                store.lead("replica", NOW, NOW + task).await.unwrap();
                store.commit(&Change::default(), NOW * 1_000).await.unwrap();
                store.load().await.unwrap();
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(one.lease_indices(1, 0).await.unwrap(), 240..241);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_pgbouncer_that_refuses_connections() {
    let Some(server) = PostgresServer::start() else {
        return;
    };
    server.connect().await;
    let Some(bouncer) = PgBouncer::start(server.folder(), "") else {
        return;
    };
    let Err(refused) = bouncer.open("postgres").await else {
        panic!("PgBouncer knows extra_float_digits")
    };
    assert!(
        refused.contains("PgBouncer") && refused.contains("ignore_startup_parameters"),
        "{refused}"
    );
}
