//! Database of a history: a real SQLite file that can be away, refuse writes, or go back in time.
//!
//! - *Away*: the file is renamed. The issuer's store checks for the file before each use.
//! - *Refusing writes*: the limit of file sizes of the process (`RLIMIT_FSIZE`) is 0, so each write
//!   and each COMMIT fails, as on a full disk, while reads succeed.
//! - *Back*: an earlier copy replaces the content in place, under the open connections, as a
//!   failover to a lagging standby or a restored backup does.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, Row as _};

/// Longest wait for the issuer's locks, which no connection holds between two steps.
const LOCK_WAIT: std::time::Duration = std::time::Duration::from_secs(5);

/// A SQLite file with faults.
pub(super) struct Database {
    folder: PathBuf,
    copies: usize,
    away: bool,
    full: bool,
}

impl Database {
    /// Creates a database in `folder`, which must exist and be empty.
    #[must_use]
    pub(super) const fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            copies: 0,
            away: false,
            full: false,
        }
    }

    /// Returns the folder of the database.
    #[must_use]
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the path at which the issuer opens the file.
    #[must_use]
    pub(super) fn file(&self) -> PathBuf {
        self.folder.join("meshseal.db")
    }

    fn hidden(&self) -> PathBuf {
        self.folder.join("meshseal.db.away")
    }

    fn copy(&self, number: usize) -> PathBuf {
        self.folder.join(format!("copy-{number}.db"))
    }

    /// Returns whether the database is reachable and accepts writes.
    #[must_use]
    pub(super) const fn is_well(&self) -> bool {
        !self.away && !self.full
    }

    /// Returns whether the database is unreachable.
    #[must_use]
    pub(super) const fn is_away(&self) -> bool {
        self.away
    }

    /// Makes the database unreachable, or reachable again.
    ///
    /// # Errors
    /// If the file cannot be renamed.
    pub(super) fn set_away(&mut self, away: bool) -> Result<()> {
        if self.away != away {
            let (from, to) = if away {
                (self.file(), self.hidden())
            } else {
                (self.hidden(), self.file())
            };
            std::fs::rename(&from, &to).with_context(|| format!("rename {}", from.display()))?;
            self.away = away;
        }
        Ok(())
    }

    /// Makes each write fail, or succeed again.
    ///
    /// # Errors
    /// If the limit cannot be set.
    pub(super) fn set_full(&mut self, full: bool) -> Result<()> {
        let limit = getrlimit(Resource::Fsize);
        let current = if full { Some(0) } else { limit.maximum };
        setrlimit(
            Resource::Fsize,
            Rlimit {
                current,
                maximum: limit.maximum,
            },
        )
        .context("set RLIMIT_FSIZE")?;
        self.full = full;
        Ok(())
    }

    async fn connect(path: &Path) -> Result<SqliteConnection> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .busy_timeout(LOCK_WAIT);
        options
            .connect()
            .await
            .with_context(|| format!("open {}", path.display()))
    }

    /// Takes a backup of the present content and returns its number.
    ///
    /// # Errors
    /// If SQLite fails.
    pub(super) async fn back_up(&mut self) -> Result<usize> {
        let number = self.copies;
        let mut connection = Self::connect(&self.file()).await?;
        let path = self.copy(number).display().to_string();
        connection
            .execute(AssertSqlSafe(format!("VACUUM INTO '{path}'")))
            .await
            .context("VACUUM INTO")?;
        connection.close().await?;
        self.copies = number.saturating_add(1);
        Ok(number)
    }

    /// Replaces the present content by a backup while connections stay open.
    ///
    /// # Errors
    /// If SQLite fails.
    pub(super) async fn restore(&mut self, number: usize) -> Result<()> {
        let mut connection = Self::connect(&self.file()).await?;
        let path = self.copy(number).display().to_string();
        connection
            .execute(AssertSqlSafe(format!("ATTACH '{path}' AS old")))
            .await?;

        // Copy each table in one transaction, under the open connections.
        let select =
            "SELECT name FROM main.sqlite_master WHERE type = 'table' AND name LIKE 'meshseal_%'";
        let tables = sqlx::query(select).fetch_all(&mut connection).await?;
        let mut change = connection.begin().await?;
        for table in tables {
            let name: String = table.try_get(0)?;
            change
                .execute(AssertSqlSafe(format!("DELETE FROM main.{name}")))
                .await?;
            change
                .execute(AssertSqlSafe(format!(
                    "INSERT INTO main.{name} SELECT * FROM old.{name}"
                )))
                .await?;
        }
        change.commit().await?;
        connection.close().await?;
        Ok(())
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let _restored = self.set_full(false);
    }
}
