//! Client assertions, `private_key_jwt` (RFC 7523 §3 as tightened by draft-ietf-oauth-rfc7523bis):
//! I10.

use meshseal_core::authn::{JwtRule, TokenType, hints, validate_with};
use meshseal_core::keys::{KeySet, KeyTables};
use meshseal_core::rejection::Rejection;

use super::replay::assertion_id;
use crate::clock::MAX_STEP_MS;
use crate::store::AssertionUse;

/// `client_assertion_type` of a JWT.
pub const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// Longest lifetime of an assertion in seconds.
const MAX_LIFETIME_S: u64 = 300;

/// Longest `jti` in bytes.
const MAX_JTI_BYTES: usize = 256;

/// A valid assertion that may have been used before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asserted {
    /// Id and expiry, by which its single use is recorded.
    pub(super) once: AssertionUse,
    /// Claim `iat` (Unix seconds).
    issued_at: Option<u64>,
}

impl Asserted {
    /// Returns whether the assertion may have been used before an incident was found at `since`
    /// (Unix seconds), so that the database may have lost that use. Every replica would have
    /// rejected it at that time if its `iat` was in the future, or its lifetime too long, on the
    /// clock that is most ahead.
    pub(super) fn may_precede(&self, since: u64, skew_s: u64) -> bool {
        let latest_iat = since
            .saturating_add(MAX_STEP_MS / 1_000)
            .saturating_add(skew_s);
        let latest_expiry = latest_iat
            .saturating_add(MAX_LIFETIME_S)
            .saturating_add(skew_s);
        let is_later = self
            .issued_at
            .is_some_and(|issued_at| issued_at > latest_iat);
        !is_later && self.once.expires_at <= latest_expiry
    }
}

/// Returns the unverified client id of an assertion, which `iss` and `sub` must state alike.
pub(super) fn claimed_client(assertion: &str) -> Option<String> {
    let hints = hints(assertion)?;
    (hints.issuer == hints.subject)
        .then_some(hints.issuer)
        .flatten()
        .map(Into::into)
}

/// Validates an assertion of this client for this issuer.
///
/// # Errors
/// Reason of the failure, for counters and logs. Clients do not learn it, because it would help a
/// forger.
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
    // The rule accepts an `aud` that contains the issuer identifier. It must be the only audience:
    // otherwise an assertion for this issuer could be used at another server.
    let only_us = claims.audiences().count() == 1;
    let jti = claims
        .jti()
        .filter(|jti| !jti.is_empty() && jti.len() <= MAX_JTI_BYTES);
    match (subject, only_us, jti) {
        (false, ..) => Err("subject-mismatch"),
        (true, false, _) => Err("audience-mismatch"),
        (true, true, None) => Err("claim-missing"),
        (true, true, Some(jti)) => Ok(Asserted {
            once: AssertionUse {
                id: assertion_id(client, jti),
                expires_at: verified.expires_at(),
            },
            issued_at: claims.issued_at(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detects_uses_possible_before_incident() {
        let (since, skew_s) = (10_000, 30);
        for (issued_at, exp, may_precede) in [
            (Some(9_990), 10_050, true),
            (Some(10_035), 10_095, true),
            (Some(10_036), 10_095, false),
            (None, 10_335, true),
            (None, 10_336, false),
        ] {
            let once = AssertionUse {
                id: 1,
                expires_at: exp + skew_s,
            };
            let asserted = Asserted { once, issued_at };
            let found = asserted.may_precede(since, skew_s);
            assert_eq!(found, may_precede, "{issued_at:?} {exp}");
        }
    }
}
