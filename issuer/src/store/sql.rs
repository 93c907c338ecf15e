//! The store in SQL that SQLite and PostgreSQL both understand.

use std::future::Future;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, AnyPool, AssertSqlSafe, Error, Executor as _, query};

use super::rows::{self, signed, unsigned};
use super::{Change, Head, Location, Persisted, Store, StoreError, change};
use crate::bundle::ProxyRecord;
use crate::revocation::RevokedToken;

/// Longest that anything may take: a server that vanished without closing its connections would hold us for minutes.
const PATIENCE: Duration = Duration::from_secs(5);

/// Seconds after which a lease of the lead ends, whatever it says: a replica whose clock is ahead would lead for too long.
const LONGEST_LEAD_S: u64 = 90;

/// Rows written by one statement. SQLite takes 32 766 parameters, PostgreSQL 65 535; a row has up to 8.
pub(super) const ROWS_PER_STATEMENT: usize = 500;

pub(super) struct SqlStore {
    pool: AnyPool,
    file: Option<DataFile>,
}

/// Which file was opened. SQLite would go on writing to a file that was deleted or replaced, and what it wrote would be lost.
struct DataFile {
    path: PathBuf,
    identity: FileIdentity,
}

type FileIdentity = (u64, u64);

#[cfg(unix)]
fn identity(path: &std::path::Path) -> std::io::Result<FileIdentity> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).map(|file| (file.dev(), file.ino()))
}

impl SqlStore {
    pub(super) fn new(pool: AnyPool, location: &Location) -> std::io::Result<Self> {
        let file = location
            .file()
            .map(|path| Ok::<_, std::io::Error>(DataFile { path: path.into(), identity: identity(path)? }));
        Ok(Self { pool, file: file.transpose()? })
    }

    /// Runs something in time, on the file that was opened.
    async fn bounded<T>(&self, work: impl Future<Output = Result<T, StoreError>> + Send) -> Result<T, StoreError> {
        if let Some(file) = &self.file
            && !identity(&file.path).is_ok_and(|now| now == file.identity)
        {
            return Err(StoreError::Unavailable(format!("{} was removed or replaced", file.path.display())));
        }
        let slow = |_| StoreError::Unavailable(format!("no answer within {} s", PATIENCE.as_secs()));
        tokio::time::timeout(PATIENCE, work).await.map_err(slow)?
    }

    async fn read_head(&self) -> Result<Head, StoreError> {
        let row =
            query("SELECT version, rotation_requested FROM meshseal_state WHERE id = 1").fetch_one(&self.pool).await?;
        Ok(rows::head(&row)?)
    }

    /// Reads everything as of one moment.
    async fn read_all(&self) -> Result<Persisted, StoreError> {
        let mut snapshot = self.pool.begin().await?;
        // SQLite's transactions are so anyway (<https://sqlite.org/isolation.html>).
        if self.file.is_none() {
            snapshot.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        }
        let row = query("SELECT version FROM meshseal_state WHERE id = 1").fetch_one(&mut *snapshot).await?;
        Ok(Persisted {
            version: unsigned(&row, "version")?,
            keys: all(&mut snapshot, "SELECT * FROM meshseal_keys ORDER BY published, kid", rows::key).await?,
            revoked: revoked(&mut snapshot).await?,
            epochs: all(&mut snapshot, "SELECT * FROM meshseal_epochs", rows::epoch).await?,
        })
    }

    async fn write(&self, change: &Change, now_ms: u64) -> Result<u64, StoreError> {
        let mut transaction = self.pool.begin().await?;
        let applied = change::apply(&mut transaction, change, now_ms).await?;
        transaction.commit().await?;
        if self.file.is_some() && change.destroys_keys() {
            // The log still has the page with the private half.
            self.pool.execute("PRAGMA wal_checkpoint(TRUNCATE)").await?;
        }
        Ok(applied)
    }
}

async fn all<T>(
    connection: &mut AnyConnection,
    sql: &'static str,
    read: fn(&AnyRow) -> Result<T, Error>,
) -> Result<Vec<T>, Error> {
    query(sql).fetch_all(connection).await?.iter().map(read).collect()
}

/// In one text: there may be a quarter of a million, and the driver takes 2 µs for a row.
async fn revoked(connection: &mut AnyConnection) -> Result<Vec<RevokedToken>, Error> {
    let sql = "SELECT string_agg(CAST(token_index AS TEXT) || ' ' || CAST(expires_at AS TEXT), ',') AS tokens FROM meshseal_revoked";
    let tokens: Option<String> = sqlx::Row::try_get(&query(sql).fetch_one(connection).await?, "tokens")?;
    tokens.iter().flat_map(|tokens| tokens.split(',')).map(rows::revoked).collect()
}

/// `($1, $2), ($3, $4), …`: the driver's own builder writes question marks, which PostgreSQL does not take.
pub(super) fn places(rows: usize, columns: usize) -> String {
    let row = |row: usize| {
        let names: Vec<String> = (1..=columns).map(|column| format!("${}", row * columns + column)).collect();
        format!("({})", names.join(", "))
    };
    (0..rows).map(row).collect::<Vec<_>>().join(", ")
}

#[async_trait]
impl Store for SqlStore {
    async fn head(&self) -> Result<Head, StoreError> {
        self.bounded(self.read_head()).await
    }

    async fn load(&self) -> Result<Persisted, StoreError> {
        self.bounded(self.read_all()).await
    }

    async fn commit(&self, change: &Change, now_ms: u64) -> Result<u64, StoreError> {
        self.bounded(self.write(change, now_ms)).await
    }

    async fn request_rotation(&self, now: u64) -> Result<(), StoreError> {
        let sql = "UPDATE meshseal_state SET rotation_requested = $1 WHERE id = 1 AND rotation_requested IS NULL";
        self.bounded(async { Ok(query(sql).bind(signed(now)).execute(&self.pool).await.map(|_| ())?) }).await
    }

