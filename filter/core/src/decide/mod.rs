//! The decision about one request, for the proxy and the CLI alike. It changes neither the request
//! nor the trust. It caches verdicts on tokens.
//!
//! Operators rely on this order. The caller has already removed forged output headers
//! ([`forged_outputs`]).
//!
//! ```text
//! 1 request      method, host and path, each once    path-not-normalized, host-malformed
//! 2 preflight    passes if the policy allows it
//! 3 canonical    one meaning of path and host        path-not-normalized, host-malformed, …
//! 4 token        one token in the configured sources token-missing, token-repeated
//! 5 anonymous    passes without a token if a rule has allowMissing
//! 6 validation   [`check`](crate::authn::check), signature, revocation
//! 7 source       the token's issuer expects it there issuer-unknown
//! 8 rules        DENY, then ALLOW                    rule-denied, scope-missing, bundle-stale, …
//! 9 outputs      all that are required               output-unsafe
//! ```

mod incoming;
mod location;
mod outputs;

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::OnceCell;
use core::hash::BuildHasher;
use core::time::Duration;

pub use incoming::{HeaderMap, Incoming};
pub use location::{Located, locate};
use outputs::Outputs;
pub use outputs::{Omission, OmissionReason};

use crate::authn::{self, JwtRule, KeySource, Moment, Trust, Verdicts, Verified};
use crate::authz::{CanonicalRequest, RuleResults};
use crate::bundle::Freshness;
use crate::keys::SignatureVerifier;
use crate::policy::Policy;
use crate::rejection::Rejection;

/// Clocks, cryptography and observers that a decision uses.
pub trait Surroundings {
    /// Returns the time of day since the Unix epoch. A decision reads it at most once.
    fn wall(&self) -> Duration;

    /// Returns the monotonic time when the wall clock shows `wall`.
    fn steady_at(&self, wall: Duration) -> Duration;

    /// Returns the monotonic time.
    fn steady(&self) -> Duration;

    /// Returns the verifier of signatures.
    fn verifier(&self) -> &dyn SignatureVerifier;

    /// Observes that a token without a cached verdict was validated, and the time that this took.
    fn validated(&self, _took: Duration) {}

    /// Observes that an output of a token was left out.
    fn omitted(&self, _omission: &Omission<'_>, _token: &Verified) {}
}

/// Decision about a request.
#[derive(Debug)]
pub enum Decision<'a, H> {
    /// The request goes on, with these effects.
    Pass(Pass<'a, H>),
    /// The request is rejected.
    Refuse(Refusal),
    /// A newer key may change the decision.
    Need(KeyQuestion),
}

/// Effects on a request that passes.
#[derive(Debug)]
pub enum Pass<'a, H> {
    /// A CORS preflight. The request passes unchanged.
    Preflight,
    /// A request without a token, allowed by a rule. It passes unchanged.
    Anonymous,
    /// A request with a valid token.
    Accepted(Accepted<'a, H>),
}

/// Rejection of a request, and its cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The check that failed.
    pub rejection: Rejection,
    /// Scopes for `scope` in WWW-Authenticate (RFC 6750 §3); empty unless scopes were missing.
    pub scopes: Vec<Box<str>>,
    /// Index of the route rule (`rules[i]`) that rejected the request, if a route rule did.
    pub rule: Option<usize>,
}

impl From<Rejection> for Refusal {
    fn from(rejection: Rejection) -> Self {
        Self {
            rejection,
            scopes: Vec::new(),
            rule: None,
        }
    }
}

/// Question for a newer key, because no known key signed the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyQuestion {
    /// Rejection of the request if no newer key arrives.
    pub rejection: Rejection,
    /// Indices of the rules (`jwtRules[i]`) whose key source may have one. Chosen by the unverified
    /// `iss`.
    pub jwt_rules: Vec<usize>,
}

/// A change of one request header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderEdit<'a> {
    /// Removes the header.
    Remove(&'a str),
    /// Replaces every value of the header by this one.
    Set(&'a str, Vec<u8>),
    /// Adds the header with this value.
    Add(&'a str, &'a str),
}

/// Effects of an accepted token on the request.
#[derive(Debug)]
pub struct Accepted<'a, H> {
    jwt_rule: &'a JwtRule,
    located: Located<'a, H>,
    admitted: Rc<Admitted>,
    /// Index of the route rule (`rules[i]`) that allowed the request; `None` if no rule allows.
    pub rule: Option<usize>,
}

/// Everything that requests need of a verified token. It is cached instead of the claims.
#[derive(Debug)]
pub struct Admitted {
    results: RuleResults,
    outputs: Outputs,
}

/// Cache of verdicts on tokens, for one policy.
pub type TokenCache<S> = Verdicts<Admitted, S>;

