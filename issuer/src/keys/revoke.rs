//! Emergency: a key that was, or may have been, stolen.

use super::keeper::{make, policies};
use super::{GenerateError, KeyChange, KeyRecord, KeyState, Purpose};
use crate::config::MAX_TOKEN_LIFE_S;
use crate::issuer::Issuer;
use crate::revocation::{EpochKind, EpochRecord};
use crate::store::{Change, StoreError};

/// Tries against others who change the state at the same time.
const ATTEMPTS: u32 = 20;

/// Why a key was not revoked.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// There is no such key.
    #[error("there is no such key")]
    Unknown,
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No key could be made to take its place.
    #[error(transparent)]
    Generate(#[from] GenerateError),
}

/// Takes a key out of use at once: it leaves the bundle and signs no more; the standby takes its place, confirmed or not.
///
/// # Errors
/// [`RevokeError`].
pub async fn revoke(issuer: &Issuer, kid: &str) -> Result<u64, RevokeError> {
    for _ in 0..ATTEMPTS {
        issuer.publisher.refresh().await?;
        let published = issuer.publisher.current();
        let key = published.keys.iter().find(|key| key.kid == kid).ok_or(RevokeError::Unknown)?;
        let now = issuer.clock.now();
        let enter = |kid: &str, state: KeyState| KeyChange::Enter { kid: kid.to_owned(), state, since: now };
        let mut keys = vec![enter(kid, KeyState::Retired)];
        if key.state == KeyState::Active {
            let same = |other: &&KeyRecord| other.purpose == key.purpose && other.state == KeyState::Next;
            let policy = policies(&issuer.config, 0).into_iter().find(|policy| policy.purpose == key.purpose);
            keys.push(match (published.keys.iter().find(same), policy) {
                (Some(standby), _) => enter(&standby.kid, KeyState::Active),
                (None, Some(policy)) => KeyChange::Insert(make(&policy, KeyState::Active, now, issuer.master()).await?),
                (None, None) => return Err(RevokeError::Unknown),
            });
        }
        let epochs = if key.purpose == Purpose::Token { vec![key_epoch(kid, now)] } else { Vec::new() };
        let change = Change { expected_version: Some(published.version()), keys, epochs, ..Change::default() };
        match issuer.publisher.commit(&change).await {
            Err(StoreError::Conflict) => {}
            committed => {
                issuer.keeper_wanted.notify_one();
                return Ok(committed?);
            }
        }
    }
    Err(StoreError::Conflict.into())
}

fn key_epoch(kid: &str, now: u64) -> EpochRecord {
    let before = now.saturating_add(1);
    let expires_at = before.saturating_add(MAX_TOKEN_LIFE_S);
    EpochRecord { kind: EpochKind::Kid, name: kid.to_owned(), before, expires_at }
}
