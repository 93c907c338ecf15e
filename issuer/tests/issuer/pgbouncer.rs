//! The issuer behind PgBouncer in transaction mode.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use meshseal_issuer::store::{Change, Location, Store, open};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::failover::{database_name, socket, url};
use crate::support::NOW;
use crate::support::database::{PostgresServer, unlocked};

/// PgBouncer in transaction mode in front of a server. It stops when its standard input closes.
struct PgBouncer {
    folder: TempDir,
    shell: std::process::Child,
}

impl PgBouncer {
    /// Starts PgBouncer. Returns `None`, with a note on standard error, if it is not installed.
    ///
    /// # Panics
    /// If PgBouncer is not installed and the variable `CI` is set.
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
            "[databases]\n* = host={}\n\
             [pgbouncer]\nlisten_addr =\nunix_socket_dir = {path}\nlisten_port = 5432\n\
             auth_type = any\npool_mode = transaction\ndefault_pool_size = 3\n\
             logfile = {path}/log\n{settings}\n",
            server.display()
        );
        // `auth_type = any` takes the user from the connection string.
        let ini = ini.replace(
            &format!("host={}", server.display()),
            &format!("host={} user=meshseal", server.display()),
        );
        std::fs::write(folder.path().join("pgbouncer.ini"), ini).unwrap();
        let script = r#"
            "$0" "$1/pgbouncer.ini" >"$1/out" 2>&1 &
            server=$!; read -r word; kill -INT $server; wait $server"#;
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

    /// Opens a store through PgBouncer. Retries until PgBouncer listens.
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
    let name = database_name(&database).to_owned();
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
    // More concurrent transactions than server connections, so that transactions share connections.
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