    async fn lease_indices(&self, count: u64) -> Result<Range<u64>, StoreError> {
        let sql = "UPDATE meshseal_state SET next_index = next_index + $1 WHERE id = 1 RETURNING next_index";
        self.bounded(async {
            let end = unsigned(&query(sql).bind(signed(count)).fetch_one(&self.pool).await?, "next_index")?;
            Ok(end.saturating_sub(count)..end)
        })
        .await
    }

    async fn lead(&self, replica: &str, now: u64, until: u64) -> Result<bool, StoreError> {
        let sql = "UPDATE meshseal_state SET leader = $1, leader_until = $2
                   WHERE id = 1 AND (leader = $1 OR leader_until < $3 OR leader_until > $4)";
        // No clock that is right takes the lead for so long.
        let latest = now.saturating_add(LONGEST_LEAD_S);
        let update = query(sql).bind(replica.to_owned()).bind(signed(until)).bind(signed(now));
        let update = update.bind(signed(latest));
        self.bounded(async { Ok(update.execute(&self.pool).await?.rows_affected() == 1) }).await
    }

    async fn save_proxies(&self, replica: &str, proxies: &[ProxyRecord]) -> Result<(), StoreError> {
        let later = |column: &str| {
            format!(
                "{column} = CASE WHEN excluded.{column} > meshseal_workers.{column} THEN excluded.{column}
                 ELSE meshseal_workers.{column} END"
            )
        };
        let newest = |column: &str| {
            format!(
                "{column} = CASE WHEN excluded.seen_at >= meshseal_workers.seen_at THEN excluded.{column}
                 ELSE meshseal_workers.{column} END"
            )
        };
        let updates: Vec<String> = ["version", "seen_at", "accepts_until"]
            .map(later)
            .into_iter()
            .chain(["node", "protocol", "pins", "replica"].map(newest))
            .collect();
        self.bounded(async {
            for chunk in proxies.chunks(ROWS_PER_STATEMENT) {
                let places = places(chunk.len(), 8);
                let sql = format!(
                    "INSERT INTO meshseal_workers (worker, node, version, seen_at, protocol, pins, accepts_until, replica)
                     VALUES {places} ON CONFLICT (worker) DO UPDATE SET {}",
                    updates.join(", ")
                );
                let mut upsert = query(AssertSqlSafe(sql));
                for proxy in chunk {
                    upsert = upsert.bind(proxy.worker.clone()).bind(proxy.node.clone());
                    upsert = upsert.bind(signed(proxy.version)).bind(signed(proxy.seen_at));
                    upsert = upsert.bind(i64::from(proxy.protocol)).bind(proxy.pins.clone());
                    upsert = upsert.bind(signed(proxy.accepts_until)).bind(replica.to_owned());
                }
                upsert.execute(&self.pool).await?;
            }
            Ok(())
        })
        .await
    }

    async fn proxies(&self, replica: &str) -> Result<Vec<ProxyRecord>, StoreError> {
        let select = query("SELECT * FROM meshseal_workers WHERE replica <> $1").bind(replica.to_owned());
        self.bounded(async {
            let rows = select.fetch_all(&self.pool).await?;
            Ok(rows.iter().map(rows::proxy).collect::<Result<_, _>>()?)
        })
        .await
    }

    async fn forget_proxies(&self, before: u64) -> Result<(), StoreError> {
        let delete =
            query("DELETE FROM meshseal_workers WHERE seen_at < $1 AND accepts_until < $1").bind(signed(before));
        self.bounded(async { Ok(delete.execute(&self.pool).await.map(|_| ())?) }).await
    }

    async fn proxies_are_gone(&self, workers: &[String], now: u64) -> Result<(), StoreError> {
        self.bounded(async {
            for chunk in workers.chunks(ROWS_PER_STATEMENT) {
                let sql = format!(
                    "UPDATE meshseal_workers SET accepts_until = 0, replica = '', seen_at = {}
                     WHERE worker IN ({})",
                    signed(now),
                    (1..=chunk.len()).map(|at| format!("${at}")).collect::<Vec<_>>().join(", ")
                );
                let mut update = query(AssertSqlSafe(sql));
                for worker in chunk {
                    update = update.bind(worker.clone());
                }
                update.execute(&self.pool).await?;
            }
            Ok(())
        })
        .await
    }

    async fn constant(&self, name: &str, value: &str) -> Result<String, StoreError> {
        let insert = query("INSERT INTO meshseal_meta VALUES ($1, $2) ON CONFLICT (name) DO NOTHING");
        let select = query("SELECT value FROM meshseal_meta WHERE name = $1").bind(name.to_owned());
        self.bounded(async {
            insert.bind(name.to_owned()).bind(value.to_owned()).execute(&self.pool).await?;
            Ok(sqlx::Row::try_get(&select.fetch_one(&self.pool).await?, 0)?)
        })
        .await
    }

    async fn replace(&self, name: &str, old: &str, new: &str) -> Result<bool, StoreError> {
        let update = query("UPDATE meshseal_meta SET value = $1 WHERE name = $2 AND value = $3");
        let update = update.bind(new.to_owned()).bind(name.to_owned()).bind(old.to_owned());
        self.bounded(async { Ok(update.execute(&self.pool).await?.rows_affected() == 1) }).await
    }

    async fn clock_ms(&self) -> Result<Option<u64>, StoreError> {
        if self.file.is_some() {
            return Ok(None);
        }
        let sql = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT) AS now";
        self.bounded(async { Ok(Some(unsigned(&query(sql).fetch_one(&self.pool).await?, "now")?)) }).await
    }
}
