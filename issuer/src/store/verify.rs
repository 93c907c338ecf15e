//! Reads all rows and verifies them: each by its MAC, the set by the digest in the state row.

use std::collections::BTreeMap;

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Error, Row as _};

use super::rows::{self, Revocation, signed};
use super::seal::{Row, RowKeys, SetDigest};
use super::state::{self, State, Used};
use super::statement::query;
use super::{Persisted, StoreError};
use crate::keys::{KeyRecord, MasterKey};
use crate::revocation::EpochRecord;

/// Most rows that one message names.
const NAMED: usize = 3;

const KEYS: &str = "SELECT * FROM meshseal_keys ORDER BY published, kid";
const EPOCHS: &str = "SELECT * FROM meshseal_epochs";
const REVOKED: &str = "SELECT * FROM meshseal_revoked";
const CHANGED: &str = "SELECT * FROM meshseal_revoked WHERE changed_in > $1";

/// Rows of the version that was read last. They make the next read shorter.
#[derive(Default)]
pub(super) struct Known {
    version: u64,
    keys: Vec<KeyRecord>,
    epochs: Vec<EpochRecord>,
    /// By token index.
    revoked: BTreeMap<u64, Revocation>,
    /// Digest of `revoked`.
    set: SetDigest,
}

impl Known {
    /// Takes over revocations that changed since. Returns false if other changes are possible; the
    /// caller still compares digests.
    async fn catch_up(
        &mut self,
        snapshot: &mut AnyConnection,
        keys: &RowKeys,
        state: &State,
    ) -> Result<bool, StoreError> {
        // Without a shared history the changes since then cannot be selected.
        if self.version == 0 || !state.recent.contains(&self.version) {
            return Ok(false);
        }
        let changed = query(CHANGED)
            .bind(signed(self.version))
            .fetch_all(snapshot)
            .await?;
        for revocation in genuine(&changed, keys, rows::revocation)? {
            self.set.add(keys, &revocation);
            if let Some(old) = self.revoked.insert(revocation.token.index, revocation) {
                self.set.remove(keys, &old);
            }
        }
        Ok(true)
    }

    /// Replaces all revocations.
    fn replace(&mut self, keys: &RowKeys, revoked: Vec<Revocation>) {
        self.set = SetDigest::default();
        revoked
            .iter()
            .for_each(|revocation| self.set.add(keys, revocation));
        self.revoked = revoked
            .into_iter()
            .map(|revocation| (revocation.token.index, revocation))
            .collect();
    }
}

/// Part of the database to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// Every row.
    Whole,
    /// Only the revoked tokens that changed since the last version that was read. If the digest of
    /// all rows does not fit, every row is read.
    Changes,
}

/// Reads and verifies the content of the trust bundle. The caller holds a snapshot. An error clears
/// `known`.
pub(super) async fn load(
    snapshot: &mut AnyConnection,
    keys: &RowKeys,
    extent: Extent,
    known: &mut Known,
) -> Result<Persisted, StoreError> {
    let mut before = std::mem::take(known);
    // The state row first: its digest decides about all other rows.
    let state = match State::read(snapshot, keys).await {
        Err(StoreError::Tampered(state)) => return Err(all_wrong(snapshot, keys, state).await?),
        state => state?,
    };
    // Keys and epochs are few and are always read.
    let records = checked(snapshot, keys, KEYS, rows::key).await?;
    let epochs = checked(snapshot, keys, EPOCHS, rows::epoch).await?;
    let others = digest(keys, &records, &[], &epochs);
    let fits = |known: &Known| {
        let mut all = others;
        all.plus(&known.set);
        all == state.set
    };
    // Revocations may be many: read the changes, or else all of them.
    let caught_up = extent == Extent::Changes && before.catch_up(snapshot, keys, &state).await?;
    if !(caught_up && fits(&before)) {
        let mut now = Known::default();
        let revoked = revocations(snapshot).await?;
        let is_readable = revoked.is_some();
        now.replace(keys, revoked.unwrap_or_default());
        if !(is_readable && fits(&now)) {
            return Err(diagnose(snapshot, keys, &state, &records, &epochs, &before).await?);
        }
        before = now;
    }
    // Remember the verified rows, which shorten the next read.
    *known = Known {
        version: state.version,
        keys: records.clone(),
        epochs: epochs.clone(),
        ..before
    };
    Ok(Persisted {
        version: state.version,
        next_index: state.next_index,
        recent: state.recent,
        keys: records,
        revoked: known
            .revoked
            .values()
            .map(|revocation| revocation.token)
            .collect(),
        epochs,
    })
}

