//! Databases for tests: SQLite files, and a PostgreSQL server that the tests start.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use meshseal_issuer::store::{Location, Store, open};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, SqliteConnection};
use tempfile::TempDir;

/// Database of one test.
pub(crate) struct Database {
    pub(crate) location: Location,
    _folder: Option<TempDir>,
}

impl Database {
    pub(crate) fn sqlite() -> Arc<Self> {
        let folder = tempfile::tempdir().unwrap();
        let location = Location::Sqlite(folder.path().join("meshseal.db"));
        Arc::new(Self {
            location,
            _folder: Some(folder),
        })
    }

    /// Creates a database on the tests' PostgreSQL server. Returns `None`, with a note on standard
    /// error, if PostgreSQL is not installed.
    pub(crate) async fn postgres() -> Option<Arc<Self>> {
        static SERVER: OnceLock<Option<PostgresServer>> = OnceLock::new();
        let server = SERVER.get_or_init(PostgresServer::start).as_ref()?;
        Some(Arc::new(Self {
            location: Location::Postgres(server.new_database().await),
            _folder: None,
        }))
    }

    /// Returns a database whose files or server the caller owns.
    pub(crate) fn at(location: Location) -> Arc<Self> {
        Arc::new(Self {
            location,
            _folder: None,
        })
    }

    pub(crate) async fn open(&self) -> Arc<dyn Store> {
        unlocked(open(&self.location).await.unwrap()).await
    }

    pub(crate) fn is_sqlite(&self) -> bool {
        self.location.file().is_some()
    }

    /// Runs statements without the master key, so that no MAC is updated.
    pub(crate) async fn execute(&self, statements: &str) {
        let statements = || AssertSqlSafe(statements.to_owned());
        match &self.location {
            Location::Postgres(url) => {
                PgConnection::connect(url)
                    .await
                    .unwrap()
                    .execute(statements())
                    .await
                    .unwrap();
            }
            Location::Sqlite(path) => {
                let url = format!("sqlite://{}?mode=rwc", path.display());
                let mut connection = SqliteConnection::connect(&url).await.unwrap();
                // A dropped store releases the file a moment later.
                while let Err(error) = connection.execute(statements()).await {
                    assert!(error.to_string().contains("locked"), "{error}");
                    tokio::task::yield_now().await;
                }
                connection.close().await.unwrap();
            }
        }
    }

    pub(crate) fn file(&self) -> &Path {
        self.location.file().unwrap()
    }
}

/// Unlocks a store with the tests' master key, which seals the MACs of its rows.
pub(crate) async fn unlocked(store: Arc<dyn Store>) -> Arc<dyn Store> {
    store.unlock(&super::master()).await.unwrap();
    store
}

/// PostgreSQL server in its own folder, reached by a Unix socket there. It stops when this process
/// ends for any reason: its shell waits until the pipe from this process closes, and then removes
/// the folder.
pub(crate) struct PostgresServer {
    folder: TempDir,
    shell: Child,
}

