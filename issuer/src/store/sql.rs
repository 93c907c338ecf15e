//! The store in SQL that SQLite and PostgreSQL both understand.

use std::future::Future;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::any::AnyArguments;
use sqlx::query::Query;
use sqlx::{Any, AnyConnection, AssertSqlSafe, Error, Executor as _};
use tokio::time::Instant;

use super::health::{Health, HealthRecord, Operation};
use super::outage::{Outage, Reason};
use super::pool::{Access, Pool};
use super::rows::{self, signed, unsigned};
use super::seal::RowKeys;
use super::state::State;
use super::statement::query;
use super::verify::{Extent, Known};
use super::{
    Change, Head, Persisted, Recorded, Store, StoreError, Uses, assertions, change, records,
    schema, state, verify,
};
use crate::bundle::{ProxyRecord, unproven};
use crate::keys::MasterKey;

/// Longest that anything may take: a server that vanished without closing its connections would
/// hold us for minutes.
const PATIENCE: Duration = Duration::from_secs(5);

/// Time after which a transaction of several changes takes no more: other writers wait for its
/// lock.
const LONGEST_GROUP: Duration = Duration::from_millis(300);

/// Seconds after which a lease of the lead ends, whatever it says: a replica whose clock is ahead
/// would lead for too long.
const LONGEST_LEAD_S: u64 = 90;

/// Rows written by one statement; a row has up to 8 parameters. SQLite's driver looks up the name
/// of each parameter among all before it: with 500 rows that took a fifth of the CPU time of a
/// revocation.
pub(super) const ROWS_PER_STATEMENT: usize = 64;

pub(super) struct SqlStore {
    pool: Pool,
    health: HealthRecord,
    row_keys: OnceLock<RowKeys>,
    /// Latest write of workers' records that is known of.
    records: AtomicU64,
    known: Mutex<Known>,
}

impl SqlStore {
    pub(super) fn new(pool: Pool) -> Self {
        let health = HealthRecord::new(!pool.is_file());
        Self {
            pool,
            health,
            row_keys: OnceLock::new(),
            records: AtomicU64::new(0),
            known: Mutex::default(),
        }
    }

    /// Lets a role read and write all tables of the issuer.
    pub(super) async fn grant(&self, role: &str) -> Result<(), Outage> {
        let quoted = role.replace('"', "\"\"");
        let sql = format!(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO \"{quoted}\"",
            schema::TABLES.join(", ")
        );
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
        let result = tokio::time::timeout(PATIENCE, work)
            .await
            .map_err(slow)
            .flatten();
        self.health.note(operation, &result);
        result
    }

    /// The keys of MACs, once the master key is known.
    fn row_keys(&self) -> Result<&RowKeys, StoreError> {
        self.row_keys
            .get()
            .ok_or_else(|| StoreError::Unavailable("the store is not unlocked".into()))
    }