/// Returns the error for a state row without a valid MAC, with the other rows that have none.
async fn all_wrong(
    connection: &mut AnyConnection,
    keys: &RowKeys,
    state: String,
) -> Result<StoreError, StoreError> {
    let mut named = vec![state];
    let others = [
        checked(connection, keys, KEYS, rows::key).await.map(|_| ()),
        checked(connection, keys, EPOCHS, rows::epoch)
            .await
            .map(|_| ()),
        checked(connection, keys, REVOKED, rows::revocation)
            .await
            .map(|_| ()),
    ];
    for other in others {
        match other {
            Err(StoreError::Tampered(rows)) => named.push(rows),
            other => other?,
        }
    }
    Ok(StoreError::Tampered(named.join(", ")))
}

/// Reads rows without checking their MACs.
async fn all<T>(
    connection: &mut AnyConnection,
    sql: &'static str,
    read: fn(&AnyRow) -> Result<T, Error>,
) -> Result<Vec<T>, Error> {
    query(sql)
        .fetch_all(connection)
        .await?
        .iter()
        .map(read)
        .collect()
}

/// Reads rows and checks their MACs.
async fn checked<R: Row>(
    connection: &mut AnyConnection,
    keys: &RowKeys,
    sql: &'static str,
    read: fn(&AnyRow) -> Result<R, Error>,
) -> Result<Vec<R>, StoreError> {
    genuine(&query(sql).fetch_all(connection).await?, keys, read)
}

/// Decodes rows. Returns an error that names those without a valid MAC.
fn genuine<R: Row>(
    rows: &[AnyRow],
    keys: &RowKeys,
    read: fn(&AnyRow) -> Result<R, Error>,
) -> Result<Vec<R>, StoreError> {
    let (mut genuine, mut named) = (Vec::with_capacity(rows.len()), Vec::new());
    for row in rows {
        let read = read(row)?;
        match keys.check(&read, rows::mac(row)?.as_deref()) {
            Ok(()) => genuine.push(read),
            Err(StoreError::Tampered(name)) => named.push(name),
            Err(other) => return Err(other),
        }
    }
    if named.is_empty() {
        Ok(genuine)
    } else {
        Err(StoreError::Tampered(list(named)))
    }
}

/// Joins the names of rows, or of the first few.
fn list(mut named: Vec<String>) -> String {
    let more = named.len().saturating_sub(NAMED);
    named.truncate(NAMED);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    named.join(", ") + &more
}

/// Reads revoked tokens as one text, because the driver takes 2 µs for a row and 250 000 rows are
/// possible. Their MACs are not read, since the digest proves the rows. Returns `None` if the text
/// cannot be parsed.
async fn revocations(connection: &mut AnyConnection) -> Result<Option<Vec<Revocation>>, Error> {
    let sql = "SELECT string_agg(CAST(token_index AS TEXT) || ' ' || CAST(expires_at AS TEXT)
                || ' ' || revoked_by, '\n') AS tokens FROM meshseal_revoked";
    let tokens: Option<String> = query(sql).fetch_one(connection).await?.try_get("tokens")?;
    Ok(tokens
        .iter()
        .flat_map(|tokens| tokens.split('\n'))
        .map(rows::revocation_text)
        .collect())
}

/// Returns the error for rows that do not fit the digest. It names known rows, or tables.
async fn diagnose(
    connection: &mut AnyConnection,
    keys: &RowKeys,
    state: &State,
    records: &[KeyRecord],
    epochs: &[EpochRecord],
    known: &Known,
) -> Result<StoreError, StoreError> {
    let revoked = match checked(connection, keys, REVOKED, rows::revocation).await {
        Ok(revoked) => revoked,
        Err(tampered) => return Ok(tampered),
    };
    // Compare the counters, which say how many rows are missing or new.
    let found = count(records, &revoked, epochs);
    let mut named: Vec<String> = Vec::new();
    let mut compare = |table: &str, expected: u64, found: u64| {
        if expected != found {
            named.push(format!("{table} has {found} rows instead of {expected}"));
        }
    };
    let names = |used: &Used| used.names.iter().map(|(_, count, _)| count).sum();
    compare("meshseal_keys", state.used.keys, found.keys);
    compare("meshseal_revoked", state.used.tokens, found.tokens);
    compare("meshseal_epochs", names(&state.used), names(&found));
    if named.is_empty() {
        named.push("a row was replaced by an earlier state of it".to_owned());
    }
    // Name the missing rows, if this version was read before.
    let missing = [
        missing(&known.keys, records),
        missing(&known.epochs, epochs),
        missing_tokens(&known.revoked, &revoked),
    ];
    let missing = missing.concat();
    if known.version == state.version && !missing.is_empty() {
        named.push(format!("removed or replaced: {}", list(missing)));
    }
    Ok(StoreError::Tampered(named.join(", ")))
}

