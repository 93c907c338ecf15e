//! Applies a change of the trust bundle's content as one transaction.

use std::collections::HashMap;

use sqlx::{AnyConnection, AssertSqlSafe, Error, Row as _};

use super::rows::{self, Revocation, signed, unsigned};
use super::seal::RowKeys;
use super::sql::{ROWS_PER_STATEMENT, placeholders};
use super::state::State;
use super::statement::query;
use super::{Change, StoreError};
use crate::keys::{KeyChange, KeyRecord};
use crate::revocation::{EpochRecord, Full, RevokedToken, Revoker, Usage};

/// Applies the change and returns the version after it. The version rises unless every revocation
/// is already present. After an error the transaction must not be committed.
pub(super) async fn apply(
    transaction: &mut AnyConnection,
    keys: &RowKeys,
    change: &Change,
    now_ms: u64,
) -> Result<u64, StoreError> {
    apply_at(transaction, keys, change, now_ms, &mut None).await
}

/// Applies the change as [`apply`] does. `made` is the version that this transaction has already
/// made: a change that only revokes becomes part of it.
pub(super) async fn apply_at(
    transaction: &mut AnyConnection,
    keys: &RowKeys,
    change: &Change,
    now_ms: u64,
    made: &mut Option<u64>,
) -> Result<u64, StoreError> {
    // Take the lock and compare the version.
    let state = State::lock(transaction, keys).await?;
    if change
        .expected_version
        .is_some_and(|expected| expected != state.version)
    {
        return Err(StoreError::Conflict);
    }
    // Choose the version: later than the present one and all lost ones.
    let is_shared = *made == Some(state.version) && change.only_revokes();
    let next = now_ms
        .max(state.version.saturating_add(1))
        .max(
            change
                .merge
                .iter()
                .max()
                .map_or(0, |lost| lost.saturating_add(1)),
        )
        .max(change.above.saturating_add(1));
    let version = if is_shared { state.version } else { next };
    let mut ledger = Ledger {
        transaction,
        keys,
        state,
        version,
    };
    // Change the rows.
    for step in &change.keys {
        ledger.change_key(step, version).await?;
    }
    let revoked = ledger.revoke_in_room(change).await?;
    // Every revocation is already present. An empty change, in contrast, raises the version.
    if revoked == 0 && change.only_revokes() {
        return Ok(ledger.state.version);
    }
    if let Some(before) = change.prune_before {
        ledger.prune_tokens(before).await?;
        ledger.prune_epochs(before).await?;
    }
    let Ledger {
        transaction,
        mut state,
        ..
    } = ledger;
    // Write the state row.
    if change.rotation_done {
        state.rotation_requested = None;
    }
    if let Some(incident) = &change.incident {
        let found = incident.as_ref().map(|incident| incident.since);
        state.latest_loss = found.or(state.latest_loss);
        state.incident.clone_from(incident);
    }
    state.next_index = state.next_index.max(change.next_index);
    if !is_shared {
        state.advance(version, &change.merge);
        *made = Some(version);
    }
    state.save(transaction, keys).await?;
    Ok(version)
}

/// Rows under the lock of the state row. Every write updates their digest and counters.
struct Ledger<'t> {
    transaction: &'t mut AnyConnection,
    keys: &'t RowKeys,
    state: State,
    /// Version that the change makes.
    version: u64,
}

