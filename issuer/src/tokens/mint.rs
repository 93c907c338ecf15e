//! Minting: claims of RFC 9068 §2.2, signed.

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

/// Makes a token. `index` is never used twice, which makes `jti` unique (I5); eight random bytes make it unguessable.
///
/// # Errors
/// [`SignerError::Signing`].
pub fn mint(
    signer: &Signer,
    issuer: &str,
    trust: &IssuerTrust,
    grant: &Grant<'_>,
    index: u64,
    now: u64,
) -> Result<String, SignerError> {
    let mut random = [0; 8];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| SignerError::Signing)?;
    let jti = jti_with_index(index, random);
    let issued_at = issued_at(trust, grant.client, now);
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

/// Now; or, in the very second in which the client's tokens were revoked, the next one, so that the new token is not
/// taken for one of those.
fn issued_at(trust: &IssuerTrust, client: &str, now: u64) -> u64 {
    let epochs = &trust.epochs;
    let all = [epochs.all, epochs.client.get(client).copied(), epochs.sub.get(client).copied()];
    all.into_iter().flatten().fold(now, u64::max)
}
