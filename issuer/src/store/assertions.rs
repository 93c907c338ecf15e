//! Uses of client assertions: each is recorded before its client counts as authenticated (ADR
//! 0029).

use std::collections::HashSet;

use sqlx::{AnyConnection, AssertSqlSafe, Error, Row as _};

use super::rows::{signed, unsigned};
use super::seal::RowKeys;
use super::sql::{ROWS_PER_STATEMENT, places};
use super::state::{State, columns};
use super::statement::query;
use super::{AssertionUse, Recorded, StoreError, Uses};

/// Most rows that one transaction forgets: others wait for its lock.
pub(super) const FORGOTTEN_AT_A_TIME: u64 = 4_096;

/// Deletes rows that expired before `$1`, at most [`FORGOTTEN_AT_A_TIME`].
pub(super) const FORGET: &str = "DELETE FROM meshseal_assertions WHERE id IN (
    SELECT id FROM meshseal_assertions WHERE expires_at < $1 ORDER BY expires_at LIMIT 4096)";

/// Records uses and looks for a loss of state, as of one transaction.
pub(super) async fn record(
    transaction: &mut AnyConnection,
    keys: &RowKeys,
    uses: &Uses,
) -> Result<Recorded, StoreError> {
    // Every transaction writes in the same order, so that no two wait for each other.
    let mut sorted = uses.uses.clone();
    sorted.sort_unstable();
    let mut fresh = HashSet::with_capacity(sorted.len());
    for chunk in sorted.chunks(ROWS_PER_STATEMENT) {
        let before = fresh.len();
        insert(transaction, uses.process, chunk, &mut fresh).await?;
        if fresh.len().saturating_sub(before) < chunk.len() {
            add_own(transaction, uses.process, chunk, &mut fresh).await?;
        }
    }
    // Last, so that the answers are subject to the newest incident.
    let (state, has_witness) = look(transaction, keys, uses.witness).await?;
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

/// Reads the state row, and whether the row of a remembered use is there.
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

/// Inserts uses, and adds those to `fresh` that were not there.
async fn insert(
    transaction: &mut AnyConnection,
    process: u64,
    chunk: &[AssertionUse],
    fresh: &mut HashSet<u128>,
) -> Result<(), Error> {
    let sql = format!(
        "INSERT INTO meshseal_assertions (id, expires_at, process) VALUES {}
         ON CONFLICT (id) DO NOTHING RETURNING id",
        places(chunk.len(), 3)
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

/// Adds uses to `fresh` that the same process wrote before: a transaction whose answer it did not
/// hear, or its memory after a loss. A process asks for one use of an assertion only.
async fn add_own(
    transaction: &mut AnyConnection,
    process: u64,
    chunk: &[AssertionUse],
    fresh: &mut HashSet<u128>,
) -> Result<(), Error> {
    let sql = format!(
        "SELECT id FROM meshseal_assertions WHERE id IN {} AND process = ${}",
        places(1, chunk.len()),
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