impl<H: HeaderMap> Accepted<'_, H> {
    /// Prepares the request for the upstream: removes the token, unless it is forwarded, and adds
    /// the outputs. Returns false as soon as an edit fails; the request must not go on then.
    pub fn apply(&self, edit: &mut dyn FnMut(HeaderEdit<'_>) -> bool) -> bool {
        if !self.jwt_rule.forward_original_token && !self.located.remove(edit) {
            return false;
        }
        // Added after the removal, which would otherwise delete an output in the same header.
        let mut outputs = self
            .admitted
            .outputs
            .headers(self.jwt_rule, self.located.bytes());
        outputs.all(|(name, value)| edit(HeaderEdit::Add(name, value)))
    }

    /// Returns the number of configured outputs that the request does not get.
    #[must_use]
    pub fn omitted(&self) -> usize {
        self.admitted.outputs.omitted()
    }
}

/// Returns the names of all request headers that an upstream could take for an output of this
/// policy. The caller removes them from each request before the decision (V21).
pub fn forged_outputs<'a, H: HeaderMap>(
    incoming: &'a Incoming<H>,
    policy: &'a Policy,
) -> impl Iterator<Item = &'a str> {
    let names = policy.authn().output_headers().iter();
    names.flat_map(|name| incoming.spellings(name))
}

/// Decides about a request. Without a cache, verdicts are not remembered.
pub fn decide<'a, H: HeaderMap, S: BuildHasher>(
    incoming: &'a Incoming<H>,
    policy: &'a Policy,
    trust: &Trust,
    cache: Option<&mut TokenCache<S>>,
    surroundings: &impl Surroundings,
) -> Decision<'a, H> {
    let machine = Machine {
        policy,
        trust,
        surroundings,
        wall: OnceCell::new(),
    };
    match machine.decide(incoming, cache) {
        Ok(decision) => decision,
        Err(refusal) => Decision::Refuse(refusal),
    }
}

/// Inputs of one decision.
struct Machine<'a, 'd, E> {
    policy: &'a Policy,
    trust: &'d Trust,
    surroundings: &'d E,
    /// Time of day, read at most once.
    wall: OnceCell<Duration>,
}

