//! Authorization of a request whose token was verified, as AuthorizationPolicy does it: DENY rules
//! first, then ALLOW rules.

pub mod host;
pub mod matching;
mod path;
mod request;
mod rule_results;
pub mod rules;

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::authn::{RequestAuthentication, Verified};
use crate::bundle::{Freshness, Staleness, StalenessBound};
use crate::limits;
use crate::rejection::Rejection;
use host::Authority;
pub use path::{ESCAPED_SLASH, EscapedSlashes};
pub use request::{CanonicalRequest, Request};
pub use rule_results::RuleResults;
use rules::{Action, Operation, Rule};

/// The route rules, with properties of the whole list that every request needs.
#[derive(Clone, Debug)]
pub struct AuthorizationPolicy {
    rules: Vec<Rule>,
    /// Staleness that applies if the policy has no ALLOW rule.
    default_staleness: Staleness,
    /// True if a rule compares paths.
    compares_paths: bool,
    /// True if a rule compares hosts.
    compares_hosts: bool,
    /// True if a rule compares ports of hosts.
    compares_ports: bool,
    slashes: EscapedSlashes,
    /// True if the policy has an ALLOW rule. Without one, only DENY rules reject.
    allows: bool,
    /// Results of the rules for a request without a token.
    anonymous: RuleResults,
}

/// A rejection by policy, with the scopes that would have been sufficient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied<'p> {
    /// Reason for the rejection.
    pub rejection: Rejection,
    /// Value of `scope` in WWW-Authenticate (RFC 6750 §3); empty unless scopes were missing.
    pub scopes: &'p [Box<str>],
    /// Index of the rule that decided: the first DENY rule that matched, or the ALLOW rule that
    /// came closest.
    pub rule: Option<usize>,
}

impl Denied<'_> {
    fn by(rule: Option<usize>, rejection: Rejection) -> Self {
        Self {
            rejection,
            scopes: &[],
            rule,
        }
    }
}

impl AuthorizationPolicy {
    pub(crate) fn new(
        rules: Vec<Rule>,
        default_staleness: Staleness,
        slashes: EscapedSlashes,
    ) -> Self {
        let operations = || rules.iter().flat_map(|rule| &rule.to);
        Self {
            default_staleness,
            compares_paths: operations().any(Operation::compares_paths),
            compares_hosts: operations().any(Operation::compares_hosts),
            compares_ports: operations().any(Operation::compares_ports),
            slashes,
            allows: rules.iter().any(|rule| rule.action == Action::Allow),
            anonymous: RuleResults::anonymous(&rules),
            rules,
        }
    }

    /// Returns the maximum time for which a rule uses one bundle, if an issuer's keys come from the
    /// bundle.
    #[must_use]
    pub fn staleness_bound(&self) -> StalenessBound {
        // Only rules that allow requests depend on the age of the bundle.
        if !self.allows {
            return StalenessBound::of(self.default_staleness);
        }
        let mut longest = StalenessBound::Seconds(0);
        for rule in self
            .rules
            .iter()
            .filter(|rule| rule.action == Action::Allow)
        {
            longest = longest.longer(StalenessBound::of(rule.staleness));
        }
        longest
    }

