//! Recognition of this issuer's own tokens: core's validation, then revocation.

use meshseal_core::authn::{JwtRule, Verified, validate_with};
use meshseal_core::base64url;
use meshseal_core::limits::MAX_CLOCK_SKEW_S;
use meshseal_core::rejection::Rejection;
use meshseal_core::revocation::index_of;
use serde_json::Value;

use crate::bundle::Published;
use crate::config::Config;

/// Returns the token if a key of this issuer signed it and it has not expired, by the largest clock
/// skew that a proxy may allow. The token may be revoked.
///
/// Issuer and key alone identify the token: its service may have been removed from the
/// configuration while proxies still accept the token. Another replica, whose clock is ahead by up
/// to the same skew, may have dated it.
///
/// # Errors
/// The first check that fails.
pub fn signed_by_us(
    config: &Config,
    published: &Published,
    token: &str,
    now: u64,
) -> Result<Verified, Rejection> {
    // Accepting the token's own audiences disables the check of `aud`.
    let mut rule = JwtRule::new(&config.issuer, claimed_audiences(token));
    rule.clock_skew = MAX_CLOCK_SKEW_S;
    validate_with(token, &published.verifiers, &rule, now, &*published.tables)
}

/// Returns the token if it is valid and not revoked.
#[must_use]
pub fn own_token(
    config: &Config,
    published: &Published,
    token: &str,
    now: u64,
) -> Option<Verified> {
    let verified = signed_by_us(config, published, token, now).ok()?;
    let claims = verified.claims();
    let expires_at = claims
        .expires_at()?
        .saturating_add(config.tokens.clock_skew_s);
    // Revocation by token, by key and by group. A token without an index could not be revoked, so
    // it counts as revoked.
    let trust = published.trust(&config.issuer)?;
    let revoked = claims
        .jti()
        .and_then(index_of)
        .is_none_or(|index| trust.revoked.contains(index));
    let key_revoked = verified
        .kid()
        .is_some_and(|kid| trust.epochs.revokes_key(kid));
    let alive =
        now < expires_at && !revoked && !key_revoked && trust.epochs.revokes(claims).is_none();
    alive.then_some(verified)
}

/// Returns the unverified `aud` of a token.
fn claimed_audiences(token: &str) -> Vec<Box<str>> {
    let payload = token.split('.').nth(1).and_then(base64url::decode);
    let claims: Option<Value> = payload.and_then(|payload| serde_json::from_slice(&payload).ok());
    match claims.as_ref().and_then(|claims| claims.get("aud")) {
        Some(Value::String(audience)) => vec![audience.as_str().into()],
        Some(Value::Array(audiences)) => audiences
            .iter()
            .filter_map(Value::as_str)
            .map(Into::into)
            .collect(),
        _ => Vec::new(),
    }
}
