//! Token validation, and the order of its checks (V14), which is stated here only.
//!
//! ```text
//! 1 form        one encoding, bounded length      token-too-large, token-malformed,
//!                                                 signature-too-long
//! 2 header      strict JSON, no crit, known alg   header-too-large, header-malformed,
//!                                                 token-too-deep, kid-too-long, …
//! 3 claims      strict JSON, registered types     claims-malformed, token-too-deep
//! 4 issuer      a rule for exactly this iss       issuer-unknown
//! 5 type, alg   allowed by the rule               type-not-allowed, algorithm-not-allowed
//! 6 key         the issuer's own, one algorithm   keys-unavailable, keys-stale, key-revoked,
//!                                                 key-unknown, key-ambiguous,
//!                                                 algorithm-mismatch
//! 7 claims      exp, nbf, iat, aud, required      claim-missing, audience-mismatch,
//!                                                 token-expired, …
//! 8 binding     no proof of possession            binding-unsupported
//! 9 signature                                     signature-invalid
//! 10 revocation token, then epochs                token-revoked, …
//! ```
//!
//! An issuer may have several rules, each with its own keys. Steps 5 to 8 run for each of them; the
//! signature selects the rule that applies.
//!
//! Steps 4 to 8 read unverified claims and can only reject: the expensive step (signature) comes
//! after the cheap ones. The claims become accessible after step 10, through [`Verified`].
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::LazyCell;

use super::trust::{Revocations, Trust};
use super::{JwtRule, RequestAuthentication, TokenType};
use crate::jose::claims::texts;
use crate::jose::header::{Header, Kid};
use crate::jose::token::{Compact, Signature};
use crate::jose::{Alg, Claims};
use crate::keys::{Key, KeyId, KeySet, Portable, SignatureVerifier};
use crate::rejection::{Class, Rejection};

/// A well-formed token (steps 1 to 3), not verified.
struct Untrusted<'t> {
    signing_input: &'t str,
    signature: Signature,
    header: Header,
    claims: Claims,
}

/// A token that has passed every check but signature and revocation. Its claims cannot be read.
pub struct Checked<'a> {
    token: Untrusted<'a>,
    first: Candidate<'a>,
    /// Further rules of the issuer that have a key for the token.
    others: Vec<Candidate<'a>>,
    /// Rejection by a rule of the issuer whose keys are unavailable.
    unavailable: Option<Rejection>,
}

/// A rule that accepts the claims, with its key for the token.
struct Candidate<'a> {
    key: &'a Key,
    revocations: Option<Revocations<'a>>,
    rule_index: usize,
    expires_at: u64,
}

/// A token that has passed every check. Only this module creates one.
#[derive(Clone, Debug)]
pub struct Verified {
    claims: Claims,
    rule_index: usize,
    kid: Option<Kid>,
    alg: Alg,
    proof: Proof,
}

/// Result of a signature verification, to be cached with the token: the key, the rule and the
/// expiry.
///
/// It applies only to the exact bytes that were verified. Only [`Verdicts`](super::Verdicts), which
/// compares the bytes, relies on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    key: KeyId,
    rule_index: usize,
    expires_at: u64,
}

impl Proof {
    /// Returns the expiry including clock skew (Unix seconds, exclusive).
    #[must_use]
    pub fn expires_at(&self) -> u64 {
        self.expires_at
    }

    /// Returns whether the verified token would be accepted now. All checks run again except the
    /// signature check, whose result cannot change for the same bytes and key.
    pub(crate) fn still_holds(
        &self,
        token: &str,
        authn: &RequestAuthentication,
        trust: &Trust,
        now: u64,
    ) -> bool {
        let Ok(checked) = check(token, authn, trust, || now) else {
            return false;
        };
        let claims = &checked.token.claims;
        let mut candidates = core::iter::once(&checked.first).chain(&checked.others);
        candidates.any(|candidate| {
            let is_same = candidate.key.id() == self.key && candidate.rule_index == self.rule_index;
            is_same
                && candidate
                    .revocations
                    .is_none_or(|revocations| revocations.check(claims).is_ok())
        })
    }
}

