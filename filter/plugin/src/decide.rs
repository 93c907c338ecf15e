//! The decision about one request. It changes neither request nor trust; it remembers verdicts on
//! tokens.
//!
//! The order is the contract with operators: spoofed headers were removed before; preflight; path;
//! locate the token; none: only where a route admits that; validate; location; authorize; outputs.

use std::cell::OnceCell;
use std::rc::Rc;
use std::time::Duration;

use meshseal_core::authn::{self, JwtRule, KeySource, Moment, Trust, Verified};
use meshseal_core::authz::{CanonicalRequest, RuleResults};
use meshseal_core::bundle::Freshness;
use meshseal_core::policy::Policy;
use meshseal_core::rejection::Rejection;

use crate::config::Active;
use crate::headers::RequestHeaders;
use crate::host::{Host, Level};
use crate::locate::Located;
use crate::log;
use crate::outputs::Outputs;
use crate::response::Refusal;
use crate::verify::Verifier;
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
    /// No key here signed the token; these sources may have a newer one. Without it, the request is
    /// rejected.
    KeyMayBeNewer(Rejection, Vec<Source>),
}

/// What happens to the request of an accepted token.
#[derive(Debug)]
pub(crate) struct Accepted<'a> {
    rule: &'a JwtRule,
    located: Located<'a>,
    admitted: Rc<Admitted>,
}

/// What is remembered of a good token: all that a request asks of it.
#[derive(Debug)]
pub(crate) struct Admitted {
    standing: RuleResults,
    outputs: Outputs,
}

impl<'a> Accepted<'a> {
    /// Headers to add.
    pub(crate) fn outputs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.admitted
            .outputs
            .headers(self.rule, self.located.bytes())
    }

    /// Number of headers that the configuration asks for and the request does not get.
    pub(crate) fn omitted(&self) -> usize {
        self.admitted.outputs.omitted()
    }

    /// The token to take out, unless it is forwarded.
    pub(crate) fn remove(&self) -> Option<&Located<'a>> {
        (!self.rule.forward_original_token).then_some(&self.located)
    }
}

/// Decides. The engine must have removed spoofed output headers already.
pub(crate) fn decide<'a>(
    active: &'a Active,
    host: &impl Host,
    headers: &'a RequestHeaders,
) -> Verdict<'a> {
    match admit(active, host, headers) {
        Ok(verdict) => verdict,
        Err(refusal) => Verdict::Refused(refusal),
    }
}

fn admit<'a>(
    active: &'a Active,
    host: &impl Host,
    headers: &'a RequestHeaders,
) -> Result<Verdict<'a>, Refusal> {
    let policy: &Policy = &active.policy;
    let request = headers.request()?;
    if policy.bypass_cors_preflight() && headers.is_cors_preflight(&request) {
        return Ok(Verdict::Preflight);
    }
    let canonical = policy.authz().canonical(&request)?;
    let canonical = if policy.authz().needs_scheme(&canonical) {
        canonical.with_default_ports(headers.default_ports())
    } else {
        canonical
    };
    let located = match active.places.locate(headers, request.path) {
        Err(Rejection::TokenMissing) if policy.authz().admits_anonymous(&canonical) => {
            return Ok(Verdict::Anonymous);
        }
        located => located?,
    };
    // Nothing can hold it now; if something does nevertheless, what is trusted cannot be known.
    let trust = active
        .trust
        .try_borrow()
        .map_err(|_| Rejection::KeysUnavailable)?;
    let clock = Clock {
        host,
        read: OnceCell::new(),
    };
    match validate(active, &clock, &located, &trust) {
        Ok(admitted) => authorize(
            policy,
            &canonical,
            located,
            admitted,
            freshness(active, &clock, &trust),
        ),
        Err(rejection) => {
            let sources = sources(active, &located, rejection);
            if sources.is_empty() {
                Err(rejection.into())
            } else {
                Ok(Verdict::KeyMayBeNewer(rejection, sources))
            }
        }
    }
}

/// The time of one request: the proxy is asked once, and only if it matters.
struct Clock<'h, H> {
    host: &'h H,
    read: OnceCell<Duration>,
}

impl<H: Host> Clock<'_, H> {
    fn now(&self) -> Duration {
        *self.read.get_or_init(|| self.host.now())
    }
}

fn freshness(active: &Active, clock: &Clock<'_, impl Host>, trust: &Trust) -> Freshness {
    if trust.bundle_version().is_none() {
        return Freshness::default();
    }
    let wall = clock.now();
    trust.freshness(Moment {
        wall_s: wall.as_secs(),
        steady: active.ticked.get().steady_at(wall, clock.host),
    })
}

