//! Implementation of the store in SQL that both SQLite and PostgreSQL understand.

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

/// Longest duration of an operation. Without it, a server that vanished without closing its
/// connections would block the issuer for minutes.
const PATIENCE: Duration = Duration::from_secs(5);

/// Time after which a transaction of several changes accepts no more changes, because other writers
/// wait for its lock.
const LONGEST_GROUP: Duration = Duration::from_millis(300);

/// Seconds after which a lease of the lead ends, even if the row states a later time. Otherwise a
/// replica whose clock is ahead would lead for too long.
const LONGEST_LEAD_S: u64 = 90;

/// Rows written by one statement; a row has up to 8 parameters. SQLite's driver searches all
/// earlier parameters for the name of each one: with 500 rows this took a fifth of the CPU time of
/// a revocation.
pub(super) const ROWS_PER_STATEMENT: usize = 64;

pub(super) struct SqlStore {
    pool: Pool,
    health: HealthRecord,
    row_keys: OnceLock<RowKeys>,
    /// Latest write of worker records that this program has seen.
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

    /// Runs `work` within [`PATIENCE`]. After a time-out the connection is not used again.
    async fn bounded<T>(
        &self,
        operation: Operation,
        work: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let result = tokio::time::timeout(PATIENCE, work)
            .await
            .unwrap_or_else(|_| {
                let detail = format!("no answer within {} s", PATIENCE.as_secs());
                Err(StoreError::Unavailable(Outage::new(
                    Reason::NoAnswer,
                    detail,
                )))
            });
        self.health.note(operation, &result);
        result
    }

    /// Returns the keys of row MACs, once the store is unlocked.
    fn row_keys(&self) -> Result<&RowKeys, StoreError> {
        self.row_keys
            .get()
            .ok_or_else(|| StoreError::Unavailable("the store is not unlocked".into()))
    }

    /// Adds MACs to the rows of a database that has none.
    async fn seal(&self, keys: &RowKeys, master: &MasterKey) -> Result<(), StoreError> {
        let mut transaction = self.pool.begin(Access::Write).await?;
        let sealed = verify::seal(transaction.connection()?, keys, master).await;
        transaction.end(sealed).await
    }

    async fn read_head(&self) -> Result<Head, StoreError> {
        let keys = self.row_keys()?;
        // Loaded before the query: its answer does not include later writes.
        let seen = self.records.load(Ordering::SeqCst);
        let mut transaction = self.pool.begin(Access::Read).await?;
        let state = State::read(transaction.connection()?, keys).await;
        let state = transaction.end(state).await?;
        let head = state.head(seen);
        // A loss must stay visible, so the number of a lost write is not replaced.
        if !head.lost_records {
            self.records
                .fetch_max(state.records.latest(), Ordering::SeqCst);
        }
        Ok(head)
    }

    /// Reads the content of the trust bundle in one snapshot.
    async fn read(&self, extent: Extent) -> Result<Persisted, StoreError> {
        let keys = self.row_keys()?;
        let mut transaction = self.pool.begin(Access::Read).await?;
        // A concurrent reader finds no known rows and reads every row.
        let mut known = std::mem::take(&mut *self.known());
        let persisted = verify::load(transaction.connection()?, keys, extent, &mut known).await;
        *self.known() = known;
        transaction.end(persisted).await
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes only the state row.
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
            // The incident covers lost worker records, so their number joins the history.
            let seen = self.records.load(Ordering::SeqCst);
            let merged = records::merge(transaction.connection()?, seen).await;
            applied = merged.map_err(Into::into).and(applied);
        }
        if change.destroys_keys() {
            // Noted before the end of the transaction, after which the caller may drop this future.
            self.pool.log_holds_key();
        }
        let version = transaction.end(applied).await?;
        if change.destroys_keys() {
            self.tidy().await;
        }
        Ok(version)
    }

    /// Applies changes in one transaction, each inside a savepoint.
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

    /// Selects worker records, writes some and numbers the write. Returns the selected records.
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
                    // First, because it locks out other writers.
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
        // After a loss the number stays, so that the next read of the head reports the loss.
        if before.include(self.records.load(Ordering::SeqCst)) {
            self.records.fetch_max(number, Ordering::SeqCst);
        }
        Ok(others)
    }

    /// Changes worker rows. To avoid deadlocks it first takes the lock that orders all changes, as
    /// the writes of worker records do.
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

    /// Executes one statement in its own transaction. Returns the number of changed rows.
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

