//! The one place that states the order of the checks (V14).
//!
//! ```text
//! 1 form        one spelling, bounded             token-too-large, token-malformed, signature-too-long
//! 2 header      strict JSON, no crit, known alg   header-too-large, header-malformed, token-too-deep, kid-too-long, …
//! 3 claims      strict JSON, registered types     claims-malformed, token-too-deep
//! 4 issuer      a rule for exactly this iss       issuer-unknown
//! 5 type, alg   what the rule allows              type-not-allowed, algorithm-not-allowed
//! 6 key         the issuer's own, one algorithm   keys-unavailable, keys-stale, key-revoked, key-unknown, key-ambiguous, algorithm-mismatch
//! 7 claims      exp, nbf, iat, aud, required      claim-missing, audience-mismatch, token-expired, …
//! 8 binding     a bound token is not a bearer's   binding-unsupported
//! 9 signature                                     signature-invalid
//! 10 revocation token, then epochs                token-revoked, …
//! ```
//!
//! An issuer may have several rules, each with keys of its own. Steps 5 to 8 run for each of them;
//! the signature decides.
//!
//! Steps 4 to 8 read claims that nobody has vouched for yet, and can only refuse: the dear step
//! comes after all the cheap ones. What was read is believed, and lent out, from step 10 on, as
//! [`Verified`].

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

/// A token whose form is right (steps 1 to 3).
struct Untrusted<'t> {
    signing_input: &'t str,
    signature: Signature,
    header: Header,
    claims: Claims,
}

/// A token that has passed everything but its signature and revocation. Its claims cannot be read.
pub struct Checked<'a> {
    token: Untrusted<'a>,
    first: Candidate<'a>,
    /// Further rules of the issuer that have a key for the token.
    others: Vec<Candidate<'a>>,
    /// Rejection by a rule of the issuer whose keys are not available.
    unavailable: Option<Rejection>,
}

/// A rule that accepts the claims, and its key for the token.
struct Candidate<'a> {
    key: &'a Key,
    revocations: Option<Revocations<'a>>,
    rule_index: usize,
    expires_at: u64,
}

/// A token that has passed every check. Only this module makes one.
#[derive(Clone, Debug)]
pub struct Verified {
    claims: Claims,
    rule_index: usize,
    kid: Option<Kid>,
    alg: Alg,
    proof: Proof,
}

/// What is left to know of a signature that was verified: under which key, and until when the token
/// is good. It says something about exactly the bytes that were verified, so only [`Verdicts`](super::Verdicts),
/// which compares them, believes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    key: KeyId,
    rule_index: usize,
    expires_at: u64,
}

impl Proof {
    /// Until when the token is good, leeway included: Unix seconds; the first second in which it is
    /// not.
    #[must_use]
    pub fn expires_at(&self) -> u64 {
        self.expires_at
    }

    /// Whether the very bytes that it is about would be accepted now: every check but the
    /// signature, which does not change.
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
        let revoked =
            |revocations: Revocations<'_>| revocations.check(&checked.token.claims).is_err();
        let mut candidates = core::iter::once(&checked.first).chain(&checked.others);
        candidates.any(|candidate| {
            let is_same = candidate.key.id() == self.key && candidate.rule_index == self.rule_index;
            is_same && !candidate.revocations.is_some_and(revoked)
        })
    }
}

impl Verified {
    /// The claims, vouched for by the issuer.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The index of the rule (`jwtRules[i]`) that accepted the token.
    #[must_use]
    pub fn jwt_rule(&self) -> usize {
        self.rule_index
    }

    /// The key that signed it, if the token names one.
    #[must_use]
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_ref().map(Kid::as_str)
    }

    /// The algorithm of the signature.
    #[must_use]
    pub fn alg(&self) -> Alg {
        self.alg
    }

    /// What to keep of it beside its bytes.
    #[must_use]
    pub fn proof(&self) -> Proof {
        self.proof
    }

    /// Until when it is good, leeway included: Unix seconds; the first second in which it is not.
    #[must_use]
    pub fn expires_at(&self) -> u64 {
        self.proof.expires_at
    }
}

/// Validates a token.
///
/// # Errors
/// The first check that it fails.
pub fn validate(
    token: &str,
    authn: &RequestAuthentication,
    trust: &Trust,
    now: u64,
) -> Result<Verified, Rejection> {
    check(token, authn, trust, || now)?.verify(&Portable)
}

/// Validates a token against one rule and a set of keys, without revocation: client assertions and
/// the issuer's own tokens.
///
/// # Errors
/// The first check that it fails.
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