/// Returns the names of known rows that were not found.
fn missing<R: Row + PartialEq>(known: &[R], found: &[R]) -> Vec<String> {
    let gone = known.iter().filter(|row| !found.contains(row));
    gone.map(|row| format!("row `{}` of {}", row.name(), R::TABLE))
        .collect()
}

fn missing_tokens(known: &BTreeMap<u64, Revocation>, found: &[Revocation]) -> Vec<String> {
    let mut gone = known.clone();
    for revocation in found {
        if gone.get(&revocation.token.index) == Some(revocation) {
            gone.remove(&revocation.token.index);
        }
    }
    missing(&gone.into_values().collect::<Vec<_>>(), &[])
}

/// Counts rows as the state row does.
fn count(records: &[KeyRecord], revoked: &[Revocation], epochs: &[EpochRecord]) -> Used {
    let mut used = Used {
        keys: u64::try_from(records.len()).unwrap_or(u64::MAX),
        tokens: u64::try_from(revoked.len()).unwrap_or(u64::MAX),
        names: Vec::new(),
    };
    epochs
        .iter()
        .for_each(|epoch| used.named(epoch.kind, epoch.name.len()));
    used
}

/// Removes every row without a valid MAC, and makes the state row fit the others. Returns the names
/// of the removed rows.
pub(super) async fn repair(
    transaction: &mut AnyConnection,
    keys: &RowKeys,
    now_ms: u64,
) -> Result<Vec<String>, StoreError> {
    // The state row.
    let row = state::lock(transaction).await?;
    let genuine = State::of(&row, keys);
    let mut removed: Vec<String> = genuine
        .as_ref()
        .err()
        .map(ToString::to_string)
        .into_iter()
        .collect();
    let (mut records, mut revoked, mut epochs) = (Vec::new(), Vec::new(), Vec::new());
    // Keys.
    for row in query(KEYS).fetch_all(&mut *transaction).await? {
        match proven(&row, keys, rows::key(&row)) {
            Some(key) => records.push(key),
            None => {
                let kid: String = row.try_get("kid")?;
                removed.push(format!("meshseal_keys {kid}"));
                query("DELETE FROM meshseal_keys WHERE kid = $1")
                    .bind(kid)
                    .execute(&mut *transaction)
                    .await?;
            }
        }
    }
    // Revoked tokens.
    for row in query(REVOKED).fetch_all(&mut *transaction).await? {
        match proven(&row, keys, rows::revocation(&row)) {
            Some(revocation) => revoked.push(revocation),
            None => {
                let index: i64 = row.try_get("token_index")?;
                removed.push(format!("meshseal_revoked {index}"));
                let delete =
                    query("DELETE FROM meshseal_revoked WHERE token_index = $1").bind(index);
                delete.execute(&mut *transaction).await?;
            }
        }
    }
    // Epochs.
    for row in query(EPOCHS).fetch_all(&mut *transaction).await? {
        match proven(&row, keys, rows::epoch(&row)) {
            Some(epoch) => epochs.push(epoch),
            None => {
                let (kind, name): (String, String) = (row.try_get("kind")?, row.try_get("name")?);
                removed.push(format!("meshseal_epochs {kind} {name}"));
                let delete = query("DELETE FROM meshseal_epochs WHERE kind = $1 AND name = $2")
                    .bind(kind)
                    .bind(name);
                delete.execute(&mut *transaction).await?;
            }
        }
    }
    // An unproven version is not used: one near the maximum would leave no larger ones.
    let mut state = genuine.unwrap_or_else(|_| {
        let newest = records.iter().map(|key| key.published).max().unwrap_or(0);
        State {
            version: newest.max(now_ms),
            ..State::default()
        }
    });
    state.used = count(&records, &revoked, &epochs);
    state.set = digest(keys, &records, &revoked, &epochs);
    state.save(transaction, keys).await?;
    Ok(removed)
}