impl<'a, E: Surroundings> Machine<'a, '_, E> {
    /// Performs steps 1 to 5 of the order, and the others by calls.
    fn decide<H: HeaderMap, S: BuildHasher>(
        &self,
        incoming: &'a Incoming<H>,
        cache: Option<&mut TokenCache<S>>,
    ) -> Result<Decision<'a, H>, Refusal> {
        // Request and preflight.
        let request = incoming.request()?;
        if self.policy.bypass_cors_preflight() && incoming.is_cors_preflight(&request) {
            return Ok(Decision::Pass(Pass::Preflight));
        }
        // Canonical form.
        let authz = self.policy.authz();
        let mut canonical = authz.canonical(&request)?;
        if authz.needs_scheme(&canonical) {
            canonical = canonical.with_default_ports(incoming.default_ports());
        }
        // Token, or none where a rule admits that.
        let sources = self.policy.authn().token_sources();
        let located = match locate(sources, incoming, request.path) {
            Err(Rejection::TokenMissing) if authz.admits_anonymous(&canonical) => {
                return Ok(Decision::Pass(Pass::Anonymous));
            }
            located => located?,
        };
        // Validation, and then source, rules and outputs.
        match self.validate(&located, cache) {
            Ok(admitted) => self.authorize(&canonical, located, admitted),
            // A newer key may make this token valid: ask before rejecting it.
            Err(rejection) => {
                let jwt_rules = self.rules_with_newer_keys(&located, rejection);
                if jwt_rules.is_empty() {
                    return Err(rejection.into());
                }
                Ok(Decision::Need(KeyQuestion {
                    rejection,
                    jwt_rules,
                }))
            }
        }
    }

    /// Returns the time of day, the same one during the whole decision.
    fn wall(&self) -> Duration {
        *self.wall.get_or_init(|| self.surroundings.wall())
    }

    fn seconds(&self) -> u64 {
        self.wall().as_secs()
    }

    /// Returns the freshness of the bundle, without reading a clock if no bundle is held.
    fn freshness(&self) -> Freshness {
        if self.trust.bundle_version().is_none() {
            return Freshness::default();
        }
        let wall = self.wall();
        self.trust.freshness(Moment {
            wall_s: wall.as_secs(),
            steady: self.surroundings.steady_at(wall),
        })
    }

    /// Returns the cached verdict on a token, if it is still valid (V27), or validates the token.
    fn validate<H: HeaderMap, S: BuildHasher>(
        &self,
        located: &Located<'_, H>,
        mut cache: Option<&mut TokenCache<S>>,
    ) -> Result<Rc<Admitted>, Rejection> {
        let (authn, trust) = (self.policy.authn(), self.trust);
        let remembered = cache
            .as_mut()
            .and_then(|cache| cache.get(located.bytes(), authn, trust, || self.seconds()));
        if let Some(verdict) = remembered {
            return verdict;
        }
        // Every check before the signature.
        let begun = self.surroundings.steady();
        let checked = located.text().and_then(|token| {
            let checked = authn::check(token, authn, trust, || self.seconds())?;
            Ok((token, checked))
        });
        let (token, checked) = checked.map_err(|rejection| {
            // Copies that Envoy joined with commas are no token; report them as repetition.
            if located.is_joined() {
                Rejection::TokenRepeated
            } else {
                rejection
            }
        })?;
        // The signature, which is expensive.
        let verdict = checked.verify(self.surroundings.verifier());
        let took = self.surroundings.steady().saturating_sub(begun);
        self.surroundings.validated(took);
        match verdict {
            Ok(verified) => {
                let admitted = Rc::new(self.admit(token, &verified)?);
                if let Some(cache) = cache {
                    let bytes = admitted.heap_bytes();
                    cache.accept(token, verified.proof(), Rc::clone(&admitted), bytes, trust);
                }
                Ok(admitted)
            }
            Err(rejection) => {
                // Only an invalid signature is cached: other rejections are cheap or may change.
                if let (Rejection::SignatureInvalid, Some(cache)) = (rejection, cache) {
                    cache.refuse(token, trust);
                }
                Err(rejection)
            }
        }
    }

    /// Evaluates the rules and creates the outputs for a verified token.
    fn admit(&self, token: &str, verified: &Verified) -> Result<Admitted, Rejection> {
        let authn = self.policy.authn();
        let rule = authn
            .jwt_rules()
            .get(verified.jwt_rule())
            .ok_or(Rejection::IssuerUnknown)?;
        let outputs = Outputs::of(rule, verified, token, |omission| {
            self.surroundings.omitted(&omission, verified);
        });
        Ok(Admitted {
            results: self.policy.authz().evaluate(verified, authn),
            outputs,
        })
    }

    /// Performs steps 7 to 9 of the order.
    fn authorize<H: HeaderMap>(
        &self,
        request: &CanonicalRequest<'_>,
        located: Located<'a, H>,
        admitted: Rc<Admitted>,
    ) -> Result<Decision<'a, H>, Refusal> {
        // An issuer's token is accepted only from the sources that its rule names: a token meant
        // for a header must not be accepted from a cookie.
        let index = admitted
            .results
            .jwt_rule()
            .filter(|rule| located.is_expected_by(*rule));
        let jwt_rule = index
            .and_then(|index| self.policy.authn().jwt_rules().get(index))
            .ok_or(Rejection::IssuerUnknown)?;
        let allowed = self
            .policy
            .authz()
            .authorize(request, &admitted.results, self.freshness());
        let rule = allowed.map_err(|denied| Refusal {
            rejection: denied.rejection,
            scopes: denied.scopes.to_vec(),
            rule: denied.rule,
        })?;
        // Outputs last, so that a denied request is reported as denied.
        if admitted.outputs.rejects() {
            return Err(Rejection::OutputUnsafe.into());
        }
        Ok(Decision::Pass(Pass::Accepted(Accepted {
            jwt_rule,
            located,
            admitted,
            rule,
        })))
    }

    /// Returns the rules whose key source may have a newer key for the token, chosen by its
    /// unverified `iss`. A provider may replace a key and keep its `kid` (RFC 7517 §4.5 does not
    /// forbid it); our issuer never does.
    fn rules_with_newer_keys<H: HeaderMap>(
        &self,
        located: &Located<'_, H>,
        rejection: Rejection,
    ) -> Vec<usize> {
        let unknown = rejection == Rejection::KeyUnknown;
        let replaced = matches!(
            rejection,
            Rejection::SignatureInvalid | Rejection::AlgorithmMismatch
        );
        let authn = self.policy.authn();
        if !unknown && (!replaced || !authn.fetches_keys()) {
            return Vec::new();
        }
        // Without a readable issuer no key source can be chosen.
        let Some(issuer) = located
            .text()
            .ok()
            .and_then(authn::hints)
            .and_then(|hints| hints.issuer)
        else {
            return Vec::new();
        };
        authn
            .jwt_rules_for(&issuer)
            .filter(|(_, rule)| match rule.keys {
                KeySource::Inline(_) => false,
                KeySource::Bundle => unknown,
                KeySource::Remote(_) => true,
            })
            .map(|(index, _)| index)
            .collect()
    }
}

impl Admitted {
    /// Returns the bytes on the heap, for the budget of the cache.
    fn heap_bytes(&self) -> usize {
        self.results
            .heap_bytes()
            .saturating_add(self.outputs.heap_bytes())
    }
}