/// Every check that needs no signature arithmetic: steps 1 to 8. The clock (Unix seconds) is read
/// for step 7 only: most proxies charge for it, and what is no token never gets there.
///
/// # Errors
/// The first check that it fails.
pub fn check<'a>(
    token: &'a str,
    authn: &'a RequestAuthentication,
    trust: &'a Trust,
    now: impl FnOnce() -> u64,
) -> Result<Checked<'a>, Rejection> {
    let token = Untrusted::read(token)?;
    let issuer = token.claims.issuer().ok_or(Rejection::ClaimMissing)?;
    let now = LazyCell::new(now);
    let (mut first, mut others) = (None, Vec::new());
    let (mut refusal, mut unavailable) = (
        Refusal {
            rejection: Rejection::IssuerUnknown,
            has_key: false,
        },
        None,
    );
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
        // The rule whose keys are not available may be the one that knows the token's key.
        (None, Some(unavailable)) if !refusal.has_key => Err(unavailable),
        (None, _) => Err(refusal.rejection),
    }
}

/// A rejection by one of the issuer's rules.
struct Refusal {
    rejection: Rejection,
    /// Whether the rule knows the token's key.
    has_key: bool,
}

impl<'t> Untrusted<'t> {
    /// Steps 1 to 3.
    fn read(token: &'t str) -> Result<Self, Rejection> {
        let compact = Compact::split(token)?;
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

    /// Step 5.
    fn admit(&self, rule: &JwtRule) -> Result<TokenType, Rejection> {
        let token_type = rule.admit_type(self.header.typ(), &self.claims)?;
        if rule.algorithms.contains(&self.header.alg()) {
            Ok(token_type)
        } else {
            Err(Rejection::AlgorithmNotAllowed)
        }
    }

    /// Steps 5 to 8 by one rule of the issuer.
    fn candidate<'a>(
        &self,
        rule_index: usize,
        rule: &'a JwtRule,
        trust: &'a Trust,
        now: impl FnOnce() -> u64,
    ) -> Result<Candidate<'a>, Refusal> {
        let refused = |has_key| move |rejection| Refusal { rejection, has_key };
        let token_type = self.admit(rule).map_err(refused(false))?;
        let key = trust
            .key(rule_index, rule, self.header.kid(), self.header.alg())
            .map_err(refused(false))?;
        let expires_at =
            check_claims(&self.claims, rule, token_type, now()).map_err(refused(true))?;
        Ok(Candidate {
            key,
            revocations: trust.revocations(&rule.keys, &rule.issuer),
            rule_index,
            expires_at,
        })
    }
}

impl Checked<'_> {
    /// Steps 9 and 10: signature, then revocation.
    ///
    /// # Errors
    /// [`Rejection::SignatureInvalid`], or that of a revocation.
    pub fn verify(self, verifier: &dyn SignatureVerifier) -> Result<Verified, Rejection> {
        let Untrusted {
            signing_input,
            signature,
            header,
            claims,
        } = self.token;
        let good = |of: &Candidate<'_>| {
            verifier.verify(of.key, signing_input.as_bytes(), signature.as_bytes())
        };
        let Some(Candidate {
            key,
            revocations,
            rule_index,
            expires_at,
        }) = core::iter::once(self.first).chain(self.others).find(good)
        else {
            return Err(self.unavailable.unwrap_or(Rejection::SignatureInvalid));
        };
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

/// Steps 7 and 8: times (V12), audience (V10), required claims (V13), binding (V19). Returns the
/// first second in which the token is not good.
fn check_claims(
    claims: &Claims,
    rule: &JwtRule,
    token_type: TokenType,
    now: u64,
) -> Result<u64, Rejection> {
    let exp = claims.expires_at().ok_or(Rejection::ClaimMissing)?;
    let complete = match (&rule.required_claims, token_type) {
        (Some(required), _) => required.iter().all(|path| claims.has(path)),
        // RFC 9068 §2.2.
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
    if claims.is_bound() {
        Err(Rejection::BindingUnsupported)
    } else {
        Ok(expires_at)
    }
}

/// V10. A token that has `aud` is for whom `aud` names, whatever another claim says.
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
    // Without `iat` what is left of the life is all there is to measure.
    let lifetime = exp.saturating_sub(claims.issued_at().unwrap_or(now));
    if lifetime > rule.max_lifetime {
        Err(Rejection::TokenLifetimeTooLong)
    } else {
        Ok(expires_at)
    }
}

/// Checks form, header, key and signature only (steps 1, 2, 6 and 9); the payload need not be
/// claims.
///
/// # Errors
/// The first check that it fails.
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

/// What a token says of itself. UNVERIFIED: for logs, and for choosing whom to ask for keys; never
/// for a decision.
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

/// Reads the hints of a token whose form is right.
#[must_use]
pub fn hints(token: &str) -> Option<Hints> {
    let token = Untrusted::read(token).ok()?;
    let own = |text: Option<&str>| text.map(Into::into);
    let Untrusted { header, claims, .. } = &token;
    Some(Hints {
        issuer: own(claims.issuer()),
        kid: own(header.kid()),
        jti: own(claims.jti()),
        subject: own(claims.subject()),
    })
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
