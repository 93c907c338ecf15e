//! The store in SQL that SQLite and PostgreSQL both understand.

use std::future::Future;
use std::ops::Range;
use std::sync::OnceLock;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::any::AnyArguments;
use sqlx::query::Query;
use sqlx::{Any, AnyConnection, AssertSqlSafe, Error};

use super::health::{Health, HealthRecord, Operation};
use super::outage::{Outage, Reason};
use super::pool::{Access, Pool};
use super::rows::{self, signed, unsigned};
use super::seal::RowKeys;
use super::state::State;
use super::statement::query;
use super::{Change, Head, Persisted, Store, StoreError, change, schema, verify};
use crate::bundle::{ProxyRecord, unproven};
use crate::keys::MasterKey;

/// Longest that anything may take: a server that vanished without closing its connections would hold us for minutes.
const PATIENCE: Duration = Duration::from_secs(5);

/// Seconds after which a lease of the lead ends, whatever it says: a replica whose clock is ahead would lead for too long.
const LONGEST_LEAD_S: u64 = 90;

/// Rows written by one statement. SQLite takes 32 766 parameters, PostgreSQL 65 535; a row has up to 8.
pub(super) const ROWS_PER_STATEMENT: usize = 500;

pub(super) struct SqlStore {
    pool: Pool,
    health: HealthRecord,
    row_keys: OnceLock<RowKeys>,
}

impl SqlStore {
    pub(super) fn new(pool: Pool) -> Self {
        let health = HealthRecord::new(!pool.is_file());
        Self { pool, health, row_keys: OnceLock::new() }
    }

    /// Lets a role read and write all tables of the issuer.
    pub(super) async fn grant(&self, role: &str) -> Result<(), Outage> {
        let quoted = role.replace('"', "\"\"");
        let sql = format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO \"{quoted}\"", schema::TABLES.join(", "));
        match self.execute(query(AssertSqlSafe(sql))).await {
            Ok(_) => Ok(()),
            Err(StoreError::Unavailable(outage)) => Err(outage),
            Err(other) => Err(Outage::new(Reason::Other, other.to_string())),
        }
    }

    /// Runs `work` within [`PATIENCE`]. Work that is cut off leaves no connection behind.
    async fn bounded<T>(
        &self,
        operation: Operation,
        work: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let slow = |_| {
            let detail = format!("no answer within {} s", PATIENCE.as_secs());
            StoreError::Unavailable(Outage::new(Reason::NoAnswer, detail))
        };
        let result = tokio::time::timeout(PATIENCE, work).await.map_err(slow).flatten();
        self.health.note(operation, &result);
        result
    }

    /// The keys of MACs, once the master key is known.
    fn row_keys(&self) -> Result<&RowKeys, StoreError> {
        self.row_keys.get().ok_or_else(|| StoreError::Unavailable("the store is not unlocked".into()))
    }

    /// Puts the rows under MACs if they are not yet.
    async fn seal(&self, keys: &RowKeys, master: &MasterKey) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin(Access::Write).await?;
        let sealed = verify::seal(transaction.connection()?, keys, master).await;
        transaction.end(sealed).await
    }

    async fn read_head(&self) -> Result<Head, StoreError> {
        let keys = self.row_keys()?;
        let mut transaction = self.pool.begin(Access::Read).await?;
        let state = State::read(transaction.connection()?, keys).await;
        transaction.end(state.map(|state| state.head())).await
    }

    /// Reads everything as of one moment.
    async fn read_all(&self) -> Result<Persisted, StoreError> {
        let keys = self.row_keys()?;
        let mut transaction = self.pool.begin(Access::Read).await?;
        let persisted = verify::load(transaction.connection()?, keys).await;
        transaction.end(persisted).await
    }

    /// Changes the state row alone.
    async fn amend<T: Send>(&self, amend: impl FnOnce(&mut State) -> T + Send) -> Result<T, StoreError> {
        self.bounded(Operation::Note, async {
            let keys = self.row_keys()?;
            let mut transaction = self.pool.begin(Access::Write).await?;
            let amended = amend_state(transaction.connection()?, keys, amend).await;
            transaction.end(amended).await
        })
        .await
    }

    async fn write(&self, change: &Change, now_ms: u64) -> Result<u64, StoreError> {
        let keys = self.row_keys()?;
        let mut transaction = self.pool.begin(Access::Write).await?;
        let applied = change::apply(transaction.connection()?, keys, change, now_ms).await;
        let version = transaction.end(applied).await?;
        // The log still has the page with the private half.
        if self.pool.is_file()
            && change.destroys_keys()
            && let Err(error) = self.pool.truncate_log().await
        {
            tracing::warn!(%error, "the write-ahead log could not be emptied of a destroyed key; the next destruction tries again");
        }
        Ok(version)
    }

    /// Executes one statement in a transaction of its own. Returns the number of rows it changed.
    async fn execute(&self, statement: Query<'_, Any, AnyArguments>) -> Result<u64, StoreError> {
        self.bounded(Operation::Note, async {
            let mut transaction = self.pool.begin(Access::Write).await?;
            let done = statement.execute(transaction.connection()?).await;
            transaction.end(done.map(|done| done.rows_affected()).map_err(Into::into)).await
        })
        .await
    }
}

