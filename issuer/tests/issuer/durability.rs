//! Acknowledged changes are in the database file after any fault of the disk.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use meshseal_issuer::revocation::{EpochKind, EpochRecord};
use meshseal_issuer::store::{Change, Location, Store, open};
use sqlx::{Connection as _, Row as _, SqliteConnection};

use crate::support::database::{Database, unlocked};
use crate::support::{Harness, NOW, config};

/// Small file system that is unmounted after the test.
pub(crate) struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// Mounts a tmpfs of this size. Returns `None`, with a note on standard error, if mounting is
    /// not permitted.
    ///
    /// # Panics
    /// If mounting is not permitted and the variable `CI` is set.
    fn mount(kilobytes: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={kilobytes}k");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &size, "meshseal-test"])
            .arg(folder.path());
        if mount.output().is_ok_and(|output| output.status.success()) {
            return Some(Self { folder });
        }
        assert!(
            std::env::var("CI").is_err(),
            "a small tmpfs cannot be mounted, and CI must run its tests (as root)"
        );
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: a small tmpfs cannot be mounted; run this test as root"
        );
        None
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Remounts the file system. Retries, because a thread of the driver may still close a file.
    async fn remount(&self, how: &str) {
        for _ in 0..100 {
            let mut mount = Command::new("mount");
            if mount
                .args(["-o", &format!("remount,{how}")])
                .arg(self.path())
                .output()
                .unwrap()
                .status
                .success()
            {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("remount {how}");
    }

    /// Fills the remaining space with a file and returns its path.
    fn fill(&self) -> PathBuf {
        let path = self.path().join("ballast");
        let mut file = std::fs::File::create(&path).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _unmounted = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

fn subject(number: u32) -> String {
    format!("subject-{number:0>200}")
}

async fn revoke(
    store: &Arc<dyn Store>,
    number: u32,
) -> Result<u64, meshseal_issuer::store::StoreError> {
    let record = EpochRecord {
        kind: EpochKind::Subject,
        name: subject(number),
        before: NOW,
        expires_at: NOW + 1_000,
    };
    store
        .commit(
            &Change {
                epochs: vec![record],
                ..Change::default()
            },
            NOW * 1_000,
        )
        .await
}

/// Returns the subjects that another connection finds in the file.
async fn kept(path: &Path) -> Vec<String> {
    let url = format!("sqlite://{}?mode=ro", path.display());
    let mut connection = SqliteConnection::connect(&url).await.unwrap();
    let rows = sqlx::query("SELECT name FROM meshseal_epochs ORDER BY name")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_revocations_after_full_disk() {
    let Some(disk) = SmallDisk::mount(16_384) else {
        return;
    };
    let path = disk.path().join("meshseal.db");
    let store = unlocked(open(&Location::Sqlite(path.clone())).await.unwrap()).await;
    let mut acknowledged = Vec::new();
    let mut number = 0;
    for round in 0..3 {
        number += 1;
        let ballast = disk.fill();

        // Revoke until the disk is full.
        let refused = loop {
            match revoke(&store, number).await {
                Ok(_) => acknowledged.push(subject(number)),
                Err(error) => break error,
            }
            number += 1;
        };
        assert!(
            refused.to_string().contains("full"),
            "round {round}: {refused}"
        );

        // Later revocations succeed, and the file has all that were acknowledged.
        std::fs::remove_file(ballast).unwrap();
        for _ in 0..64 {
            number += 1;
            revoke(&store, number).await.unwrap();
            acknowledged.push(subject(number));
        }
        assert_eq!(kept(&path).await, acknowledged, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disk_stops_revocation_alone() {
    let Some(disk) = SmallDisk::mount(16_384) else {
        return;
    };
    let database = Database::at(Location::Sqlite(disk.path().join("meshseal.db")));
    let harness = Harness::on(database, config()).await;
    harness.tick().await;
    let ballast = disk.fill();
    let mut refused = harness
        .post_as(
            "operator",
            "/revoke",
            &format!("subject={}&wait=0", subject(0)),
        )
        .await;
    for number in 1..200 {
        if refused.status == 503 {
            break;
        }
        refused = harness
            .post_as(
                "operator",
                "/revoke",
                &format!("subject={}&wait=0", subject(number)),
            )
            .await;
    }
    assert!(refused.text.contains("is full"), "{}", refused.text);

    // Everything that needs no write works.
    let token = harness.token().await;
    assert!(
        harness.is_active(&token).await,
        "leased indices are still available"
    );
    let lost = harness.get("/readyz").await;
    assert_eq!(lost.status, 503);
    for (capability, ready) in [
        ("keys", true),
        ("bundle", true),
        ("mint", true),
        ("introspect", true),
        ("revoke", false),
    ] {
        assert_eq!(
            lost.json()["capabilities"][capability]["ready"],
            ready,
            "{capability}: {}",
            lost.text
        );
    }
    assert!(
        lost.json()["detail"]
            .as_str()
            .unwrap()
            .starts_with("database: full"),
        "{}",
        lost.text
    );
    let metrics = harness.get("/metrics").await.text;
    assert!(
        metrics.contains("meshseal_database_writable 0\n"),
        "{metrics}"
    );
    assert!(
        !metrics.contains("meshseal_database_errors_total{reason=\"full\"} 0\n"),
        "{metrics}"
    );

    // Free space makes the database writable again.
    std::fs::remove_file(ballast).unwrap();
    let again = harness
        .post_as("operator", "/revoke", "subject=someone&wait=0")
        .await;
    assert_eq!(again.status, 200, "{}", again.text);
    assert_eq!(harness.get("/readyz").await.status, 200);
}

/// Checks that a store does not open, and that its error contains these words.
async fn refuses(location: &Location, expected: [&str; 2]) {
    let error = open(location).await.err().unwrap().to_string();
    assert!(expected.iter().all(|word| error.contains(word)), "{error}");
}

#[tokio::test]
async fn start_names_fault_of_database_file() {
    let Some(disk) = SmallDisk::mount(16_384) else {
        return;
    };
    let location = Location::Sqlite(disk.path().join("meshseal.db"));
    let ballast = disk.fill();
    refuses(&location, ["full", "free disk space"]).await;
    std::fs::remove_file(ballast).unwrap();
    drop(open(&location).await.unwrap());
    let mut other = SqliteConnection::connect(&format!(
        "sqlite://{}",
        disk.path().join("meshseal.db").display()
    ))
    .await
    .unwrap();
    sqlx::Executor::execute(&mut other, "BEGIN IMMEDIATE")
        .await
        .unwrap();
    refuses(&location, ["locked", "end the other process"]).await;
    other.close().await.unwrap();
    disk.remount("ro").await;
    refuses(&location, ["read-only", "writable"]).await;
    disk.remount("rw").await;
    open(&location).await.unwrap();
}
