//! The decision about one request. It changes neither request nor trust; it remembers verdicts on tokens.
//!
//! The order is the contract with operators: spoofed headers were removed before; preflight; path; locate the token; none: only
//! where a route admits that; validate; location; authorize; outputs.

use std::rc::Rc;
use std::time::Duration;

use meshseal_core::config::KeySource;
use meshseal_core::policy::{Policy, Request};
use meshseal_core::rejection::Rejection;
use meshseal_core::trust::Trust;
use meshseal_core::validate::{self, Verified};

use crate::config::Active;
use crate::headers::RequestHeaders;
use crate::host::Host;
use crate::locate::{Located, Place};
use crate::outputs;
use crate::response::Refusal;
use crate::waiters::Source;

/// What is to become of a request.
#[derive(Debug)]
pub(crate) enum Verdict<'a> {
    /// A CORS preflight: passes as it is.
    Preflight,
    /// No token, and none needed.
    Anonymous,
    /// A good token that policy allows.
    Accepted(Accepted<'a>),
    /// Refused.
    Refused(Refusal),
    /// The token names a key that nobody here knows; this source may have it by now.
    UnknownKey(Source),
}

/// What happens to the request of an accepted token.
#[derive(Debug)]
pub(crate) struct Accepted<'a> {
    /// Headers to set.
    pub(crate) outputs: Vec<(&'a str, String)>,
    /// Where to take the token out, unless it is forwarded.
    pub(crate) remove: Option<&'a Place>,
}

/// Decides. The engine must have removed spoofed output headers already.
pub(crate) fn decide<'a>(active: &'a Active, host: &impl Host, headers: &'a RequestHeaders) -> Verdict<'a> {
    if active.policy.bypass_cors_preflight() && headers.is_cors_preflight() {
        return Verdict::Preflight;
    }
    match admit(active, host, headers) {
        Ok(verdict) => verdict,
        Err(refusal) => Verdict::Refused(refusal),
    }
}

fn admit<'a>(active: &'a Active, host: &impl Host, headers: &'a RequestHeaders) -> Result<Verdict<'a>, Refusal> {
    let policy: &Policy = &active.policy;
    let request = headers.request()?;
    policy.check_path(&request)?;
    let located = match active.places.locate(headers, request.path) {
        Err(Rejection::TokenMissing) if policy.admits_anonymous(&request) => return Ok(Verdict::Anonymous),
        located => located?,
    };
    // Nothing can hold it now; if something does nevertheless, what is trusted cannot be known.
    let trust = active.trust.try_borrow().map_err(|_| Rejection::KeysUnavailable)?;
    let now = host.now();
    match validate(active, host, located.token, &trust, now) {
        Ok(verified) => authorize(policy, &request, located, &verified, &trust, now.as_secs()),
        Err(Rejection::KeyUnknown) => match source(active, located.token) {
            Some(source) => Ok(Verdict::UnknownKey(source)),
            None => Err(Rejection::KeyUnknown.into()),
        },
        Err(rejection) => Err(rejection.into()),
    }
}

/// The verdict on a token: the one reached before, if it still holds (V27), or a new one, which is timed.
fn validate(
    active: &Active,
    host: &impl Host,
    token: &str,
    trust: &Trust,
    now: Duration,
) -> Result<Rc<Verified>, Rejection> {
    let generation = trust.generation();
    let mut verdicts = active.verdicts.try_borrow_mut().ok();
    if let Some(known) = verdicts.as_mut().and_then(|verdicts| verdicts.get(token, generation, now.as_secs())) {
        return known;
    }
    let verdict = validate::validate(token, &active.policy, trust, now.as_secs()).map(Rc::new);
    let took = host.now().saturating_sub(now).as_micros();
    active.metrics.validation_us(host, u64::try_from(took).unwrap_or(u64::MAX));
    if let Some(verdicts) = verdicts.as_mut() {
        verdicts.put(token, &verdict, generation);
    }
    verdict
}

fn authorize<'a>(
    policy: &'a Policy,
    request: &Request<'_>,
    located: Located<'a>,
    verified: &Verified,
    trust: &Trust,
    now: u64,
) -> Result<Verdict<'a>, Refusal> {
    // Where a rule does not look, its issuer's tokens are not taken: a token for a header must not work from a cookie.
    let rule = policy.jwt_rules().get(verified.jwt_rule()).filter(|rule| located.place.belongs_to(rule));
    let rule = rule.ok_or(Rejection::IssuerUnknown)?;
    policy
        .authorize(request, verified, trust.freshness(now))
        .map_err(|denied| Refusal { rejection: denied.rejection, scopes: denied.scopes.to_vec() })?;
    let outputs = outputs::headers(rule, verified, located.token);
    let remove = (!rule.forward_original_token).then_some(located.place);
    Ok(Verdict::Accepted(Accepted { outputs, remove }))
}

/// Who may know a key that we do not: by the issuer that the token claims, before anybody has vouched for it.
fn source(active: &Active, token: &str) -> Option<Source> {
    let issuer = validate::hints(token)?.issuer?;
    let index = active.policy.jwt_rules().iter().position(|rule| rule.issuer == issuer)?;
    match &active.policy.jwt_rules().get(index)?.keys {
        KeySource::Inline(_) => None,
        KeySource::Bundle => Some(Source::Bundle),
        KeySource::Remote(_) => active.jwks.source_of(index).map(Source::Jwks),
    }
}
