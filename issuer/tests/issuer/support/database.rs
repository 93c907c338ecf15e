//! Databases for tests: SQLite files, and a PostgreSQL server of our own.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use meshseal_issuer::store::{Location, Store, open};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, SqliteConnection};
use tempfile::TempDir;

/// A database of one test.
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

    /// A new database on the tests' server; `None`, said plainly, when there is no PostgreSQL.
    pub(crate) async fn postgres() -> Option<Arc<Self>> {
        static SERVER: OnceLock<Option<PostgresServer>> = OnceLock::new();
        let server = SERVER.get_or_init(PostgresServer::start).as_ref()?;
        Some(Arc::new(Self {
            location: Location::Postgres(server.new_database().await),
            _folder: None,
        }))
    }

    /// A database that something else looks after.
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

    /// Runs statements as a program does that has no master key.
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
                // A store that was dropped lets go of the file a moment later.
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

/// A store whose rows are under the MACs of the tests' master key.
pub(crate) async fn unlocked(store: Arc<dyn Store>) -> Arc<dyn Store> {
    store.unlock(&super::master()).await.unwrap();
    store
}

/// A server in a folder of its own, reached by a socket in it. It ends when this process does,
/// however that ends: the shell that runs it waits for the end of our pipe, and clears up.
pub(crate) struct PostgresServer {
    folder: TempDir,
    shell: Child,
}

impl PostgresServer {
    /// Starts one, or says why not. Where CI is set, not is not an option.
    pub(crate) fn start() -> Option<Self> {
        let Some(binaries) = find_binaries() else {
            assert!(
                std::env::var("CI").is_err(),
                "PostgreSQL (initdb, postgres) is missing, and CI must run its tests"
            );
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: PostgreSQL's initdb and postgres are neither on PATH nor in /usr/lib/postgresql"
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
        // PATH may have links to some of the programs only.
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

    /// The folder of its socket.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A URL for a database on it that nobody else uses.
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

    /// Waits until it takes connections.
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

    /// Stops it as a crash would, and keeps what it wrote.
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
    // `immediate` stop (QUIT): nothing in it is worth keeping tidy, and a crash is what a fault
    // test wants.
    let script = r#""$0" -D "$1/data" -k "$1" -c listen_addresses= -c fsync=off -c max_connections=100 >"$1/log" 2>&1 &
        server=$!; read -r word; kill -QUIT $server; wait $server; [ "$word" = keep ] || rm -rf "$1""#;
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

/// PostgreSQL refuses to run as root: then the folder is given to another user, who runs it.
pub(crate) fn as_user(folder: &TempDir, program: PathBuf) -> Command {
    let is_root = Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|id| id.stdout == b"0\n");
    let mut command = if is_root {
        let known = |user: &&&str| {
            Command::new("id")
                .arg(user)
                .output()
                .is_ok_and(|id| id.status.success())
        };
        let user = ["postgres", "nobody"]
            .iter()
            .find(known)
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

/// The same tests on both databases.
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