impl Ledger<'_> {
    /// Revokes within the quotas. Returns the number of changed rows.
    async fn revoke_in_room(&mut self, change: &Change) -> Result<u64, StoreError> {
        if change.revoke.is_empty() && change.epochs.is_empty() {
            return Ok(0);
        }
        // Quotas count rows after the change: a repeated revocation needs no quota.
        let before = self.usage().await?;
        let revoked = self.revoke(&change.revoke, &change.revoker).await?
            + self.raise(&change.epochs).await?;
        if revoked == 0 {
            return Ok(0);
        }
        let after = self.usage().await?;
        if after.overflows(&before) {
            return Err(Full::Proxies.into());
        }
        // The quota of the client, if it has one.
        let Revoker {
            client,
            most: Some(most),
        } = &change.revoker
        else {
            return Ok(revoked);
        };
        if after.tokens > before.tokens && self.revoked_by(client).await? > *most {
            return Err(Full::Client.into());
        }
        Ok(revoked)
    }

    /// Reads the counters and both ends of the index without scanning a table.
    async fn usage(&mut self) -> Result<Usage, Error> {
        let sql = "SELECT COALESCE((SELECT MIN(token_index) FROM meshseal_revoked), 0) AS lowest,
                   COALESCE((SELECT MAX(token_index) FROM meshseal_revoked), 0) AS highest";
        let row = query(sql).fetch_one(&mut *self.transaction).await?;
        let span = unsigned(&row, "highest")?.saturating_sub(unsigned(&row, "lowest")?);
        Ok(self.state.used.usage(span))
    }

    /// Returns the number of tokens that a client has revoked.
    async fn revoked_by(&mut self, client: &str) -> Result<u64, Error> {
        let count = query("SELECT COUNT(*) FROM meshseal_revoked WHERE revoked_by = $1")
            .bind(client.to_owned());
        let count: i64 = count.fetch_one(&mut *self.transaction).await?.try_get(0)?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    async fn change_key(&mut self, step: &KeyChange, version: u64) -> Result<(), StoreError> {
        match step {
            KeyChange::Insert(key) => {
                self.insert_key(&KeyRecord {
                    published: version,
                    ..key.clone()
                })
                .await
            }
            KeyChange::Restore(key) => {
                self.take_key(&key.kid).await?;
                self.insert_key(key).await
            }
            KeyChange::Enter { kid, state, since } => match self.take_key(kid).await? {
                Some(key) => self.insert_key(&key.entering(*state, *since)).await,
                None => Ok(()),
            },
            KeyChange::Extend { kid, drain_s } => match self.take_key(kid).await? {
                Some(key) => {
                    let drain_s = key.drain_s.max(*drain_s);
                    self.insert_key(&KeyRecord { drain_s, ..key }).await
                }
                None => Ok(()),
            },
            KeyChange::Delete { kid } => self.take_key(kid).await.map(|_| ()),
        }
    }

    /// Removes a key and returns it.
    async fn take_key(&mut self, kid: &str) -> Result<Option<KeyRecord>, StoreError> {
        let select = query("SELECT * FROM meshseal_keys WHERE kid = $1").bind(kid.to_owned());
        let Some(row) = select.fetch_optional(&mut *self.transaction).await? else {
            return Ok(None);
        };
        // Two statements, because the MAC must be proven before the row counts as removed.
        let key = rows::key(&row)?;
        self.keys.check(&key, rows::mac(&row)?.as_deref())?;
        let delete = query("DELETE FROM meshseal_keys WHERE kid = $1").bind(kid.to_owned());
        delete.execute(&mut *self.transaction).await?;
        self.state.set.remove(self.keys, &key);
        self.state.used.keys = self.state.used.keys.saturating_sub(1);
        Ok(Some(key))
    }

    async fn insert_key(&mut self, key: &KeyRecord) -> Result<(), StoreError> {
        let insert = query(
            "INSERT INTO meshseal_keys (kid, purpose, algorithm, state, since, published,
              public_jwk, sealed, ready_at, drain_s, mac)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        )
        .bind(key.kid.clone())
        .bind(key.purpose.name())
        .bind(key.algorithm.name())
        .bind(key.state.name())
        .bind(signed(key.since))
        .bind(signed(key.published))
        .bind(key.public_jwk.clone())
        .bind(key.sealed.clone())
        .bind(signed(key.ready_at))
        .bind(signed(key.drain_s))
        .bind(self.keys.mac(key));
        insert.execute(&mut *self.transaction).await?;
        self.state.set.add(self.keys, key);
        self.state.used.keys = self.state.used.keys.saturating_add(1);
        Ok(())
    }

    /// Revokes tokens. Returns the number of tokens that were not revoked, or not for as long.
    async fn revoke(&mut self, tokens: &[RevokedToken], by: &Revoker) -> Result<u64, StoreError> {
        let mut changed = 0_u64;
        for chunk in tokens.chunks(ROWS_PER_STATEMENT) {
            let mut present = self.present(chunk).await?;
            let mut news = Vec::new();
            for token in chunk {
                let old = present.remove(&token.index);
                if old
                    .as_ref()
                    .is_some_and(|old| old.token.expires_at >= token.expires_at)
                {
                    continue;
                }
                // The quota is charged to the client that revoked the token first.
                let revoked_by = old
                    .as_ref()
                    .map_or(&by.client, |old| &old.revoked_by)
                    .clone();
                let new = Revocation {
                    token: *token,
                    revoked_by,
                };
                match &old {
                    Some(old) => self.state.set.remove(self.keys, old),
                    None => self.state.used.tokens = self.state.used.tokens.saturating_add(1),
                }
                self.state.set.add(self.keys, &new);
                news.push(new);
            }
            changed = changed.saturating_add(u64::try_from(news.len()).unwrap_or(u64::MAX));
            self.write_tokens(&news).await?;
        }
        Ok(changed)
    }

    /// Returns the given tokens that are already revoked, by index.
    async fn present(
        &mut self,
        tokens: &[RevokedToken],
    ) -> Result<HashMap<u64, Revocation>, StoreError> {
        let list = placeholders(1, tokens.len());
        let sql = format!("SELECT * FROM meshseal_revoked WHERE token_index IN {list}");
        let select = tokens
            .iter()
            .fold(query(AssertSqlSafe(sql)), |select, token| {
                select.bind(signed(token.index))
            });
        let mut present = HashMap::new();
        for row in select.fetch_all(&mut *self.transaction).await? {
            let revocation = rows::revocation(&row)?;
            self.keys.check(&revocation, rows::mac(&row)?.as_deref())?;
            present.insert(revocation.token.index, revocation);
        }
        Ok(present)
    }

    async fn write_tokens(&mut self, revocations: &[Revocation]) -> Result<(), Error> {
        if revocations.is_empty() {
            return Ok(());
        }
        let placeholders = placeholders(revocations.len(), 5);
        let sql = format!(
            "INSERT INTO meshseal_revoked (token_index, expires_at, revoked_by, mac, changed_in)
             VALUES {placeholders}
             ON CONFLICT (token_index) DO UPDATE SET expires_at = excluded.expires_at,
                 mac = excluded.mac, changed_in = excluded.changed_in"
        );
        let mut insert = query(AssertSqlSafe(sql));
        for revocation in revocations {
            insert = insert
                .bind(signed(revocation.token.index))
                .bind(signed(revocation.token.expires_at));
            insert = insert
                .bind(revocation.revoked_by.clone())
                .bind(self.keys.mac(revocation));
            insert = insert.bind(signed(self.version));
        }
        insert.execute(&mut *self.transaction).await.map(|_| ())
    }

    /// Raises epochs. Returns the number of epochs that are later now or are kept for longer.
    async fn raise(&mut self, epochs: &[EpochRecord]) -> Result<u64, StoreError> {
        let mut changed = 0_u64;
        for epoch in epochs {
            let old = self.epoch(epoch).await?;
            let mut new = epoch.clone();
            // INVARIANT: neither the time nor the expiry of an epoch falls.
            if let Some(old) = &old {
                new.before = new.before.max(old.before);
                new.expires_at = new.expires_at.max(old.expires_at);
            }
            if old.as_ref() == Some(&new) {
                continue;
            }
            match &old {
                Some(old) => self.state.set.remove(self.keys, old),
                None => self.state.used.named(new.kind, new.name.len()),
            }
            self.state.set.add(self.keys, &new);
            let sql = "INSERT INTO meshseal_epochs (kind, name, before, expires_at, mac)
                       VALUES ($1, $2, $3, $4, $5)
                       ON CONFLICT (kind, name) DO UPDATE SET before = excluded.before,
                           expires_at = excluded.expires_at, mac = excluded.mac";
            let upsert = query(sql)
                .bind(new.kind.name())
                .bind(new.name.clone())
                .bind(signed(new.before));
            let upsert = upsert
                .bind(signed(new.expires_at))
                .bind(self.keys.mac(&new));
            upsert.execute(&mut *self.transaction).await?;
            changed = changed.saturating_add(1);
        }
        Ok(changed)
    }

    /// Returns the stored epoch of the same group.
    async fn epoch(&mut self, epoch: &EpochRecord) -> Result<Option<EpochRecord>, StoreError> {
        let select = query("SELECT * FROM meshseal_epochs WHERE kind = $1 AND name = $2");
        let select = select.bind(epoch.kind.name()).bind(epoch.name.clone());
        let Some(row) = select.fetch_optional(&mut *self.transaction).await? else {
            return Ok(None);
        };
        let found = rows::epoch(&row)?;
        self.keys.check(&found, rows::mac(&row)?.as_deref())?;
        Ok(Some(found))
    }

    /// Deletes revocations of tokens that expired before a time (Unix seconds).
    async fn prune_tokens(&mut self, before: u64) -> Result<(), StoreError> {
        let select =
            query("SELECT * FROM meshseal_revoked WHERE expires_at < $1").bind(signed(before));
        let rows = select.fetch_all(&mut *self.transaction).await?;
        // The digest needs each row, so the rows are read before they are deleted.
        for row in &rows {
            let revocation = rows::revocation(row)?;
            self.keys.check(&revocation, rows::mac(row)?.as_deref())?;
            self.state.set.remove(self.keys, &revocation);
            self.state.used.tokens = self.state.used.tokens.saturating_sub(1);
        }
        let delete =
            query("DELETE FROM meshseal_revoked WHERE expires_at < $1").bind(signed(before));
        Ok(delete.execute(&mut *self.transaction).await.map(|_| ())?)
    }

    /// Deletes epochs that expired before a time (Unix seconds).
    async fn prune_epochs(&mut self, before: u64) -> Result<(), StoreError> {
        let select =
            query("SELECT * FROM meshseal_epochs WHERE expires_at < $1").bind(signed(before));
        let rows = select.fetch_all(&mut *self.transaction).await?;
        for row in &rows {
            let epoch = rows::epoch(row)?;
            self.keys.check(&epoch, rows::mac(row)?.as_deref())?;
            self.state.set.remove(self.keys, &epoch);
            self.state.used.forgot(epoch.kind, epoch.name.len());
        }
        let delete =
            query("DELETE FROM meshseal_epochs WHERE expires_at < $1").bind(signed(before));
        Ok(delete.execute(&mut *self.transaction).await.map(|_| ())?)
    }
}
