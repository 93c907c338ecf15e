//! Conversion between rows and values. Databases have no unsigned 64-bit integers, but times,
//! versions and indices fit in 63 bits.

use sqlx::any::AnyRow;
use sqlx::{Error, Row as _};

use super::StoreError;
use crate::bundle::ProxyRecord;
use crate::keys::{Algorithm, KeyRecord, KeyState, Purpose};
use crate::revocation::{EpochKind, EpochRecord, RevokedToken};

/// Converts to the type of the column; larger values become `i64::MAX`.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Reads a number; a negative one becomes 0.
pub(super) fn unsigned(row: &AnyRow, column: &str) -> Result<u64, Error> {
    Ok(u64::try_from(row.try_get::<i64, _>(column)?).unwrap_or(0))
}

/// Reads a word that must be one of a fixed set. An unknown word is an error, because skipping the
/// row would drop a key or a revocation. The error names the row by its key column, and the remedy.
pub(super) fn word<T>(
    row: &AnyRow,
    key: &str,
    column: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<T, Error> {
    let text: String = row.try_get(column)?;
    parse(&text).ok_or_else(|| {
        // The key column tells the operator which row to look at.
        let name: String = row.try_get(key).unwrap_or_default();
        let unknown = format!(
            "the row with {key} `{name}` has {column} `{text}`, which this meshseal does not know: \
             a newer one wrote it; upgrade this replica"
        );
        Error::Decode(unknown.into())
    })
}

pub(super) fn key(row: &AnyRow) -> Result<KeyRecord, Error> {
    Ok(KeyRecord {
        kid: row.try_get("kid")?,
        purpose: word(row, "kid", "purpose", Purpose::parse)?,
        algorithm: word(row, "kid", "algorithm", Algorithm::parse)?,
        state: word(row, "kid", "state", KeyState::parse)?,
        since: unsigned(row, "since")?,
        published: unsigned(row, "published")?,
        ready_at: unsigned(row, "ready_at")?,
        drain_s: unsigned(row, "drain_s")?,
        public_jwk: row.try_get("public_jwk")?,
        sealed: row.try_get("sealed")?,
    })
}

/// A row of `meshseal_revoked`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Revocation {
    pub(super) token: RevokedToken,
    /// Client that revoked it first.
    pub(super) revoked_by: String,
}

pub(super) fn revocation(row: &AnyRow) -> Result<Revocation, Error> {
    let token = RevokedToken {
        index: unsigned(row, "token_index")?,
        expires_at: unsigned(row, "expires_at")?,
    };
    Ok(Revocation {
        token,
        revoked_by: row.try_get("revoked_by")?,
    })
}

/// Parses index, expiry and client, separated by spaces.
pub(super) fn revocation_text(text: &str) -> Option<Revocation> {
    let (index, rest) = text.split_once(' ')?;
    let (expires_at, revoked_by) = rest.split_once(' ')?;
    let token = RevokedToken {
        index: index.parse().ok()?,
        expires_at: expires_at.parse().ok()?,
    };
    Some(Revocation {
        token,
        revoked_by: revoked_by.to_owned(),
    })
}

/// Returns the MAC of a row; `None` if it never had one.
pub(super) fn mac(row: &AnyRow) -> Result<Option<String>, Error> {
    row.try_get("mac")
}

pub(super) fn epoch(row: &AnyRow) -> Result<EpochRecord, Error> {
    Ok(EpochRecord {
        kind: word(row, "name", "kind", EpochKind::parse)?,
        name: row.try_get("name")?,
        before: unsigned(row, "before")?,
        expires_at: unsigned(row, "expires_at")?,
    })
}

pub(super) fn proxy(row: &AnyRow) -> Result<ProxyRecord, Error> {
    Ok(ProxyRecord {
        worker: row.try_get("worker")?,
        node: row.try_get("node")?,
        version: unsigned(row, "version")?,
        seen_at: unsigned(row, "seen_at")?,
        protocol: u32::try_from(unsigned(row, "protocol")?).unwrap_or(u32::MAX),
        pins: row.try_get("pins")?,
        accepts_until: unsigned(row, "accepts_until")?,
    })
}

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        Self::Unavailable(error.into())
    }
}