async fn amend_state<T>(
    transaction: &mut AnyConnection,
    keys: &RowKeys,
    amend: impl FnOnce(&mut State) -> T,
) -> Result<T, StoreError> {
    let mut state = State::lock(transaction, keys).await?;
    let amended = amend(&mut state);
    state.save(transaction, keys).await?;
    Ok(amended)
}

async fn repair(transaction: &mut AnyConnection, keys: &RowKeys, now_ms: u64) -> Result<Vec<String>, StoreError> {
    let removed = verify::repair(transaction, keys, now_ms).await?;
    let reason = format!("an operator removed {} rows that did not carry their MAC", removed.len());
    change::apply(transaction, keys, &unproven(reason, &[], now_ms), now_ms).await?;
    Ok(removed)
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
    async fn is_new(&self) -> Result<bool, StoreError> {
        let select = query("SELECT version FROM meshseal_state WHERE id = 2");
        self.bounded(Operation::Read, async {
            let mut transaction = self.pool.begin(Access::Read).await?;
            let row = select.fetch_one(transaction.connection()?).await;
            let version = row.and_then(|row| unsigned(&row, "version"));
            transaction.end(version.map(|version| version == 0).map_err(Into::into)).await
        })
        .await
    }

    async fn unlock(&self, master: &MasterKey) -> Result<(), StoreError> {
        let keys = RowKeys::new(master);
        self.bounded(Operation::Note, self.seal(&keys, master)).await?;
        // A second master key would fail at the first row.
        let _first = self.row_keys.set(keys);
        Ok(())
    }

    async fn repair(&self, now_ms: u64) -> Result<Vec<String>, StoreError> {
        self.bounded(Operation::Commit, async {
            let keys = self.row_keys()?;
            let mut transaction = self.pool.begin(Access::Write).await?;
            let removed = repair(transaction.connection()?, keys, now_ms).await;
            transaction.end(removed).await
        })
        .await
    }

    async fn head(&self) -> Result<Head, StoreError> {
        self.bounded(Operation::Read, self.read_head()).await
    }

    async fn load(&self) -> Result<Persisted, StoreError> {
        self.bounded(Operation::Read, self.read_all()).await
    }

    async fn commit(&self, change: &Change, now_ms: u64) -> Result<u64, StoreError> {
        self.bounded(Operation::Commit, self.write(change, now_ms)).await
    }

    async fn request_rotation(&self, now: u64) -> Result<(), StoreError> {
        self.amend(|state| {
            state.rotation_requested.get_or_insert(now);
        })
        .await
    }

    async fn lease_indices(&self, count: u64, at_least: u64) -> Result<Range<u64>, StoreError> {
        self.amend(|state| {
            let begin = state.next_index.max(at_least);
            state.next_index = begin.saturating_add(count);
            begin..state.next_index
        })
        .await
    }

    async fn lead(&self, replica: &str, now: u64, until: u64) -> Result<bool, StoreError> {
        let sql = "UPDATE meshseal_state SET leader = $1, leader_until = $2
                   WHERE id = 2 AND (leader = $1 OR leader_until < $3 OR leader_until > $4)";
        // No clock that is right takes the lead for so long.
        let latest = now.saturating_add(LONGEST_LEAD_S);
        let update = query(sql).bind(replica.to_owned()).bind(signed(until)).bind(signed(now));
        Ok(self.execute(update.bind(signed(latest))).await? == 1)
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
            self.execute(upsert).await?;
        }
        Ok(())
    }

    async fn proxies(&self, replica: &str) -> Result<Vec<ProxyRecord>, StoreError> {
        let select = query("SELECT * FROM meshseal_workers WHERE replica <> $1").bind(replica.to_owned());
        self.bounded(Operation::Read, async {
            let mut transaction = self.pool.begin(Access::Read).await?;
            let rows = select.fetch_all(transaction.connection()?).await;
            let proxies = rows.and_then(|rows| rows.iter().map(rows::proxy).collect());
            transaction.end(proxies.map_err(Into::into)).await
        })
        .await
    }

    async fn forget_proxies(&self, before: u64) -> Result<(), StoreError> {
        let delete =
            query("DELETE FROM meshseal_workers WHERE seen_at < $1 AND accepts_until < $1").bind(signed(before));
        self.execute(delete).await.map(|_| ())
    }

    async fn proxies_are_gone(&self, workers: &[String], now: u64) -> Result<(), StoreError> {
        for chunk in workers.chunks(ROWS_PER_STATEMENT) {
            let sql = format!(
                "UPDATE meshseal_workers SET accepts_until = 0, replica = '', seen_at = {} WHERE worker IN {}",
                signed(now),
                places(1, chunk.len())
            );
            let update = chunk.iter().fold(query(AssertSqlSafe(sql)), |update, worker| update.bind(worker.clone()));
            self.execute(update).await?;
        }
        Ok(())
    }

    async fn constant(&self, name: &str, value: &str) -> Result<String, StoreError> {
        self.bounded(Operation::Note, async {
            let mut transaction = self.pool.begin(Access::Write).await?;
            let kept = keep_first(transaction.connection()?, name, value).await;
            transaction.end(kept.map_err(Into::into)).await
        })
        .await
    }

    async fn replace(&self, name: &str, old: &str, new: &str) -> Result<bool, StoreError> {
        let update = query("UPDATE meshseal_meta SET value = $1 WHERE name = $2 AND value = $3");
        let update = update.bind(new.to_owned()).bind(name.to_owned()).bind(old.to_owned());
        Ok(self.execute(update).await? == 1)
    }

    async fn clock_ms(&self) -> Result<Option<u64>, StoreError> {
        if self.pool.is_file() {
            return Ok(None);
        }
        let select = query("SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT) AS now");
        self.bounded(Operation::Read, async {
            let mut transaction = self.pool.begin(Access::Read).await?;
            let now = select.fetch_one(transaction.connection()?).await.and_then(|row| unsigned(&row, "now"));
            transaction.end(now.map(Some).map_err(Into::into)).await
        })
        .await
    }

    fn health(&self) -> Health {
        self.health.snapshot()
    }
}

async fn keep_first(connection: &mut AnyConnection, name: &str, value: &str) -> Result<String, Error> {
    let insert = query("INSERT INTO meshseal_meta VALUES ($1, $2) ON CONFLICT (name) DO NOTHING");
    insert.bind(name.to_owned()).bind(value.to_owned()).execute(&mut *connection).await?;
    let select = query("SELECT value FROM meshseal_meta WHERE name = $1").bind(name.to_owned());
    sqlx::Row::try_get(&select.fetch_one(connection).await?, 0)
}

#[cfg(test)]
#[path = "sql_tests.rs"]
mod tests;
