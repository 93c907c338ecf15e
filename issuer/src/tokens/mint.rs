//! Minting of access tokens with the claims of RFC 9068 §2.2.

use meshseal_core::bundle::IssuerTrust;
use meshseal_core::revocation::jti_with_index;
use serde::Serialize;

use super::Grant;
use crate::keys::{Signer, SignerError};

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    exp: u64,
    iat: u64,
    jti: &'a str,
    client_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    scope: &'a str,
}

/// Mints a token. INVARIANT: `index` is never used twice, which makes `jti` unique (I5). Eight
/// random bytes make `jti` unguessable.
///
/// # Errors
/// [`SignerError::Signing`].
pub fn mint(
    signer: &Signer,
    issuer: &str,
    grant: &Grant<'_>,
    index: u64,
    issued_at: u64,
) -> Result<String, SignerError> {
    let mut random = [0; 8];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| SignerError::Signing)?;
    let jti = jti_with_index(index, random);
    let claims = Claims {
        iss: issuer,
        sub: grant.client,
        aud: grant.audience,
        exp: issued_at.saturating_add(grant.lifetime_s),
        iat: issued_at,
        jti: &jti,
        client_id: grant.client,
        scope: &grant.scope,
    };
    let claims = serde_json::to_vec(&claims).map_err(|_| SignerError::Signing)?;
    signer.token(&claims)
}

/// Returns the earliest `iat` (Unix seconds) with which a token of this client is not revoked by an
/// epoch.
#[must_use]
pub fn earliest_issue(trust: &IssuerTrust, client: &str) -> u64 {
    let epochs = &trust.epochs;
    let all = [
        epochs.all,
        epochs.client.get(client).copied(),
        epochs.sub.get(client).copied(),
    ];
    all.into_iter().flatten().max().unwrap_or(0)
}