impl Verified {
    /// Returns the verified claims.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// Returns the index of the rule (`jwtRules[i]`) that accepted the token.
    #[must_use]
    pub fn jwt_rule(&self) -> usize {
        self.rule_index
    }

    /// Returns the `kid` of the token, if it has one.
    #[must_use]
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_ref().map(Kid::as_str)
    }

    /// Returns the algorithm of the signature.
    #[must_use]
    pub fn alg(&self) -> Alg {
        self.alg
    }

    /// Returns the proof to cache together with the token's bytes.
    #[must_use]
    pub fn proof(&self) -> Proof {
        self.proof
    }

    /// Returns the expiry including clock skew (Unix seconds, exclusive).
    #[must_use]
    pub fn expires_at(&self) -> u64 {
        self.proof.expires_at
    }
}

/// Validates a token.
///
/// # Errors
/// [`Rejection`] of the first check that fails.
pub fn validate(
    token: &str,
    authn: &RequestAuthentication,
    trust: &Trust,
    now: u64,
) -> Result<Verified, Rejection> {
    check(token, authn, trust, || now)?.verify(&Portable)
}

/// Validates a token against one rule and a set of keys, without revocation. The issuer uses it for
/// client assertions and for its own tokens.
///
/// # Errors
/// [`Rejection`] of the first check that fails.
pub fn validate_with(
    token: &str,
    keys: &KeySet,
    rule: &JwtRule,
    now: u64,
    verifier: &dyn SignatureVerifier,
) -> Result<Verified, Rejection> {
    let token = Untrusted::read(token)?;
    match token.claims.issuer() {
        None => return Err(Rejection::ClaimMissing),
        Some(issuer) if *issuer != *rule.issuer => return Err(Rejection::IssuerUnknown),
        Some(_) => {}
    }
    let token_type = token.admit(rule)?;
    let key = keys.find(token.header.kid(), token.header.alg())?;
    let expires_at = check_claims(&token.claims, rule, token_type, now)?;
    let first = Candidate {
        key,
        revocations: None,
        rule_index: 0,
        expires_at,
    };
    Checked {
        token,
        first,
        others: Vec::new(),
        unavailable: None,
    }
    .verify(verifier)
}

/// Runs every check that needs no signature arithmetic: steps 1 to 8.
///
/// The clock (Unix seconds) is read for step 7 only: reading it costs a host call in most proxies,
/// and malformed tokens never reach that step.
///
/// # Errors
/// [`Rejection`] of the first check that fails.
pub fn check<'a>(
    token: &'a str,
    authn: &'a RequestAuthentication,
    trust: &'a Trust,
    now: impl FnOnce() -> u64,
) -> Result<Checked<'a>, Rejection> {
    let token = Untrusted::read(token)?;
    let issuer = token.claims.issuer().ok_or(Rejection::ClaimMissing)?;
    // One reading of the clock serves all rules.
    let now = LazyCell::new(now);
    let (mut first, mut others) = (None, Vec::new());
    let (mut refusal, mut unavailable) = (Refusal::without_key(Rejection::IssuerUnknown), None);
    // A rejection by a rule that has the token's key explains more than one by any other rule.
    for (rule_index, rule) in authn.jwt_rules_for(issuer) {
        match token.candidate(rule_index, rule, trust, || *now) {
            Ok(candidate) if first.is_none() => first = Some(candidate),
            Ok(candidate) => others.push(candidate),
            Err(refused) if refused.rejection.class() == Class::Unavailable => {
                unavailable = Some(refused.rejection);
            }
            Err(refused) if refusal.rejection == Rejection::IssuerUnknown || refused.has_key => {
                refusal = refused;
            }
            Err(_) => {}
        }
    }
    match (first, unavailable) {
        (Some(first), _) => Ok(Checked {
            token,
            first,
            others,
            unavailable,
        }),
        // The rule whose keys are unavailable may be the one that has the token's key.
        (None, Some(unavailable)) if !refusal.has_key => Err(unavailable),
        (None, _) => Err(refusal.rejection),
    }
}

