//! The only row of `meshseal_state`: the lock that orders all changes, and the proof of all other
//! rows.

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Error, Row as _};

use super::records::Records;
use super::rows::{signed, unsigned};
use super::seal::{Encoder, Row, RowKeys, SetDigest};
use super::statement::query;
use super::{Head, Incident, StoreError};
use crate::revocation::{EpochKind, Usage};

/// Number of versions that the row remembers. A replica or proxy at a newer version that is not
/// among them comes from a lost branch.
const RECENT: usize = 64;

/// Columns that are read; `mac` covers those before it. The lease of the lead and `records` are not
/// covered, because they change all the time. An attacker who can write them can also remove worker
/// rows, which have no MAC either.
macro_rules! columns {
    () => {
        "version, next_index, rotation_requested, incident_since, incident, recent, rows_used, \
         digest, mac, records"
    };
}
pub(super) use columns;

/// Content of the row.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) version: u64,
    pub(super) next_index: u64,
    pub(super) rotation_requested: Option<u64>,
    pub(super) incident: Option<Incident>,
    /// Time at which the latest incident was found, also after its end.
    pub(super) latest_loss: Option<u64>,
    /// The latest versions before this one, oldest first.
    pub(super) recent: Vec<u64>,
    /// Number of revocations, and of bytes in their names.
    pub(super) used: Used,
    /// Digest of keys, revocations and epochs.
    pub(super) set: SetDigest,
    /// Numbers of the latest writes of workers' records.
    pub(super) records: Records,
}

/// Numbers of rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) keys: u64,
    pub(super) tokens: u64,
    /// For each kind of epoch: the number of names and their total length in bytes.
    pub(super) names: Vec<(EpochKind, u64, u64)>,
}

impl Used {
    /// Counts an added epoch.
    pub(super) fn named(&mut self, kind: EpochKind, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        match self.names.iter_mut().find(|(other, ..)| *other == kind) {
            Some((_, count, sum)) => {
                (*count, *sum) = (count.saturating_add(1), sum.saturating_add(bytes));
            }
            None => self.names.push((kind, 1, bytes)),
        }
    }

    /// Counts a removed epoch.
    pub(super) fn forgot(&mut self, kind: EpochKind, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        if let Some((_, count, sum)) = self.names.iter_mut().find(|(other, ..)| *other == kind) {
            (*count, *sum) = (count.saturating_sub(1), sum.saturating_sub(bytes));
        }
    }

    pub(super) fn usage(&self, span: u64) -> Usage {
        Usage {
            tokens: self.tokens,
            span,
            names: self.names.clone(),
        }
    }

    fn text(&self) -> String {
        let mut text = format!("{} {}", self.keys, self.tokens);
        for (kind, count, bytes) in &self.names {
            text.push_str(&format!(" {} {count} {bytes}", kind.name()));
        }
        text
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let mut used = Self {
            keys: words.next()?.parse().ok()?,
            tokens: words.next()?.parse().ok()?,
            names: Vec::new(),
        };
        while let Some(kind) = words.next() {
            let kind = EpochKind::parse(kind)?;
            used.names.push((
                kind,
                words.next()?.parse().ok()?,
                words.next()?.parse().ok()?,
            ));
        }
        Some(used)
    }
}

/// Columns under the MAC, in their stored form.
struct Columns {
    version: u64,
    next_index: u64,
    rotation_requested: Option<u64>,
    incident_since: Option<u64>,
    incident: Option<String>,
    recent: String,
    rows_used: String,
    digest: String,
}

impl Row for Columns {
    const TABLE: &'static str = "meshseal_state";

    fn name(&self) -> String {
        "state".to_owned()
    }

    fn encode(&self, out: &mut Encoder) {
        // Exhaustive, so that a new column cannot be left without a MAC.
        let Self {
            version,
            next_index,
            rotation_requested,
            incident_since,
            incident,
            recent,
            rows_used,
            digest,
        } = self;
        out.number(*version);
        out.number(*next_index);
        out.optional(
            rotation_requested
                .map(u64::to_le_bytes)
                .as_ref()
                .map(<[u8; 8]>::as_slice),
        );
        out.optional(
            incident_since
                .map(u64::to_le_bytes)
                .as_ref()
                .map(<[u8; 8]>::as_slice),
        );
        out.optional(incident.as_ref().map(String::as_bytes));
        out.text(recent);
        out.text(rows_used);
        out.text(digest);
    }
}

impl State {
    /// Reads the row and checks its MAC.
    pub(super) async fn read(
        connection: &mut AnyConnection,
        keys: &RowKeys,
    ) -> Result<Self, StoreError> {
        let sql = concat!("SELECT ", columns!(), " FROM meshseal_state WHERE id = 2");
        Self::of(&query(sql).fetch_one(connection).await?, keys)
    }

    /// Takes the lock that orders all changes, reads the row and checks its MAC.
    pub(super) async fn lock(
        transaction: &mut AnyConnection,
        keys: &RowKeys,
    ) -> Result<Self, StoreError> {
        Self::of(&lock(transaction).await?, keys)
    }