/// The verdict on a token: the one reached before, if it still holds (V27), or a new one, which is
/// timed if it took a verification.
fn validate(
    active: &Active,
    clock: &Clock<'_, impl Host>,
    located: &Located<'_>,
    trust: &Trust,
) -> Result<Rc<Admitted>, Rejection> {
    let (policy, host) = (&active.policy, clock.host);
    let seconds = || clock.now().as_secs();
    // Nothing can hold them now; if something does nevertheless, nothing is remembered.
    let mut verdicts = active.verdicts.try_borrow_mut().ok();
    let known = verdicts
        .as_mut()
        .and_then(|verdicts| verdicts.get(located.bytes(), policy.authn(), trust, seconds));
    if let Some(known) = known {
        return known;
    }
    let begun = host.steady();
    let checked = located
        .text()
        .and_then(|token| Ok((token, authn::check(token, policy.authn(), trust, seconds)?)));
    let (token, checked) = checked.map_err(|rejection| {
        if located.is_joined() {
            Rejection::TokenRepeated
        } else {
            rejection
        }
    })?;
    let verifier = Verifier {
        host,
        hosted: active.hosted.as_ref(),
    };
    let verdict = checked.verify(&verifier);
    let took = host.steady().saturating_sub(begun).as_micros();
    active
        .metrics
        .validation_us(host, u64::try_from(took).unwrap_or(u64::MAX));
    match verdict {
        Ok(verified) => {
            let admitted = Rc::new(Admitted::new(active, host, token, &verified)?);
            if let Some(verdicts) = verdicts.as_mut() {
                verdicts.accept(
                    token,
                    verified.proof(),
                    Rc::clone(&admitted),
                    admitted.heap_bytes(),
                    trust,
                );
            }
            Ok(admitted)
        }
        Err(rejection) => {
            if let (Rejection::SignatureInvalid, Some(verdicts)) = (rejection, verdicts.as_mut()) {
                verdicts.refuse(token, trust);
            }
            Err(rejection)
        }
    }
}

impl Admitted {
    fn new(
        active: &Active,
        host: &impl Host,
        token: &str,
        verified: &Verified,
    ) -> Result<Self, Rejection> {
        let policy = &active.policy;
        let rule = policy
            .authn()
            .jwt_rules()
            .get(verified.jwt_rule())
            .ok_or(Rejection::IssuerUnknown)?;
        let outputs = Outputs::of(rule, verified, token, |omission| {
            if let Some(unlogged) = active.omissions.admit(host.steady()) {
                host.log(Level::Warn, &log::omitted(&omission, verified, unlogged));
            }
        });
        Ok(Self {
            standing: policy.authz().evaluate(verified, policy.authn()),
            outputs,
        })
    }

    fn heap_bytes(&self) -> usize {
        self.standing.heap_bytes() + self.outputs.heap_bytes()
    }
}

fn authorize<'a>(
    policy: &'a Policy,
    request: &CanonicalRequest<'_>,
    located: Located<'a>,
    admitted: Rc<Admitted>,
    freshness: Freshness,
) -> Result<Verdict<'a>, Refusal> {
    // Where a rule does not look, its issuer's tokens are not taken: a token for a header must not
    // work from a cookie.
    let index = admitted
        .standing
        .jwt_rule()
        .filter(|rule| located.is_expected_by(*rule));
    let rule = index
        .and_then(|index| policy.authn().jwt_rules().get(index))
        .ok_or(Rejection::IssuerUnknown)?;
    policy
        .authz()
        .authorize(request, &admitted.standing, freshness)
        .map_err(|denied| Refusal {
            rejection: denied.rejection,
            scopes: denied.scopes.to_vec(),
        })?;
    if admitted.outputs.rejects() {
        return Err(Rejection::OutputUnsafe.into());
    }
    Ok(Verdict::Accepted(Accepted {
        rule,
        located,
        admitted,
    }))
}

/// Sources that may have a newer key for a token, chosen by its unverified `iss`. A provider may
/// replace a key and keep its `kid` (RFC 7517 §4.5 does not forbid it); our issuer does not.
fn sources(active: &Active, located: &Located<'_>, rejection: Rejection) -> Vec<Source> {
    let unknown = rejection == Rejection::KeyUnknown;
    let replaced = matches!(
        rejection,
        Rejection::SignatureInvalid | Rejection::AlgorithmMismatch
    );
    if !unknown && (!replaced || active.jwks.is_empty()) {
        return Vec::new();
    }
    let issuer = located
        .text()
        .ok()
        .and_then(authn::hints)
        .and_then(|hints| hints.issuer);
    let rules = issuer
        .iter()
        .flat_map(|issuer| active.policy.authn().jwt_rules_for(issuer));
    let source = |(index, rule): (usize, &JwtRule)| match &rule.keys {
        KeySource::Inline(_) => None,
        KeySource::Bundle => unknown.then_some(Source::Bundle),
        KeySource::Remote(_) => active.jwks.source_of(index).map(Source::Jwks),
    };
    rules.filter_map(source).collect()
}
