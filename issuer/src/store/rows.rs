//! Between rows and values. Databases have no unsigned 64-bit integers; times, versions and indices fit in 63 bits.

use sqlx::any::AnyRow;
use sqlx::{Error, Row as _};

use super::{Head, StoreError};
use crate::bundle::ProxyRecord;
use crate::keys::{Algorithm, KeyRecord, KeyState, Purpose};
use crate::revocation::{EpochKind, EpochRecord, RevokedToken};

/// As the database has it; what does not fit is as large as can be.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(row: &AnyRow, column: &str) -> Result<u64, Error> {
    Ok(u64::try_from(row.try_get::<i64, _>(column)?).unwrap_or(0))
}

/// Reads a word that must be one of a few. An unknown one is an error that names the row by its key column, and the remedy:
/// to pass over it would drop a key or a revocation.
pub(super) fn word<T>(row: &AnyRow, key: &str, column: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T, Error> {
    let text: String = row.try_get(column)?;
    parse(&text).ok_or_else(|| {
        let name: String = row.try_get(key).unwrap_or_default();
        let unknown = format!(
            "the row with {key} `{name}` has {column} `{text}`, which this meshseal does not know: a newer one wrote it; \
             upgrade this replica"
        );
        Error::Decode(unknown.into())
    })
}

pub(super) fn head(row: &AnyRow) -> Result<Head, Error> {
    let requested: Option<i64> = row.try_get("rotation_requested")?;
    Ok(Head { version: unsigned(row, "version")?, rotation_requested: requested.and_then(|at| u64::try_from(at).ok()) })
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

/// Of index and expiry with a space between.
pub(super) fn revoked(text: &str) -> Result<RevokedToken, Error> {
    let numbers = text.split_once(' ').and_then(|(index, expires)| Some((index.parse().ok()?, expires.parse().ok()?)));
    let (index, expires_at) = numbers.ok_or_else(|| Error::Decode(format!("a revoked token reads `{text}`").into()))?;
    Ok(RevokedToken { index, expires_at })
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
