//! A change of what the trust bundle is made of, as one transaction.

use sqlx::{AnyConnection, AssertSqlSafe, Error, Row as _};

use super::rows::{self, signed, unsigned};
use super::sql::{ROWS_PER_STATEMENT, places};
use super::statement::query;
use super::{Change, StoreError};
use crate::keys::{KeyChange, KeyRecord};
use crate::revocation::{EpochKind, EpochRecord, Full, RevokedToken, Revoker, Usage};

/// Makes the change and raises the version, unless all it revokes is revoked already; the version after it. On an error the
/// transaction must not be committed.
pub(super) async fn apply(transaction: &mut AnyConnection, change: &Change, now_ms: u64) -> Result<u64, StoreError> {
    let present = lock(transaction).await?;
    if change.expected_version.is_some_and(|expected| expected != present) {
        return Err(StoreError::Conflict);
    }
    let version = now_ms.max(present.saturating_add(1));
    for step in &change.keys {
        change_key(transaction, step, version).await?;
    }
    let revoked = revoke_in_room(transaction, change).await?;
    if revoked == 0 && only_revokes(change) {
        return Ok(present);
    }
    if let Some(before) = change.prune_before {
        for sql in
            ["DELETE FROM meshseal_revoked WHERE expires_at < $1", "DELETE FROM meshseal_epochs WHERE expires_at < $1"]
        {
            query(sql).bind(signed(before)).execute(&mut *transaction).await?;
        }
    }
    let sql = "UPDATE meshseal_state SET version = $1,
               rotation_requested = CASE WHEN $2 = 1 THEN NULL ELSE rotation_requested END WHERE id = 1";
    query(sql).bind(signed(version)).bind(i64::from(change.rotation_done)).execute(transaction).await?;
    Ok(version)
}

/// Whether there is nothing in it but revocations, so that repeating it is of no use. An empty change raises the version.
fn only_revokes(change: &Change) -> bool {
    let Change { expected_version, keys, revoke, revoker: _, epochs, rotation_done, prune_before } = change;
    let else_nothing = expected_version.is_none() && keys.is_empty() && !rotation_done && prune_before.is_none();
    else_nothing && !(revoke.is_empty() && epochs.is_empty())
}

/// Takes the lock that orders all changes; the present version.
async fn lock(transaction: &mut AnyConnection) -> Result<u64, StoreError> {
    let sql = "UPDATE meshseal_state SET version = version WHERE id = 1 RETURNING version";
    Ok(unsigned(&query(sql).fetch_one(transaction).await?, "version")?)
}

/// Revokes, and sees that there is room for it; how many rows that changed.
async fn revoke_in_room(transaction: &mut AnyConnection, change: &Change) -> Result<u64, StoreError> {
    if change.revoke.is_empty() && change.epochs.is_empty() {
        return Ok(0);
    }
    let before = usage(transaction).await?;
    let revoked =
        revoke(transaction, &change.revoke, &change.revoker).await? + raise(transaction, &change.epochs).await?;
    if revoked == 0 {
        return Ok(0);
    }
    let after = usage(transaction).await?;
    if after.overflows(&before) {
        return Err(Full::Proxies.into());
    }
    let Revoker { client, most: Some(most) } = &change.revoker else { return Ok(revoked) };
    if after.tokens > before.tokens && revoked_by(transaction, client).await? > *most {
        return Err(Full::Client.into());
    }
    Ok(revoked)
}

async fn usage(transaction: &mut AnyConnection) -> Result<Usage, Error> {
    let sql =
        "SELECT COUNT(*) AS tokens, COALESCE(MIN(token_index), 0) AS lowest, COALESCE(MAX(token_index), 0) AS highest
               FROM meshseal_revoked";
    let row = query(sql).fetch_one(&mut *transaction).await?;
    let span = unsigned(&row, "highest")?.saturating_sub(unsigned(&row, "lowest")?);
    let sql = "SELECT kind, COUNT(*) AS names, SUM(LENGTH(name)) AS bytes FROM meshseal_epochs GROUP BY kind";
    let kinds = query(sql).fetch_all(transaction).await?;
    let kind = |row| {
        Ok((rows::word(row, "kind", "kind", EpochKind::parse)?, unsigned(row, "names")?, unsigned(row, "bytes")?))
    };
    let names = kinds.iter().map(kind).collect::<Result<_, Error>>()?;
    Ok(Usage { tokens: unsigned(&row, "tokens")?, span, names })
}

