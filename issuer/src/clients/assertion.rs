//! `private_key_jwt` (RFC 7523 §3 as tightened by draft-ietf-oauth-rfc7523bis): I10.

use meshseal_core::authn::{JwtRule, TokenType, hints, validate_with};
use meshseal_core::keys::{KeySet, KeyTables};
use meshseal_core::rejection::Rejection;

/// `client_assertion_type` of a JWT.
pub const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// Longest life of an assertion in seconds.
const MAX_LIFETIME_S: u64 = 300;

/// Longest `jti` in bytes.
const MAX_JTI_BYTES: usize = 256;

/// An assertion that holds: all that is left is to see that it is used once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asserted {
    /// Its `jti`.
    pub(super) jti: String,
    /// When it can no longer be used, Unix seconds.
    pub(super) expires_at: u64,
}

/// The client that an assertion says it is from. Not proven.
pub(super) fn claimed_client(assertion: &str) -> Option<String> {
    let hints = hints(assertion)?;
    (hints.issuer == hints.subject)
        .then_some(hints.issuer)
        .flatten()
        .map(Into::into)
}

/// Checks an assertion of this client for this issuer.
///
/// # Errors
/// The failed check, for counters and logs. Callers do not learn it, because that would help
/// forging.
pub(super) fn check(
    assertion: &str,
    client: &str,
    keys: &KeySet,
    issuer: &str,
    skew_s: u64,
    now: u64,
    verifier: &KeyTables,
) -> Result<Asserted, &'static str> {
    let mut rule = JwtRule::new(client, vec![issuer.into()]);
    rule.token_types = vec![TokenType::ClientAuthentication, TokenType::Jwt];
    rule.clock_skew = skew_s;
    rule.max_lifetime = MAX_LIFETIME_S;
    let verified = validate_with(assertion, keys, &rule, now, verifier).map_err(Rejection::code)?;
    let claims = verified.claims();
    let subject = claims.subject() == Some(client);
    // The issuer identifier and nothing else: an assertion for us must be of no use anywhere else.
    let only_us = claims.audiences().count() == 1;
    let jti = claims
        .jti()
        .filter(|jti| !jti.is_empty() && jti.len() <= MAX_JTI_BYTES);
    match (subject, only_us, jti) {
        (false, ..) => Err("subject-mismatch"),
        (true, false, _) => Err("audience-mismatch"),
        (true, true, None) => Err("claim-missing"),
        (true, true, Some(jti)) => Ok(Asserted {
            jti: jti.to_owned(),
            expires_at: verified.expires_at(),
        }),
    }
}