/// A rejection by one of the issuer's rules.
struct Refusal {
    rejection: Rejection,
    /// True if the rule has the token's key.
    has_key: bool,
}

impl Refusal {
    /// Returns a rejection by a rule that has the token's key.
    fn with_key(rejection: Rejection) -> Self {
        Self {
            rejection,
            has_key: true,
        }
    }

    /// Returns a rejection before the rule's key for the token was found.
    fn without_key(rejection: Rejection) -> Self {
        Self {
            rejection,
            has_key: false,
        }
    }
}

impl<'t> Untrusted<'t> {
    /// Runs steps 1 to 3.
    fn read(token: &'t str) -> Result<Self, Rejection> {
        let compact = Compact::split(token)?;
        // The header comes first, so that `alg: none` is reported before the missing signature.
        let header = Header::parse(compact.header)?;
        let signature = compact.decode_signature()?;
        let claims = Claims::parse(compact.decode_payload()?)?;
        Ok(Self {
            signing_input: compact.signing_input,
            signature,
            header,
            claims,
        })
    }

    /// Runs step 5 for one rule.
    fn admit(&self, rule: &JwtRule) -> Result<TokenType, Rejection> {
        let token_type = rule.admit_type(self.header.typ(), &self.claims)?;
        if rule.algorithms.contains(&self.header.alg()) {
            Ok(token_type)
        } else {
            Err(Rejection::AlgorithmNotAllowed)
        }
    }

    /// Runs steps 5 to 8 for one rule of the issuer.
    fn candidate<'a>(
        &self,
        rule_index: usize,
        rule: &'a JwtRule,
        trust: &'a Trust,
        now: impl FnOnce() -> u64,
    ) -> Result<Candidate<'a>, Refusal> {
        let token_type = self.admit(rule).map_err(Refusal::without_key)?;
        let key = trust
            .key(rule_index, rule, self.header.kid(), self.header.alg())
            .map_err(Refusal::without_key)?;
        let expires_at =
            check_claims(&self.claims, rule, token_type, now()).map_err(Refusal::with_key)?;
        Ok(Candidate {
            key,
            revocations: trust.revocations(&rule.keys, &rule.issuer),
            rule_index,
            expires_at,
        })
    }
}

impl Checked<'_> {
    /// Runs steps 9 and 10: signature, then revocation.
    ///
    /// # Errors
    /// [`Rejection::SignatureInvalid`], or the rejection of a revocation.
    pub fn verify(self, verifier: &dyn SignatureVerifier) -> Result<Verified, Rejection> {
        let Untrusted {
            signing_input,
            signature,
            header,
            claims,
        } = self.token;
        let mut candidates = core::iter::once(self.first).chain(self.others);
        let Some(Candidate {
            key,
            revocations,
            rule_index,
            expires_at,
        }) = candidates.find(|candidate| {
            verifier.verify(
                candidate.key,
                signing_input.as_bytes(),
                signature.as_bytes(),
            )
        })
        else {
            // The token may be valid under keys that have not arrived yet.
            return Err(self.unavailable.unwrap_or(Rejection::SignatureInvalid));
        };
        // INVARIANT: the claims are verified from here on; revocation is looked up by them.
        if let Some(revocations) = revocations {
            revocations.check(&claims)?;
        }
        let proof = Proof {
            key: key.id(),
            rule_index,
            expires_at,
        };
        Ok(Verified {
            claims,
            rule_index,
            kid: header.into_kid(),
            alg: key.alg(),
            proof,
        })
    }
}

