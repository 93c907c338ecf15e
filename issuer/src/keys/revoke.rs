//! Emergency replacement of a key that may have been stolen.

use super::keeper::{make, policies};
use super::pins::{is_pinned, standby};
use super::{GenerateError, KeyChange, KeyRecord, KeyState, Purpose};
use crate::config::MAX_TOKEN_LIFE_S;
use crate::issuer::Issuer;
use crate::revocation::{EpochKind, EpochRecord};
use crate::store::{Change, StoreError};

/// Attempts, in case other writers change the state at the same time.
const ATTEMPTS: u32 = 20;

/// Error of a key revocation.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// No key with this `kid` or purpose exists.
    #[error("no such key; `meshseal keys list` shows all keys")]
    Unknown,
    /// No pinned bundle key can replace it.
    #[error("{0}")]
    NotPinned(String),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A replacement could not be generated.
    #[error(transparent)]
    Generate(#[from] GenerateError),
}

/// Revokes a key at once: it leaves the bundle and no longer signs. The standby replaces it, even
/// unconfirmed. A bundle key is replaced only by a key that every proxy pins, unless `forced`.
///
/// # Errors
/// [`RevokeError`].
pub async fn revoke(issuer: &Issuer, kid: &str, forced: bool) -> Result<u64, RevokeError> {
    for _ in 0..ATTEMPTS {
        issuer.publisher.refresh().await?;
        let published = issuer.publisher.current();
        let key = published
            .keys
            .iter()
            .find(|key| key.kid == kid)
            .ok_or(RevokeError::Unknown)?;
        let now = issuer.clock.now();
        let mut keys = vec![enter(kid, KeyState::Retired, now)];
        // An active key needs a replacement: the standby, or a new key.
        let mut risk = None;
        if key.state == KeyState::Active {
            let next = standby(&published.keys, key.purpose);
            risk = unready(issuer, key.purpose, next).await;
            if let Some(risk) = &risk
                && key.purpose == Purpose::Bundle
                && !forced
            {
                return Err(RevokeError::NotPinned(risk.clone()));
            }
            let policy = policies(&issuer.config, 0)
                .into_iter()
                .find(|policy| policy.purpose == key.purpose);
            keys.push(match (next, policy) {
                (Some(next), _) => enter(&next.kid, KeyState::Active, now),
                (None, Some(policy)) => KeyChange::Insert(
                    make(&policy, KeyState::Active, now, now, issuer.master()).await?,
                ),
                (None, None) => return Err(RevokeError::Unknown),
            });
        }
        // The tokens that the key signed are revoked with it.
        let epochs = if key.purpose == Purpose::Token {
            vec![key_epoch(kid, now)]
        } else {
            Vec::new()
        };
        let change = Change {
            expected_version: Some(published.version()),
            keys,
            epochs,
            ..Change::default()
        };
        if let Some(version) = attempt(issuer, &change, risk.as_deref()).await? {
            return Ok(version);
        }
    }
    Err(StoreError::Conflict.into())
}

/// Makes the standby sign at once, even if some verifiers do not have it.
///
/// # Errors
/// [`RevokeError`].
pub async fn promote(issuer: &Issuer, purpose: Purpose) -> Result<u64, RevokeError> {
    for _ in 0..ATTEMPTS {
        issuer.publisher.refresh().await?;
        let published = issuer.publisher.current();
        let next = standby(&published.keys, purpose).ok_or(RevokeError::Unknown)?;
        let now = issuer.clock.now();
        let old = published
            .keys
            .iter()
            .find(|key| key.purpose == purpose && key.state == KeyState::Active)
            .map(|key| enter(&key.kid, KeyState::Draining, now));
        // Both steps are one change, so that exactly one key is active.
        let keys = old
            .into_iter()
            .chain([enter(&next.kid, KeyState::Active, now)])
            .collect();
        let risk = unready(issuer, purpose, Some(next)).await;
        let change = Change {
            expected_version: Some(published.version()),
            keys,
            ..Change::default()
        };
        if let Some(version) = attempt(issuer, &change, risk.as_deref()).await? {
            issuer.metrics.rotations.increment();
            return Ok(version);
        }
    }
    Err(StoreError::Conflict.into())
}

fn enter(kid: &str, state: KeyState, since: u64) -> KeyChange {
    KeyChange::Enter {
        kid: kid.to_owned(),
        state,
        since,
    }
}

/// Commits the change. With a `risk` it counts as a forced rotation. Returns `None` if another
/// change came first.
async fn attempt(
    issuer: &Issuer,
    change: &Change,
    risk: Option<&str>,
) -> Result<Option<u64>, StoreError> {
    match issuer.publisher.commit(change).await {
        Err(StoreError::Conflict) => Ok(None),
        Err(error) => Err(error),
        Ok(version) => {
            if let Some(risk) = risk {
                issuer.metrics.forced_rotations.increment();
                tracing::error!(version, risk, "forced rotation");
            }
            // The key manager prepares the next standby.
            issuer.keeper_wanted.notify_one();
            Ok(Some(version))
        }
    }
}

/// Describes which verifiers may not have the key that is to sign.
async fn unready(issuer: &Issuer, purpose: Purpose, next: Option<&KeyRecord>) -> Option<String> {
    let Some(next) = next else {
        return Some("no verifier has the key, which is new".to_owned());
    };
    // The first reason that applies is reported.
    let live = issuer.live_proxies().await;
    match purpose {
        Purpose::Bundle if !is_pinned(next, &live) => {
            let (pinned, all) = (live.pins(&next.kid).0, live.proxies.len());
            Some(format!(
                "bundle key {} is pinned by {pinned} of {all} proxies; \
                 the others reject its bundles",
                next.kid
            ))
        }
        Purpose::Token if issuer.clock.now() < next.ready_at => Some(format!(
            "readers of /jwks may not have key {} yet",
            next.kid
        )),
        Purpose::Token if live.confirmed() < next.published => {
            Some(format!("not every proxy has confirmed key {}", next.kid))
        }
        Purpose::Bundle | Purpose::Token => None,
    }
}

/// Returns an epoch that revokes every token that a key has signed until now.
pub(crate) fn key_epoch(kid: &str, now: u64) -> EpochRecord {
    // Tokens may carry this very second as `iat`.
    let before = now.saturating_add(1);
    let expires_at = before.saturating_add(MAX_TOKEN_LIFE_S);
    EpochRecord {
        kind: EpochKind::Kid,
        name: kid.to_owned(),
        before,
        expires_at,
    }
}
