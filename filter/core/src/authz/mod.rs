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

/// The route rules, and what they have in common for every request.
#[derive(Clone, Debug)]
pub struct AuthorizationPolicy {
    rules: Vec<Rule>,
    /// How old keys and revocations may be if no rule allows.
    default_staleness: Staleness,
    /// Whether a rule compares paths.
    compares_paths: bool,
    /// Whether a rule compares hosts.
    compares_hosts: bool,
    /// Whether a rule compares ports of hosts.
    compares_ports: bool,
    slashes: EscapedSlashes,
    /// Whether a rule allows. Without one, only DENY rules reject.
    allows: bool,
    /// Results of the rules for a request without a token.
    anonymous: RuleResults,
}

/// A refusal by policy, and the scopes that would have helped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied<'p> {
    /// Why.
    pub rejection: Rejection,
    /// For `scope` in WWW-Authenticate (RFC 6750 §3); empty unless scopes were missing.
    pub scopes: &'p [Box<str>],
}

impl Denied<'_> {
    fn plain(rejection: Rejection) -> Self {
        Self {
            rejection,
            scopes: &[],
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

    /// Returns the longest time for which a rule goes on by one bundle, if an issuer's keys come
    /// from the bundle.
    #[must_use]
    pub fn staleness_bound(&self) -> StalenessBound {
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

    /// Returns the request as rules compare it. Path and host are brought to their canonical form
    /// if any rule looks at them.
    ///
    /// # Errors
    /// [`Rejection::PathNotNormalized`] for a path that servers may read in two ways,
    /// [`Rejection::HostMalformed`] for an authority that is not one host with at most one port,
    /// [`Rejection::PathTooLong`] and [`Rejection::HostTooLong`].
    pub fn canonical<'a>(&self, request: &Request<'a>) -> Result<CanonicalRequest<'a>, Rejection> {
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

    /// Returns whether the scheme of a request decides: it names no port, and a rule compares
    /// ports.
    #[must_use]
    pub fn needs_scheme(&self, request: &CanonicalRequest<'_>) -> bool {
        self.compares_ports && request.host.as_ref().is_some_and(|host| !host.has_port())
    }

    /// Whether a request without a token passes: some rule with `allowMissing` matches its route
    /// and no DENY rule does.
    #[must_use]
    pub fn admits_anonymous(&self, request: &CanonicalRequest<'_>) -> bool {
        let public = self
            .rules
            .iter()
            .any(|rule| rule.allow_missing && rule.matches_route(request));
        public && !self.denies(request, &self.anonymous)
    }

    /// Evaluates what the rules ask of the token. The request has no part in it.
    #[must_use]
    pub fn evaluate(&self, token: &Verified, authn: &RequestAuthentication) -> RuleResults {
        match authn.jwt_rules().get(token.jwt_rule()) {
            Some(rule) => RuleResults::of(&self.rules, token.claims(), rule, token.jwt_rule()),
            None => self.anonymous.clone(),
        }
    }

    /// Whether the bearer of a verified token may make this request (V16, V22): no DENY rule
    /// matches, and some ALLOW rule does, or there is none.
    ///
    /// # Errors
    /// [`Denied`] with [`Rejection::RuleDenied`], [`Rejection::BundleStale`],
    /// [`Rejection::ScopeMissing`] or [`Rejection::RuleUnmatched`].
    pub fn authorize(
        &self,
        request: &CanonicalRequest<'_>,
        results: &RuleResults,
        freshness: Freshness,
    ) -> Result<(), Denied<'_>> {
        if self.denies(request, results) {
            return Err(Denied::plain(Rejection::RuleDenied));
        }
        if !self.allows {
            return if is_fresh(results, self.default_staleness, freshness) {
                Ok(())
            } else {
                Err(Denied::plain(Rejection::BundleStale))
            };
        }
        let mut denied = Denied::plain(Rejection::RuleUnmatched);
        for (at, rule) in self
            .on_route(Action::Allow, request)
            .filter(|(at, _)| results.matches(*at))
        {
            if !results.has_scopes(at) {
                if denied.rejection == Rejection::RuleUnmatched {
                    denied = Denied {
                        rejection: Rejection::ScopeMissing,
                        scopes: &rule.scopes,
                    };
                }
            } else if is_fresh(results, rule.staleness, freshness) {
                return Ok(());
            } else {
                denied = Denied::plain(Rejection::BundleStale);
            }
        }
        Err(denied)
    }

    /// The rules of one action that match the request's route, with their indices.
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

    fn denies(&self, request: &CanonicalRequest<'_>, results: &RuleResults) -> bool {
        self.on_route(Action::Deny, request)
            .any(|(at, _)| results.matches(at) && results.has_scopes(at))
    }
}

/// Returns whether keys and revocations are fresh enough. Only tokens whose keys come from the
/// bundle depend on its age.
fn is_fresh(results: &RuleResults, staleness: Staleness, freshness: Freshness) -> bool {
    let too_old = staleness
        .max_age
        .zip(freshness.age)
        .is_some_and(|(max, age)| age > max);
    !results.uses_bundle()
        || (!freshness.overdue && (staleness.serve || !(freshness.expired || too_old)))
}

fn parse_host(text: &str) -> Result<Authority<'_>, Rejection> {
    if host::is_too_long(text) {
        return Err(Rejection::HostTooLong);
    }
    Authority::parse(text).ok_or(Rejection::HostMalformed)
}
