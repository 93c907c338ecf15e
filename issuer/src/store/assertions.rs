//! Uses of client assertions. Each use is recorded before its client counts as authenticated (ADR
//! 0029).

use std::collections::HashSet;

use sqlx::{AnyConnection, AssertSqlSafe, Error, Row as _};

use super::rows::{signed, unsigned};
use super::seal::RowKeys;
use super::sql::{ROWS_PER_STATEMENT, placeholders};
use super::state::{State, columns};
use super::statement::query;
use super::{AssertionUse, Recorded, StoreError, Uses};

/// Most rows that one transaction deletes, because other writers wait for its lock.
pub(super) const FORGOTTEN_AT_A_TIME: u64 = 4_096;

/// Deletes rows that expired before `$1`, at most [`FORGOTTEN_AT_A_TIME`].
pub(super) const FORGET: &str = "DELETE FROM meshseal_assertions WHERE id IN (
    SELECT id FROM meshseal_assertions WHERE expires_at < $1 ORDER BY expires_at LIMIT 4096)";

/// Records uses and checks for a loss of state in one transaction.
pub(super) async fn record(
    transaction: &mut AnyConnection,
    keys: &RowKeys,
    uses: &Uses,
) -> Result<Recorded, StoreError> {
    // INVARIANT: every transaction writes in the same order, so that no deadlock occurs.
    let mut sorted = uses.uses.clone();
    sorted.sort_unstable();
    let mut fresh = HashSet::with_capacity(sorted.len());
    for chunk in sorted.chunks(ROWS_PER_STATEMENT) {
        let before = fresh.len();
        insert(transaction, uses.process, chunk, &mut fresh).await?;
        // Some rows were there already: a replay, or a repetition by this process.
        if fresh.len().saturating_sub(before) < chunk.len() {
            add_own(transaction, uses.process, chunk, &mut fresh).await?;
        }
    }
    // Read last, so that the answers take the newest incident into account.
    let (state, has_witness) = look(transaction, keys, uses.witness).await?;
    // A version older than the whole list counts as part of the history.
    let follows = state.version == uses.version
        || state.recent.contains(&uses.version)
        || state.recent.first() > Some(&uses.version);
    Ok(Recorded {
        fresh: uses.uses.iter().map(|one| fresh.remove(&one.id)).collect(),
        witness_lost: !has_witness,
        went_back: !follows,
        incident_since: state.latest_loss,
    })
}

/// Reads the state row. Returns also whether the row of the witness still exists.
async fn look(
    transaction: &mut AnyConnection,
    keys: &RowKeys,
    witness: Option<u128>,
) -> Result<(State, bool), StoreError> {
    let sql = concat!(
        "SELECT ",
        columns!(),
        ", (SELECT COUNT(*) FROM meshseal_assertions WHERE id = $1) AS witnesses
         FROM meshseal_state WHERE id = 2"
    );
    let select = query(sql).bind(witness.map(bytes).unwrap_or_default());
    let row = select.fetch_one(transaction).await?;
    let has_witness = witness.is_none() || unsigned(&row, "witnesses")? > 0;
    Ok((State::of(&row, keys)?, has_witness))
}

/// Inserts uses, and adds those that were new to `fresh`.
async fn insert(
    transaction: &mut AnyConnection,
    process: u64,
    chunk: &[AssertionUse],
    fresh: &mut HashSet<u128>,
) -> Result<(), Error> {
    let sql = format!(
        "INSERT INTO meshseal_assertions (id, expires_at, process) VALUES {}
         ON CONFLICT (id) DO NOTHING RETURNING id",
        placeholders(chunk.len(), 3)
    );
    let mut insert = query(AssertSqlSafe(sql));
    for one in chunk {
        insert = insert.bind(bytes(one.id)).bind(signed(one.expires_at));
        insert = insert.bind(signed(process));
    }
    for row in insert.fetch_all(transaction).await? {
        fresh.insert(number(row.try_get("id")?)?);
    }
    Ok(())
}

/// Adds uses to `fresh` that the same process wrote before: in a transaction whose answer it did
/// not receive, or when it recorded its memory after a loss. A process records each assertion for
/// one request only.
async fn add_own(
    transaction: &mut AnyConnection,
    process: u64,
    chunk: &[AssertionUse],
    fresh: &mut HashSet<u128>,
) -> Result<(), Error> {
    let sql = format!(
        "SELECT id FROM meshseal_assertions WHERE id IN {} AND process = ${}",
        placeholders(1, chunk.len()),
        chunk.len() + 1
    );
    let select = chunk.iter().fold(query(AssertSqlSafe(sql)), |select, one| {
        select.bind(bytes(one.id))
    });
    for row in select.bind(signed(process)).fetch_all(transaction).await? {
        fresh.insert(number(row.try_get("id")?)?);
    }
    Ok(())
}

fn bytes(id: u128) -> Vec<u8> {
    id.to_be_bytes().to_vec()
}

fn number(bytes: &[u8]) -> Result<u128, Error> {
    let bytes = bytes.try_into().map(u128::from_be_bytes);
    bytes.map_err(|_| Error::Decode("an id of meshseal_assertions is not 16 bytes".into()))
}