    /// Puts the rows under MACs if they are not yet.
    async fn seal(&self, keys: &RowKeys, master: &MasterKey) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin(Access::Write).await?;
        let sealed = verify::seal(transaction.connection()?, keys, master).await;
        transaction.end(sealed).await
    }

    async fn read_head(&self) -> Result<Head, StoreError> {
        let keys = self.row_keys()?;
        // Before the question: an answer under way does not know what is written meanwhile.
        let seen = self.records.load(Ordering::SeqCst);
        let mut transaction = self.pool.begin(Access::Read).await?;
        let state = State::read(transaction.connection()?, keys).await;
        let state = transaction.end(state).await?;
        let head = state.head(seen);
        if !head.lost_records {
            self.records
                .fetch_max(state.records.latest(), Ordering::SeqCst);
        }
        Ok(head)
    }

    /// Reads everything as of one moment.
    async fn read(&self, extent: Extent) -> Result<Persisted, StoreError> {
        let keys = self.row_keys()?;
        let mut transaction = self.pool.begin(Access::Read).await?;
        // Whoever reads at the same time knows nothing, and reads every row.
        let mut known = std::mem::take(&mut *self.known());
        let persisted = verify::load(transaction.connection()?, keys, extent, &mut known).await;
        *self.known() = known;
        transaction.end(persisted).await
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state row alone.
    async fn amend<T: Send>(
        &self,
        amend: impl FnOnce(&mut State) -> T + Send,
    ) -> Result<T, StoreError> {
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
        let mut applied = change::apply(transaction.connection()?, keys, change, now_ms).await;
        if applied.is_ok() && matches!(change.incident, Some(Some(_))) {
            // Whatever records of workers were lost is part of the incident.
            let seen = self.records.load(Ordering::SeqCst);
            let merged = records::merge(transaction.connection()?, seen).await;
            applied = merged.map_err(Into::into).and(applied);
        }
        if change.destroys_keys() {
            // Before the end, after which the caller may be gone.
            self.pool.log_holds_key();
        }
        let version = transaction.end(applied).await?;
        if change.destroys_keys() {
            self.tidy().await;
        }
        Ok(version)
    }

    /// Applies changes in one transaction, each behind a savepoint.
    async fn write_all(
        &self,
        changes: &[Change],
        now_ms: u64,
    ) -> Result<Vec<Result<u64, StoreError>>, StoreError> {
        let keys = self.row_keys()?;
        let mut transaction = self.pool.begin(Access::Write).await?;
        let applied = apply_all(transaction.connection()?, keys, changes, now_ms).await;
        transaction.end(applied).await
    }

    /// Selects records of workers, writes some and numbers the write. Returns those that were
    /// selected.
    async fn save_records(
        &self,
        select: Query<'_, Any, AnyArguments>,
        upsert: Query<'_, Any, AnyArguments>,
    ) -> Result<Vec<ProxyRecord>, StoreError> {
        let (others, before, number) = self
            .bounded(Operation::Note, async {
                let mut transaction = self.pool.begin(Access::Write).await?;
                let connection = transaction.connection()?;
                let written = async {
                    // First, for it locks out other writers.
                    let (before, number) = records::number_write(&mut *connection).await?;
                    let others = proxy_records(select, &mut *connection).await?;
                    upsert.execute(connection).await?;
                    Ok((others, before, number))
                };
                let written = written.await;
                transaction
                    .end(written.map_err(|error: Error| error.into()))
                    .await
            })
            .await?;
        // A loss stays to be noticed by the next look at the head.
        if before.include(self.records.load(Ordering::SeqCst)) {
            self.records.fetch_max(number, Ordering::SeqCst);
        }
        Ok(others)
    }

    /// Changes rows of workers. The lock that orders all changes comes first, as where they are
    /// written: no two transactions wait for each other.
    async fn change_workers(
        &self,
        statement: Query<'_, Any, AnyArguments>,
    ) -> Result<(), StoreError> {
        self.bounded(Operation::Note, async {
            let mut transaction = self.pool.begin(Access::Write).await?;
            let connection = transaction.connection()?;
            let changed = match state::lock(connection).await {
                Ok(_) => statement.execute(connection).await,
                Err(error) => Err(error),
            };
            transaction
                .end(changed.map(|_| ()).map_err(Into::into))
                .await
        })
        .await
    }

    /// Executes one statement in a transaction of its own. Returns the number of rows it changed.
    async fn execute(&self, statement: Query<'_, Any, AnyArguments>) -> Result<u64, StoreError> {
        self.bounded(Operation::Note, async {
            let mut transaction = self.pool.begin(Access::Write).await?;
            let done = statement.execute(transaction.connection()?).await;
            transaction
                .end(done.map(|done| done.rows_affected()).map_err(Into::into))
                .await
        })
        .await
    }
}

/// Applies changes for [`LONGEST_GROUP`], and at least one; one that is refused leaves nothing
/// behind. They share one version.
async fn apply_all(
    transaction: &mut AnyConnection,
    keys: &RowKeys,
    changes: &[Change],
    now_ms: u64,
) -> Result<Vec<Result<u64, StoreError>>, StoreError> {
    let (begun, mut made) = (Instant::now(), None);
    let mut versions = Vec::with_capacity(changes.len());
    for change in changes {
        if !versions.is_empty() && begun.elapsed() >= LONGEST_GROUP {
            break;
        }
        transaction.execute("SAVEPOINT one").await?;
        let applied = change::apply_at(transaction, keys, change, now_ms, &mut made).await;
        match &applied {
            Ok(_) => transaction.execute("RELEASE SAVEPOINT one").await?,
            Err(StoreError::Full(_) | StoreError::Conflict) => {
                transaction
                    .execute("ROLLBACK TO SAVEPOINT one; RELEASE SAVEPOINT one")
                    .await?
            }
            Err(StoreError::Tampered(_) | StoreError::Unavailable(_)) => {
                return applied.map(|_| Vec::new());
            }
        };
        versions.push(applied);
    }
    Ok(versions)
}