    /// Checks the MAC of a row of `meshseal_state` and decodes it.
    pub(super) fn of(row: &AnyRow, keys: &RowKeys) -> Result<Self, StoreError> {
        let columns = Columns {
            version: unsigned(row, "version")?,
            next_index: unsigned(row, "next_index")?,
            rotation_requested: optional(row, "rotation_requested")?,
            incident_since: optional(row, "incident_since")?,
            incident: row.try_get("incident")?,
            recent: row.try_get("recent")?,
            rows_used: row.try_get("rows_used")?,
            digest: row.try_get("digest")?,
        };
        // The MAC comes first: nothing of the row is used unproven.
        keys.check(
            &columns,
            row.try_get::<Option<String>, _>("mac")?.as_deref(),
        )?;
        let recent = columns
            .recent
            .split_ascii_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>();
        // After the end of an incident the row keeps its time, without the reason.
        let latest_loss = columns.incident_since;
        let incident = latest_loss.zip(columns.incident);
        Ok(Self {
            version: columns.version,
            next_index: columns.next_index,
            rotation_requested: columns.rotation_requested,
            incident: incident.map(|(since, reason)| Incident { since, reason }),
            latest_loss,
            recent: recent.map_err(|_| malformed())?,
            used: Used::parse(&columns.rows_used).ok_or_else(malformed)?,
            set: SetDigest::unmasked(&columns.digest, keys).ok_or_else(malformed)?,
            records: Records::parse(row.try_get("records")?),
        })
    }

    /// Raises the version, and adds lost versions to the history.
    pub(super) fn advance(&mut self, version: u64, lost: &[u64]) {
        // Lost versions may be older than the present one, so the list is sorted again.
        self.recent.push(self.version);
        self.recent.extend_from_slice(lost);
        self.recent.sort_unstable();
        self.recent.dedup();
        let surplus = self.recent.len().saturating_sub(RECENT);
        self.recent.drain(..surplus);
        self.version = version;
    }

    /// Writes the row, under the lock.
    pub(super) async fn save(
        &self,
        transaction: &mut AnyConnection,
        keys: &RowKeys,
    ) -> Result<(), StoreError> {
        let recent: Vec<String> = self.recent.iter().map(u64::to_string).collect();
        let columns = Columns {
            version: self.version,
            next_index: self.next_index,
            rotation_requested: self.rotation_requested,
            incident_since: self.latest_loss,
            incident: self
                .incident
                .as_ref()
                .map(|incident| incident.reason.clone()),
            recent: recent.join(" "),
            rows_used: self.used.text(),
            digest: self.set.masked(keys)?,
        };
        let mac = keys.mac(&columns);
        let sql = "UPDATE meshseal_state SET version = $1, next_index = $2,
                   rotation_requested = $3, incident_since = $4, incident = $5, recent = $6,
                   rows_used = $7, digest = $8, mac = $9 WHERE id = 2";
        let update = query(sql)
            .bind(signed(columns.version))
            .bind(signed(columns.next_index))
            .bind(columns.rotation_requested.map(signed))
            .bind(columns.incident_since.map(signed))
            .bind(columns.incident)
            .bind(columns.recent)
            .bind(columns.rows_used)
            .bind(columns.digest)
            .bind(mac);
        update.execute(transaction).await?;
        Ok(())
    }

    /// Returns the head; `seen` is the latest write of worker records that this program has seen.
    pub(super) fn head(&self, seen: u64) -> Head {
        Head {
            lost_records: !self.records.include(seen),
            version: self.version,
            next_index: self.next_index,
            rotation_requested: self.rotation_requested,
            incident: self.incident.clone(),
            latest_loss: self.latest_loss,
        }
    }
}

/// Takes the lock that orders all changes. Returns the row with its MAC unchecked.
pub(super) async fn lock(transaction: &mut AnyConnection) -> Result<AnyRow, Error> {
    // The update changes nothing, but both databases take a write lock for it.
    let sql = concat!(
        "UPDATE meshseal_state SET version = version WHERE id = 2 RETURNING ",
        columns!()
    );
    query(sql).fetch_one(transaction).await
}

/// Returns the error for a row whose columns cannot be decoded.
fn malformed() -> StoreError {
    StoreError::Tampered("row `state` of meshseal_state".to_owned())
}

fn optional(row: &AnyRow, column: &str) -> Result<Option<u64>, Error> {
    Ok(row
        .try_get::<Option<i64>, _>(column)?
        .and_then(|value| u64::try_from(value).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_survive_their_text_form() {
        let mut used = Used {
            keys: 4,
            tokens: 7,
            names: Vec::new(),
        };
        for (kind, name) in [
            (EpochKind::Subject, "alice"),
            (EpochKind::All, ""),
            (EpochKind::Subject, "bob"),
        ] {
            used.named(kind, name.len());
        }
        assert_eq!(
            used.names,
            [(EpochKind::Subject, 2, 8), (EpochKind::All, 1, 0)]
        );
        assert_eq!(Used::parse(&used.text()), Some(used.clone()));
        used.forgot(EpochKind::Subject, 3);
        assert_eq!(
            used.names,
            [(EpochKind::Subject, 1, 5), (EpochKind::All, 1, 0)]
        );
        for text in ["", "1", "1 x", "1 2 subject 3", "1 2 nobody 3 4"] {
            assert_eq!(Used::parse(text), None, "{text}");
        }
    }

    #[test]
    fn recent_versions_are_bounded() {
        let mut state = State::default();
        (1..=100).for_each(|version| state.advance(version, &[]));
        assert_eq!(
            (state.version, state.recent.len(), state.recent.last()),
            (100, RECENT, Some(&99))
        );
    }
}