    /// Returns the request in the form in which rules compare it. Path and host are converted to
    /// their canonical form if any rule compares them.
    ///
    /// # Errors
    /// [`Rejection::PathNotNormalized`] for a path that servers may interpret in different ways,
    /// [`Rejection::HostMalformed`] for an authority that is not one host with at most one port,
    /// [`Rejection::PathTooLong`] and [`Rejection::HostTooLong`].
    pub fn canonical<'a>(&self, request: &Request<'a>) -> Result<CanonicalRequest<'a>, Rejection> {
        // A policy without path rules accepts every path, as Envoy would.
        let path = request.path_without_query();
        let path = if self.compares_paths {
            if path.len() > limits::MAX_PATH_BYTES {
                return Err(Rejection::PathTooLong);
            }
            path::canonical_path(path, self.slashes).ok_or(Rejection::PathNotNormalized)?
        } else {
            Cow::Borrowed(path)
        };
        let host = if self.compares_hosts {
            Some(parse_host(request.host)?)
        } else {
            None
        };
        Ok(CanonicalRequest {
            method: request.method,
            host,
            path,
        })
    }

    /// Returns whether the decision depends on the scheme: the request names no port, and a rule
    /// compares ports.
    #[must_use]
    pub fn needs_scheme(&self, request: &CanonicalRequest<'_>) -> bool {
        self.compares_ports && request.host.as_ref().is_some_and(|host| !host.has_port())
    }

    /// Returns whether a request without a token passes: a rule with `allowMissing` matches its
    /// route, and no DENY rule matches.
    #[must_use]
    pub fn admits_anonymous(&self, request: &CanonicalRequest<'_>) -> bool {
        let public = self
            .rules
            .iter()
            .any(|rule| rule.allow_missing && rule.matches_route(request));
        public && self.denying(request, &self.anonymous).is_none()
    }

    /// Evaluates the parts of the rules that depend on the token only, not on the request.
    #[must_use]
    pub fn evaluate(&self, token: &Verified, authn: &RequestAuthentication) -> RuleResults {
        match authn.jwt_rules().get(token.jwt_rule()) {
            Some(rule) => RuleResults::of(&self.rules, token.claims(), rule, token.jwt_rule()),
            None => self.anonymous.clone(),
        }
    }

    /// Decides whether the bearer of a verified token may make this request (V16, V22): no DENY
    /// rule matches, and an ALLOW rule matches if the policy has one.
    ///
    /// # Errors
    /// [`Denied`] with [`Rejection::RuleDenied`], [`Rejection::BundleStale`],
    /// [`Rejection::ScopeMissing`] or [`Rejection::RuleUnmatched`].
    pub fn authorize(
        &self,
        request: &CanonicalRequest<'_>,
        results: &RuleResults,
        freshness: Freshness,
    ) -> Result<Option<usize>, Denied<'_>> {
        // DENY rules come first, whatever their position in the list.
        if let Some(rule) = self.denying(request, results) {
            return Err(Denied::by(Some(rule), Rejection::RuleDenied));
        }
        if !self.allows {
            return if is_fresh(results, self.default_staleness, freshness) {
                Ok(None)
            } else {
                Err(Denied::by(None, Rejection::BundleStale))
            };
        }
        // The first ALLOW rule that matches decides. Otherwise the most specific reason is
        // reported: stale data before missing scopes before no match.
        let mut denied = Denied::by(None, Rejection::RuleUnmatched);
        for (at, rule) in self
            .on_route(Action::Allow, request)
            .filter(|(at, _)| results.matches(*at))
        {
            if !results.has_scopes(at) {
                if denied.rejection == Rejection::RuleUnmatched {
                    denied = Denied {
                        scopes: &rule.scopes,
                        ..Denied::by(Some(at), Rejection::ScopeMissing)
                    };
                }
            } else if is_fresh(results, rule.staleness, freshness) {
                return Ok(Some(at));
            } else {
                denied = Denied::by(Some(at), Rejection::BundleStale);
            }
        }
        Err(denied)
    }

    /// Returns the rules of one action that match the request's route, with their indices.
    fn on_route<'p>(
        &'p self,
        action: Action,
        request: &CanonicalRequest<'_>,
    ) -> impl Iterator<Item = (usize, &'p Rule)> {
        self.rules
            .iter()
            .enumerate()
            .filter(move |(_, rule)| rule.action == action && rule.matches_route(request))
    }

    /// Returns the first DENY rule that matches.
    fn denying(&self, request: &CanonicalRequest<'_>, results: &RuleResults) -> Option<usize> {
        self.on_route(Action::Deny, request)
            .map(|(at, _)| at)
            .find(|at| results.matches(*at) && results.has_scopes(*at))
    }
}

/// Returns whether keys and revocations are fresh enough. The age of the bundle matters only for
/// tokens whose keys come from it.
fn is_fresh(results: &RuleResults, staleness: Staleness, freshness: Freshness) -> bool {
    let too_old = staleness
        .max_age
        .zip(freshness.age)
        .is_some_and(|(max, age)| age > max);
    !results.uses_bundle()
        || (!freshness.overdue && (staleness.serve || !(freshness.expired || too_old)))
}

/// Parses `:authority`.
fn parse_host(text: &str) -> Result<Authority<'_>, Rejection> {
    if host::is_too_long(text) {
        return Err(Rejection::HostTooLong);
    }
    Authority::parse(text).ok_or(Rejection::HostMalformed)
}