/// Runs a statement that returns rows of `meshseal_workers`.
async fn proxy_records(
    statement: Query<'_, Any, AnyArguments>,
    connection: &mut AnyConnection,
) -> Result<Vec<ProxyRecord>, Error> {
    statement
        .fetch_all(connection)
        .await?
        .iter()
        .map(rows::proxy)
        .collect()
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

async fn repair(
    transaction: &mut AnyConnection,
    keys: &RowKeys,
    now_ms: u64,
) -> Result<Vec<String>, StoreError> {
    let removed = verify::repair(transaction, keys, now_ms).await?;
    let reason = format!(
        "an operator removed {} rows that did not carry their MAC",
        removed.len()
    );
    let kept = verify::load(transaction, keys, Extent::Whole, &mut Known::default())
        .await?
        .keys;
    change::apply(
        transaction,
        keys,
        &unproven(reason, &[], now_ms, &kept),
        now_ms,
    )
    .await?;
    Ok(removed)
}

/// `($1, $2), ($3, $4), …`: the driver's own builder writes question marks, which PostgreSQL does
/// not take.
pub(super) fn places(rows: usize, columns: usize) -> String {
    let row = |row: usize| {
        let names: Vec<String> = (1..=columns)
            .map(|column| format!("${}", row * columns + column))
            .collect();
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
            transaction
                .end(version.map(|version| version == 0).map_err(Into::into))
                .await
        })
        .await
    }

    async fn unlock(&self, master: &MasterKey) -> Result<(), StoreError> {
        let keys = RowKeys::new(master);
        self.bounded(Operation::Note, self.seal(&keys, master))
            .await?;
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
        self.bounded(Operation::Read, self.read(Extent::Whole))
            .await
    }

    async fn load_changes(&self) -> Result<Persisted, StoreError> {
        self.bounded(Operation::Read, self.read(Extent::Changes))
            .await
    }

    async fn commit(&self, change: &Change, now_ms: u64) -> Result<u64, StoreError> {
        self.bounded(Operation::Commit, self.write(change, now_ms))
            .await
    }

    async fn commit_all(
        &self,
        changes: &[Change],
        now_ms: u64,
    ) -> Result<Vec<Result<u64, StoreError>>, StoreError> {
        self.bounded(Operation::Commit, self.write_all(changes, now_ms))
            .await
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

    async fn record_assertions(&self, uses: &Uses) -> Result<Recorded, StoreError> {
        let (operation, access) = if uses.uses.is_empty() {
            (Operation::Read, Access::Read)
        } else {
            (Operation::Note, Access::Write)
        };
        self.bounded(operation, async {
            let keys = self.row_keys()?;
            let mut transaction = self.pool.begin(access).await?;
            let recorded = assertions::record(transaction.connection()?, keys, uses).await;
            transaction.end(recorded).await
        })
        .await
    }

    async fn forget_assertions(&self, before: u64) -> Result<(), StoreError> {
        loop {
            let delete = query(assertions::FORGET).bind(signed(before));
            if self.execute(delete).await? < assertions::FORGOTTEN_AT_A_TIME {
                return Ok(());
            }
        }
    }

    async fn lead(&self, replica: &str, now: u64, until: u64) -> Result<bool, StoreError> {
        let sql = "UPDATE meshseal_state SET leader = $1, leader_until = $2
                   WHERE id = 2 AND (leader = $1 OR leader_until < $3 OR leader_until > $4)";
        // No clock that is right takes the lead for so long.
        let latest = now.saturating_add(LONGEST_LEAD_S);
        let update = query(sql)
            .bind(replica.to_owned())
            .bind(signed(until))
            .bind(signed(now));
        Ok(self.execute(update.bind(signed(latest))).await? == 1)
    }

    async fn save_proxies(
        &self,
        replica: &str,
        proxies: &[ProxyRecord],
    ) -> Result<Vec<ProxyRecord>, StoreError> {
        let later = |column: &str| {
            format!(
                "{column} = CASE WHEN excluded.{column} > meshseal_workers.{column} THEN excluded.{column}
                 ELSE meshseal_workers.{column} END"
            )
        };
        // What was stated in protocol 1 gives way to what was proved, and a later poll that proves
        // no version does not speak for a worker that proved one.
        let speaks = "excluded.seen_at >= meshseal_workers.seen_at
            AND (excluded.version > 0 OR meshseal_workers.version = 0)";
        let newest = |column: &str| {
            format!(
                "{column} = CASE WHEN excluded.protocol > meshseal_workers.protocol
                     OR (excluded.protocol = meshseal_workers.protocol AND {speaks}) THEN excluded.{column}
                 ELSE meshseal_workers.{column} END"
            )
        };
        let version = "version = CASE WHEN excluded.protocol > meshseal_workers.protocol
                OR (excluded.protocol = meshseal_workers.protocol AND excluded.version > meshseal_workers.version)
            THEN excluded.version ELSE meshseal_workers.version END";
        let updates: Vec<String> = ["seen_at", "accepts_until"]
            .map(later)
            .into_iter()
            .chain([version.to_owned()])
            .chain(["node", "protocol", "pins"].map(newest))
            // Who writes last learns all that the row has: the others read it.
            .chain(["replica = excluded.replica".to_owned()])
            .collect();
        let mut others = Vec::new();
        // A transaction for each, so that a revocation waits for one of them only.
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
                upsert = upsert
                    .bind(signed(proxy.version))
                    .bind(signed(proxy.seen_at));
                upsert = upsert
                    .bind(i64::from(proxy.protocol))
                    .bind(proxy.pins.clone());
                upsert = upsert
                    .bind(signed(proxy.accepts_until))
                    .bind(replica.to_owned());
            }
            let places = self::places(1, chunk.len());
            let sql = format!(
                "SELECT * FROM meshseal_workers WHERE worker IN {places} AND replica <> ${}",
                chunk.len() + 1
            );
            let select = chunk
                .iter()
                .fold(query(AssertSqlSafe(sql)), |select, proxy| {
                    select.bind(proxy.worker.clone())
                });
            others.extend(
                self.save_records(select.bind(replica.to_owned()), upsert)
                    .await?,
            );
        }
        Ok(others)
    }

    async fn proxies(&self, replica: &str) -> Result<Vec<ProxyRecord>, StoreError> {
        let select =
            query("SELECT * FROM meshseal_workers WHERE replica <> $1").bind(replica.to_owned());
        self.bounded(Operation::Read, async {
            let mut transaction = self.pool.begin(Access::Read).await?;
            let records = proxy_records(select, transaction.connection()?).await;
            transaction.end(records.map_err(Into::into)).await
        })
        .await
    }

    async fn forget_proxies(&self, before: u64) -> Result<(), StoreError> {
        let delete =
            query("DELETE FROM meshseal_workers WHERE seen_at < $1 AND accepts_until < $1")
                .bind(signed(before));
        self.change_workers(delete).await
    }

    async fn proxies_are_gone(&self, workers: &[String], now: u64) -> Result<(), StoreError> {
        for chunk in workers.chunks(ROWS_PER_STATEMENT) {
            let sql = format!(
                "UPDATE meshseal_workers SET accepts_until = 0, replica = '', seen_at = {} WHERE worker IN {}",
                signed(now),
                places(1, chunk.len())
            );
            let update = chunk
                .iter()
                .fold(query(AssertSqlSafe(sql)), |update, worker| {
                    update.bind(worker.clone())
                });
            self.change_workers(update).await?;
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
        let update = update
            .bind(new.to_owned())
            .bind(name.to_owned())
            .bind(old.to_owned());
        Ok(self.execute(update).await? == 1)
    }

    async fn clock_ms(&self) -> Result<Option<u64>, StoreError> {
        if self.pool.is_file() {
            return Ok(None);
        }
        let select =
            query("SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT) AS now");
        self.bounded(Operation::Read, async {
            let mut transaction = self.pool.begin(Access::Read).await?;
            let now = select
                .fetch_one(transaction.connection()?)
                .await
                .and_then(|row| unsigned(&row, "now"));
            transaction.end(now.map(Some).map_err(Into::into)).await
        })
        .await
    }

    async fn tidy(&self) {
        match self.pool.empty_log().await {
            Ok(true) => {}
            Ok(false) => tracing::warn!(
                "the write-ahead log still holds a destroyed key, because another program reads the database; \
                 it is emptied once that ends"
            ),
            Err(error) => {
                tracing::warn!(%error, "the write-ahead log could not be emptied of a destroyed key");
            }
        }
    }

    fn health(&self) -> Health {
        self.health.snapshot()
    }
}

async fn keep_first(
    connection: &mut AnyConnection,
    name: &str,
    value: &str,
) -> Result<String, Error> {
    let insert = query("INSERT INTO meshseal_meta VALUES ($1, $2) ON CONFLICT (name) DO NOTHING");
    insert
        .bind(name.to_owned())
        .bind(value.to_owned())
        .execute(&mut *connection)
        .await?;
    let select = query("SELECT value FROM meshseal_meta WHERE name = $1").bind(name.to_owned());
    sqlx::Row::try_get(&select.fetch_one(connection).await?, 0)
}

#[cfg(test)]
#[path = "sql_tests.rs"]
mod tests;