/// Runs steps 7 and 8: times (V12), audience (V10), required claims (V13), binding (V19). Returns
/// the expiry including clock skew (Unix seconds, exclusive).
fn check_claims(
    claims: &Claims,
    rule: &JwtRule,
    token_type: TokenType,
    now: u64,
) -> Result<u64, Rejection> {
    let exp = claims.expires_at().ok_or(Rejection::ClaimMissing)?;
    let complete = match (&rule.required_claims, token_type) {
        (Some(required), _) => required.iter().all(|path| claims.has(path)),
        // RFC 9068 §2.2 requires these claims in an access token.
        (None, TokenType::AccessToken) => {
            let required = [claims.subject(), claims.client_id(), claims.jti()];
            !required.contains(&None) && claims.issued_at().is_some()
        }
        (None, TokenType::Jwt | TokenType::IdToken | TokenType::ClientAuthentication) => true,
    };
    if !complete {
        return Err(Rejection::ClaimMissing);
    }
    check_audience(claims, rule)?;
    let expires_at = check_times(claims, rule, exp, now)?;
    // A bound token without proof of possession must not be accepted as a bearer token.
    if claims.is_bound() {
        Err(Rejection::BindingUnsupported)
    } else {
        Ok(expires_at)
    }
}

/// Checks the audience (V10). If `aud` is present, it alone decides; another claim cannot add an
/// audience.
fn check_audience(claims: &Claims, rule: &JwtRule) -> Result<(), Rejection> {
    let is_ours = |audience: &str| rule.audiences.iter().any(|ours| **ours == *audience);
    let matches = if claims.has_audience_claim() {
        claims.audiences().any(is_ours)
    } else {
        let named = rule
            .audience_claim
            .as_ref()
            .filter(|path| claims.has(path))
            .ok_or(Rejection::ClaimMissing)?;
        claims
            .get(named)
            .is_some_and(|value| texts(value).any(is_ours))
    };
    if matches {
        Ok(())
    } else {
        Err(Rejection::AudienceMismatch)
    }
}

/// Checks `exp`, `nbf`, `iat` and the lifetime (V12). Returns the expiry including clock skew (Unix
/// seconds, exclusive).
fn check_times(claims: &Claims, rule: &JwtRule, exp: u64, now: u64) -> Result<u64, Rejection> {
    let expires_at = exp.saturating_add(rule.clock_skew);
    let latest = now.saturating_add(rule.clock_skew);
    if now >= expires_at {
        return Err(Rejection::TokenExpired);
    }
    if claims
        .not_before()
        .is_some_and(|not_before| not_before > latest)
    {
        return Err(Rejection::TokenNotYetValid);
    }
    if claims
        .issued_at()
        .is_some_and(|issued_at| issued_at > latest)
    {
        return Err(Rejection::TokenIssuedInFuture);
    }
    // Without `iat`, only the remaining lifetime can be measured.
    let lifetime = exp.saturating_sub(claims.issued_at().unwrap_or(now));
    if lifetime > rule.max_lifetime {
        Err(Rejection::TokenLifetimeTooLong)
    } else {
        Ok(expires_at)
    }
}

/// Checks only form, header, key and signature (steps 1, 2, 6 and 9). The payload need not contain
/// claims.
///
/// # Errors
/// [`Rejection`] of the first check that fails.
pub fn signature_only(token: &str, keys: &KeySet) -> Result<(), Rejection> {
    let compact = Compact::split(token)?;
    let header = Header::parse(compact.header)?;
    let signature = compact.decode_signature()?;
    compact.decode_payload()?;
    let key = keys.find(header.kid(), header.alg())?;
    let verified = Portable.verify(key, compact.signing_input.as_bytes(), signature.as_bytes());
    if verified {
        Ok(())
    } else {
        Err(Rejection::SignatureInvalid)
    }
}

/// UNVERIFIED values from a token. They serve logs and the choice of the key source to refresh, and
/// must never affect a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hints {
    /// `iss`.
    pub issuer: Option<Box<str>>,
    /// `kid`.
    pub kid: Option<Box<str>>,
    /// `jti`.
    pub jti: Option<Box<str>>,
    /// `sub`.
    pub subject: Option<Box<str>>,
}

/// Returns the hints of a token; `None` if the token is malformed.
#[must_use]
pub fn hints(token: &str) -> Option<Hints> {
    let token = Untrusted::read(token).ok()?;
    let Untrusted { header, claims, .. } = &token;
    Some(Hints {
        issuer: claims.issuer().map(Into::into),
        kid: header.kid().map(Into::into),
        jti: claims.jti().map(Into::into),
        subject: claims.subject().map(Into::into),
    })
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