impl PostgresServer {
    /// Starts a server. Returns `None`, with a note on standard error, if PostgreSQL is not
    /// installed.
    ///
    /// # Panics
    /// If PostgreSQL is not installed and the variable `CI` is set.
    pub(crate) fn start() -> Option<Self> {
        let Some(binaries) = find_binaries() else {
            assert!(
                std::env::var("CI").is_err(),
                "PostgreSQL (initdb, postgres) is missing, and CI must run its tests"
            );
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: initdb and postgres of PostgreSQL are neither on PATH nor in \
                 /usr/lib/postgresql"
            );
            return None;
        };
        let folder = tempfile::Builder::new()
            .prefix("meshseal-pg")
            .tempdir()
            .unwrap();
        let mut initdb = as_user(&folder, binaries.join("initdb"));
        initdb.args([
            "--no-sync",
            "--no-instructions",
            "--auth=trust",
            "--username=meshseal",
            "--encoding=UTF8",
            "--pgdata",
        ]);
        let made = initdb
            .arg(folder.path().join("data"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "initdb: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        let shell = run(&folder, &binaries);
        Some(Self { folder, shell })
    }

    /// Starts a streaming standby of this server.
    pub(crate) async fn standby(&self) -> Self {
        self.connect().await;
        let binaries = find_binaries().unwrap();
        let folder = tempfile::Builder::new()
            .prefix("meshseal-pg")
            .tempdir()
            .unwrap();
        // PATH may contain links to only some of the programs.
        let beside = std::fs::canonicalize(binaries.join("postgres"))
            .unwrap()
            .with_file_name("pg_basebackup");
        let mut copy = as_user(&folder, beside);
        copy.args([
            "--write-recovery-conf",
            "--wal-method=stream",
            "--checkpoint=fast",
            "--no-sync",
        ]);
        copy.args(["--username=meshseal", "--pgdata"])
            .arg(folder.path().join("data"));
        let copied = copy
            .arg("--host")
            .arg(self.folder.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(
            copied.status.success(),
            "pg_basebackup: {}",
            String::from_utf8_lossy(&copied.stderr)
        );
        let shell = run(&folder, &binaries);
        let standby = Self { folder, shell };
        standby.connect().await;
        standby
    }

    /// Returns the folder of the server's socket.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Creates a database for one test and returns its URL.
    pub(crate) async fn new_database(&self) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let mut connection = self.connect().await;
        connection
            .execute(AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .await
            .unwrap();
        self.url(&name)
    }

    fn url(&self, database: &str) -> String {
        format!(
            "postgres://meshseal@localhost/{database}?host={}",
            self.folder.path().display()
        )
    }

    /// Connects, and waits for that until the server accepts connections.
    pub(crate) async fn connect(&self) -> PgConnection {
        for _ in 0..600 {
            if let Ok(connection) = PgConnection::connect(&self.url("postgres")).await {
                return connection;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!(
            "PostgreSQL did not start: {}",
            std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
        );
    }

    /// Stops the server like a crash, and keeps its files.
    pub(crate) fn stop(&mut self) {
        if let Some(mut pipe) = self.shell.stdin.take() {
            pipe.write_all(b"keep\n").unwrap();
        }
        self.shell.wait().unwrap();
    }

    pub(crate) async fn start_again(&mut self) {
        self.shell = run(&self.folder, &find_binaries().unwrap());
        self.connect().await;
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ended = self.shell.wait();
    }
}

fn run(folder: &TempDir, binaries: &Path) -> Child {
    // QUIT is an immediate stop: the fault tests need a crash, not a clean shutdown.
    let script = r#"
        "$0" -D "$1/data" -k "$1" -c listen_addresses= -c fsync=off -c max_connections=100 \
            >"$1/log" 2>&1 &
        server=$!; read -r word; kill -QUIT $server; wait $server
        [ "$word" = keep ] || rm -rf "$1""#;
    let mut shell = as_user(folder, "sh".into());
    shell
        .arg("-c")
        .arg(script)
        .arg(binaries.join("postgres"))
        .arg(folder.path());
    shell
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Returns a command that runs as an unprivileged user, who then owns the folder. PostgreSQL
/// refuses to run as root.
pub(crate) fn as_user(folder: &TempDir, program: PathBuf) -> Command {
    let is_root = Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|id| id.stdout == b"0\n");
    let mut command = if is_root {
        let user = ["postgres", "nobody"]
            .into_iter()
            .find(|user| {
                let known = Command::new("id").arg(user).output();
                known.is_ok_and(|id| id.status.success())
            })
            .expect("an unprivileged user");
        assert!(
            Command::new("chown")
                .arg(user)
                .arg(folder.path())
                .status()
                .unwrap()
                .success()
        );
        let mut setpriv = Command::new("setpriv");
        setpriv
            .args([format!("--reuid={user}").as_str(), "--clear-groups", "--"])
            .arg(program);
        setpriv
    } else {
        Command::new(program)
    };
    command.current_dir(folder.path());
    command
}

fn find_binaries() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|versions| {
            versions
                .filter_map(|version| Some(version.ok()?.path().join("bin")))
                .collect()
        })
        .unwrap_or_default();
    folders.sort();
    folders.reverse();
    std::env::split_paths(&path).chain(folders).find(|folder| {
        ["initdb", "postgres"]
            .iter()
            .all(|name| folder.join(name).is_file())
    })
}

/// Declares each test twice: for SQLite and for PostgreSQL.
macro_rules! on_both {
    ($($test:ident)+) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(crate::support::database::Database::sqlite()).await;
            })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                if let Some(database) = crate::support::database::Database::postgres().await {
                    super::$test(database).await;
                }
            })+
        }
    };
}
pub(crate) use on_both;