async fn revoked_by(transaction: &mut AnyConnection, client: &str) -> Result<u64, Error> {
    let count = query("SELECT COUNT(*) FROM meshseal_revoked WHERE revoked_by = $1").bind(client.to_owned());
    let count: i64 = count.fetch_one(transaction).await?.try_get(0)?;
    Ok(u64::try_from(count).unwrap_or(0))
}

async fn change_key(transaction: &mut AnyConnection, step: &KeyChange, version: u64) -> Result<(), StoreError> {
    match step {
        KeyChange::Insert(key) => insert_key(transaction, key, version).await,
        KeyChange::Enter { kid, state, since } => {
            // A key that will not sign again has no private half any more (I26).
            let sql = if state.may_sign() {
                "UPDATE meshseal_keys SET state = $1, since = $2 WHERE kid = $3"
            } else {
                "UPDATE meshseal_keys SET state = $1, since = $2, sealed = NULL WHERE kid = $3"
            };
            let update = query(sql).bind(state.name()).bind(signed(*since)).bind(kid.clone());
            Ok(update.execute(transaction).await.map(|_| ())?)
        }
        KeyChange::Extend { kid, drain_s } => {
            let sql = "UPDATE meshseal_keys SET drain_s = $1 WHERE kid = $2 AND drain_s < $1";
            let update = query(sql).bind(signed(*drain_s)).bind(kid.clone());
            Ok(update.execute(transaction).await.map(|_| ())?)
        }
        KeyChange::Delete { kid } => {
            let delete = query("DELETE FROM meshseal_keys WHERE kid = $1").bind(kid.clone());
            Ok(delete.execute(transaction).await.map(|_| ())?)
        }
    }
}

async fn insert_key(transaction: &mut AnyConnection, key: &KeyRecord, version: u64) -> Result<(), StoreError> {
    let sql = "INSERT INTO meshseal_keys
               (kid, purpose, algorithm, state, since, published, public_jwk, sealed, ready_at, drain_s)
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
    let insert = query(sql)
        .bind(key.kid.clone())
        .bind(key.purpose.name())
        .bind(key.algorithm.name())
        .bind(key.state.name())
        .bind(signed(key.since))
        .bind(signed(version))
        .bind(key.public_jwk.clone())
        .bind(key.sealed.clone())
        .bind(signed(key.ready_at))
        .bind(signed(key.drain_s));
    Ok(insert.execute(transaction).await.map(|_| ())?)
}

/// How many tokens are revoked now that were not, or not for so long.
async fn revoke(transaction: &mut AnyConnection, tokens: &[RevokedToken], by: &Revoker) -> Result<u64, Error> {
    let mut changed = 0;
    for chunk in tokens.chunks(ROWS_PER_STATEMENT) {
        let places = places(chunk.len(), 3);
        let sql = format!(
            "INSERT INTO meshseal_revoked VALUES {places} ON CONFLICT (token_index) DO UPDATE
             SET expires_at = excluded.expires_at WHERE excluded.expires_at > meshseal_revoked.expires_at"
        );
        let mut insert = query(AssertSqlSafe(sql));
        for token in chunk {
            insert = insert.bind(signed(token.index)).bind(signed(token.expires_at)).bind(by.client.clone());
        }
        changed += insert.execute(&mut *transaction).await?.rows_affected();
    }
    Ok(changed)
}

/// How many epochs are later now, or are kept for longer.
async fn raise(transaction: &mut AnyConnection, epochs: &[EpochRecord]) -> Result<u64, Error> {
    let later = |column: &str| {
        format!(
            "{column} = CASE WHEN excluded.{column} > meshseal_epochs.{column} THEN excluded.{column} ELSE meshseal_epochs.{column} END"
        )
    };
    let sql = format!(
        "INSERT INTO meshseal_epochs VALUES ($1, $2, $3, $4) ON CONFLICT (kind, name) DO UPDATE SET {}, {}
         WHERE excluded.before > meshseal_epochs.before OR excluded.expires_at > meshseal_epochs.expires_at",
        later("before"),
        later("expires_at")
    );
    let mut changed = 0;
    for epoch in epochs {
        let upsert = query(AssertSqlSafe(sql.clone())).bind(epoch.kind.name()).bind(epoch.name.clone());
        let upsert = upsert.bind(signed(epoch.before)).bind(signed(epoch.expires_at));
        changed += upsert.execute(&mut *transaction).await?.rows_affected();
    }
    Ok(changed)
}
