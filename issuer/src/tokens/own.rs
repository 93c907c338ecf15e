//! Recognising a token of our own: core's checks, then revocation.

use meshseal_core::config::JwtRule;
use meshseal_core::revocation::index_of;
use meshseal_core::validate::{Verified, validate_with};

use crate::bundle::Published;
use crate::config::Config;

/// The token, if we signed it for one of our services and its time, with so much leeway, is not over. It may be revoked.
#[must_use]
pub fn signed_by_us(config: &Config, published: &Published, token: &str, now: u64, skew_s: u64) -> Option<Verified> {
    let audiences = config.services.iter().map(|service| service.audience.as_str().into()).collect();
    let mut rule = JwtRule::new(&config.issuer, audiences);
    rule.clock_skew = skew_s;
    validate_with(token, &published.verifiers, &rule, now, &*published.tables).ok()
}

/// The token, if it is good now.
#[must_use]
pub fn own_token(config: &Config, published: &Published, token: &str, now: u64) -> Option<Verified> {
    let verified = signed_by_us(config, published, token, now, config.tokens.clock_skew_s)?;
    let claims = verified.claims();
    let trust = published.trust(&config.issuer)?;
    let revoked = claims.jti().and_then(index_of).is_none_or(|index| trust.revoked.contains(index));
    let key_revoked = verified.kid().is_some_and(|kid| trust.epochs.revokes_key(kid));
    let alive = !revoked && !key_revoked && trust.epochs.revokes(claims).is_none();
    alive.then_some(verified)
}