/// Applies changes for [`LONGEST_GROUP`], and at least one. A rejected change leaves no trace. The
/// changes share one version.
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
            // A rejected change must not undo the others.
            Ok(_) => transaction.execute("RELEASE SAVEPOINT one").await?,
            Err(StoreError::Full(_) | StoreError::Conflict) => {
                transaction
                    .execute("ROLLBACK TO SAVEPOINT one; RELEASE SAVEPOINT one")
                    .await?
            }
            // The database cannot be trusted or used: end the whole transaction.
            Err(StoreError::Tampered(_) | StoreError::Unavailable(_)) => {
                return applied.map(|_| Vec::new());
            }
        };
        versions.push(applied);
    }
    Ok(versions)
}

/// Executes a statement that returns rows of `meshseal_workers`.
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

/// Changes the state row under its lock.
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

/// Removes unproven rows and declares an incident in the same transaction.
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
    // The incident revokes all tokens, and the remaining keys that may sign or verify tokens.
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

/// Returns `($1, $2), ($3, $4), …`. The driver's own builder writes question marks, which
/// PostgreSQL rejects.
pub(super) fn placeholders(rows: usize, columns: usize) -> String {
    let mut list = Vec::with_capacity(rows);
    for row in 0..rows {
        let names: Vec<String> = (1..=columns)
            .map(|column| format!("${}", row * columns + column))
            .collect();
        list.push(format!("({})", names.join(", ")));
    }
    list.join(", ")
}

/// Returns the assignments that merge a written worker record into the stored one.
fn merge_workers() -> String {
    // A version proved in protocol 2 replaces one stated in protocol 1. A later poll without a
    // proved version does not speak for a worker that proved one.
    const SPEAKS: &str = "excluded.seen_at >= meshseal_workers.seen_at
        AND (excluded.version > 0 OR meshseal_workers.version = 0)";
    const VERSION: &str = "version = CASE WHEN excluded.protocol > meshseal_workers.protocol
            OR (excluded.protocol = meshseal_workers.protocol
                AND excluded.version > meshseal_workers.version)
        THEN excluded.version ELSE meshseal_workers.version END";
    let later = ["seen_at", "accepts_until"].map(|column| {
        format!(
            "{column} = CASE WHEN excluded.{column} > meshseal_workers.{column}
             THEN excluded.{column} ELSE meshseal_workers.{column} END"
        )
    });
    let newest = ["node", "protocol", "pins"].map(|column| {
        format!(
            "{column} = CASE WHEN excluded.protocol > meshseal_workers.protocol
                 OR (excluded.protocol = meshseal_workers.protocol AND {SPEAKS})
             THEN excluded.{column} ELSE meshseal_workers.{column} END"
        )
    });
    let mut updates = Vec::from(later);
    updates.push(VERSION.to_owned());
    updates.extend(newest);
    // The last writer returns the whole row to its replica; the other replicas read it.
    updates.push("replica = excluded.replica".to_owned());
    updates.join(", ")
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
        // The first key stays: a different master key already failed at the MACs.
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
            // Without uses nothing is written, so no write lock is needed.
            (Operation::Read, Access::Read)
        } else {
            (Operation::Note, Access::Note)
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
        // A longer lease than this comes from a wrong clock.
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
        let updates = merge_workers();
        let mut others = Vec::new();
        // One transaction for each chunk, so that a revocation waits for at most one of them.
        for chunk in proxies.chunks(ROWS_PER_STATEMENT) {
            let placeholders = placeholders(chunk.len(), 8);
            let sql = format!(
                "INSERT INTO meshseal_workers
                     (worker, node, version, seen_at, protocol, pins, accepts_until, replica)
                 VALUES {placeholders} ON CONFLICT (worker) DO UPDATE SET {updates}"
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
            // The rows of other replicas are read before they are overwritten.
            let placeholders = self::placeholders(1, chunk.len());
            let sql = format!(
                "SELECT * FROM meshseal_workers WHERE worker IN {placeholders} AND replica <> ${}",
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
                "UPDATE meshseal_workers SET accepts_until = 0, replica = '', seen_at = {}
                 WHERE worker IN {}",
                signed(now),
                placeholders(1, chunk.len())
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
                "the write-ahead log still holds a destroyed key, because another program \
                 reads the database; it is emptied once that ends"
            ),
            Err(error) => {
                tracing::warn!(
                    %error,
                    "the write-ahead log could not be emptied of a destroyed key"
                );
            }
        }
    }

    fn health(&self) -> Health {
        self.health.snapshot()
    }
}

/// Stores a value unless the name has one. Returns the value that is stored.
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