/// Returns the decoded row if its MAC is valid.
fn proven<R: Row>(row: &AnyRow, keys: &RowKeys, read: Result<R, Error>) -> Option<R> {
    let mac = rows::mac(row).ok()?;
    read.ok()
        .filter(|read| keys.check(read, mac.as_deref()).is_ok())
}

/// Returns the digest of a set of rows.
fn digest(
    keys: &RowKeys,
    records: &[KeyRecord],
    revoked: &[Revocation],
    epochs: &[EpochRecord],
) -> SetDigest {
    let mut set = SetDigest::default();
    records.iter().for_each(|key| set.add(keys, key));
    epochs.iter().for_each(|epoch| set.add(keys, epoch));
    revoked
        .iter()
        .for_each(|revocation| set.add(keys, revocation));
    set
}

/// Adds MACs to the rows of a database that has none: a new one, or one of schema 1.
///
/// # Errors
/// [`StoreError::Tampered`] for a database that had MACs before.
pub(super) async fn seal(
    transaction: &mut AnyConnection,
    keys: &RowKeys,
    master: &MasterKey,
) -> Result<(), StoreError> {
    let row = state::lock(transaction).await?;
    if rows::mac(&row)?.is_some() {
        return Ok(());
    }
    // Read every row without its MAC.
    let mut state = State {
        version: rows::unsigned(&row, "version")?,
        next_index: rows::unsigned(&row, "next_index")?,
        ..State::default()
    };
    let records = all(transaction, KEYS, rows::key).await?;
    let epochs = all(transaction, EPOCHS, rows::epoch).await?;
    let revoked = all(transaction, REVOKED, rows::revocation).await?;
    // A new database has no rows; any other one must prove that it comes from schema 1.
    if state.version > 0 || !(records.is_empty() && epochs.is_empty() && revoked.is_empty()) {
        require_schema_1(&records, master)?;
        tracing::warn!(
            keys = ?records.iter().map(|key| &*key.kid).collect::<Vec<_>>(),
            revoked = revoked.len(),
            epochs = epochs.len(),
            "put the rows of a schema 1 database under MACs; \
             compare the keys with `meshseal keys list`"
        );
    }
    // Seal private keys in the present form, then write every MAC.
    state.used = count(&records, &revoked, &epochs);
    let resealed = records
        .into_iter()
        .map(|key| key.resealed(master).ok_or_else(not_schema_1));
    let records: Vec<KeyRecord> = resealed.collect::<Result<_, _>>()?;
    state.set = digest(keys, &records, &revoked, &epochs);
    for key in records {
        let update = query("UPDATE meshseal_keys SET sealed = $1, mac = $2 WHERE kid = $3");
        let update = update
            .bind(key.sealed.clone())
            .bind(keys.mac(&key))
            .bind(key.kid);
        update.execute(&mut *transaction).await?;
    }
    for epoch in epochs {
        let update = query("UPDATE meshseal_epochs SET mac = $1 WHERE kind = $2 AND name = $3");
        let update = update
            .bind(keys.mac(&epoch))
            .bind(epoch.kind.name())
            .bind(epoch.name);
        update.execute(&mut *transaction).await?;
    }
    for revocation in revoked {
        let update = query("UPDATE meshseal_revoked SET mac = $1 WHERE token_index = $2");
        let update = update
            .bind(keys.mac(&revocation))
            .bind(rows::signed(revocation.token.index));
        update.execute(&mut *transaction).await?;
    }
    state.save(transaction, keys).await
}

/// Distinguishes a database of schema 1 from one whose MACs were removed: its private keys are
/// sealed in the form of schema 1, which only the holder of the master key can produce.
fn require_schema_1(records: &[KeyRecord], master: &MasterKey) -> Result<(), StoreError> {
    // Without a sealed key nothing proves the origin of the rows.
    let signing: Vec<&KeyRecord> = records.iter().filter(|key| key.sealed.is_some()).collect();
    let genuine =
        !signing.is_empty() && signing.iter().all(|key| key.is_sealed_as_schema_1(master));
    if genuine { Ok(()) } else { Err(not_schema_1()) }
}

fn not_schema_1() -> StoreError {
    StoreError::Tampered(
        "row `state` of meshseal_state has no MAC, and the keys are not those of schema 1"
            .to_owned(),
    )
}
