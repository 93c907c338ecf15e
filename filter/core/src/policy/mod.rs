//! Policy: a parsed plugin configuration, and what it says about a request whose token has been
//! verified.

pub mod host;
pub mod matching;
mod normal;
pub mod rules;
mod standing;

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

use crate::config::{
    self, Challenge, ConfigErrors, JwtRule, KeySource, Mistake, Mode, Staleness, TrustBundleConfig,
};
use crate::keys::{Key, KeySet, PassedOver};
use crate::limits;
use crate::rejection::Rejection;
use crate::trust::Freshness;
use crate::validate::Verified;
use host::{Authority, DefaultPorts};
pub use normal::{ESCAPED_SLASH, EscapedSlashes};
use rules::{Action, Rule};
pub use standing::Standing;

/// A whole plugin configuration.
#[derive(Clone, Debug)]
pub struct Policy {
    pub(crate) mode: Mode,
    pub(crate) stat_prefix: Box<str>,
    pub(crate) bypass_cors_preflight: bool,
    pub(crate) host_verification: bool,
    pub(crate) challenge: Challenge,
    pub(crate) trust_bundle: Option<TrustBundleConfig>,
    pub(crate) jwt_rules: Vec<JwtRule>,
    pub(crate) route_rules: RouteRules,
    pub(crate) warnings: Vec<Mistake>,
}

/// The route rules, and what is the same for every request.
#[derive(Clone, Debug)]
pub(crate) struct RouteRules {
    rules: Vec<Rule>,
    /// Whether the spelling of paths, and of hosts, decides anywhere.
    compares: (bool, bool),
    /// Whether ports of hosts decide anywhere.
    compares_ports: bool,
    slashes: EscapedSlashes,
    /// Whether there is a rule that allows; without one, only what is denied is refused.
    allows: bool,
    /// What the rules make of a request without a token.
    anonymous: Standing,
}

impl RouteRules {
    pub(crate) fn new(rules: Vec<Rule>, slashes: EscapedSlashes) -> Self {
        let operations = rules
            .iter()
            .flat_map(|rule| &rule.to)
            .map(rules::Operation::compares);
        let compares = operations.fold((false, false), |(paths, hosts), (path, host)| {
            (paths | path, hosts | host)
        });
        let compares_ports = rules
            .iter()
            .flat_map(|rule| &rule.to)
            .any(rules::Operation::compares_ports);
        let allows = rules.iter().any(|rule| rule.action == Action::Allow);
        let anonymous = Standing::of(&rules, None, None);
        Self {
            rules,
            compares,
            compares_ports,
            slashes,
            allows,
            anonymous,
        }
    }

    /// The rules of one action that match the request's route, with their places.
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

    fn denies(&self, request: &CanonicalRequest<'_>, standing: &Standing) -> bool {
        self.on_route(Action::Deny, request)
            .any(|(at, _)| standing.matches(at) && standing.has_scopes(at))
    }
}

/// What rules look at in a request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// `:method`.
    pub method: &'a str,
    /// `:authority`.
    pub host: &'a str,
    /// `:path`, with query.
    pub path: &'a str,
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

impl<'a> Request<'a> {
    fn path_without_query(&self) -> &'a str {
        let end = self.path.bytes().position(|byte| byte == b'?');
        end.and_then(|end| self.path.get(..end))
            .unwrap_or(self.path)
    }
}

/// A request in the form that rules compare; made by [`Policy::canonical`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanonicalRequest<'a> {
    method: &'a str,
    /// `None` if no rule looks at hosts.
    host: Option<Authority<'a>>,
    path: Cow<'a, str>,
}

impl CanonicalRequest<'_> {
    /// The path without query, its escapes resolved; [`ESCAPED_SLASH`] stands for a kept `%2F`. As
    /// it came if no rule looks at paths.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// States the ports that an authority without port may stand for. All default ports, if this is
    /// not called.
    #[must_use]
    pub fn with_default_ports(mut self, ports: DefaultPorts) -> Self {
        if let Some(host) = &mut self.host {
            host.set_default_ports(ports);
        }
        self
    }
}

/// Longest time for which a policy goes on accepting tokens by one bundle. A poll states it
/// (`x-meshseal-staleness`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StalenessBound {
    /// Until this many seconds after the bundle's issue, but not past its not-after.
    Seconds(u64),
    /// Until the bundle's not-after.
    NotAfter,
    /// Without limit: some rule says `action: SERVE`.
    Unbounded,
}

impl StalenessBound {
    /// The bound of a rule.
    fn of(staleness: Staleness) -> Self {
        match staleness {
            Staleness { serve: true, .. } => Self::Unbounded,
            Staleness { max_age: None, .. } => Self::NotAfter,
            Staleness {
                max_age: Some(seconds),
                ..
            } => Self::Seconds(seconds),
        }
    }

    /// The longer of two bounds.
    #[must_use]
    pub fn longer(self, other: Self) -> Self {
        match (self, other) {
            (Self::Unbounded, _) | (_, Self::Unbounded) => Self::Unbounded,
            (Self::NotAfter, _) | (_, Self::NotAfter) => Self::NotAfter,
            (Self::Seconds(one), Self::Seconds(two)) => Self::Seconds(one.max(two)),
        }
    }

    /// Reads the form that [`Display`](fmt::Display) writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "not-after" => Some(Self::NotAfter),
            "unbounded" => Some(Self::Unbounded),
            _ if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                text.parse().ok().map(Self::Seconds)
            }
            _ => None,
        }
    }
}

impl fmt::Display for StalenessBound {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seconds(seconds) => write!(out, "{seconds}"),
            Self::NotAfter => out.write_str("not-after"),
            Self::Unbounded => out.write_str("unbounded"),
        }
    }
}

impl Policy {
    /// Returns the longest time for which any rule goes on by one bundle; zero if no issuer's keys
    /// come from the bundle.
    #[must_use]
    pub fn staleness_bound(&self) -> StalenessBound {
        let uses_bundle = self
            .jwt_rules
            .iter()
            .any(|rule| matches!(rule.keys, KeySource::Bundle));
        let Some(bundle) = self.trust_bundle.as_ref().filter(|_| uses_bundle) else {
            return StalenessBound::Seconds(0);
        };
        if !self.route_rules.allows {
            return StalenessBound::of(bundle.staleness);
        }
        let allowing = self
            .route_rules
            .rules
            .iter()
            .filter(|rule| rule.action == Action::Allow);
        allowing.fold(StalenessBound::Seconds(0), |longest, rule| {
            longest.longer(StalenessBound::of(rule.staleness))
        })
    }

    /// Reads a plugin configuration (JSON).
    ///
    /// # Errors
    /// Every mistake in it, each with its path.
    pub fn from_json(json: &str) -> Result<Self, ConfigErrors> {
        config::parse(json)
    }

    /// Returns what is allowed but probably not meant, each with its path.
    #[must_use]
    pub fn warnings(&self) -> Vec<Mistake> {
        self.warnings.clone()
    }

    /// What a refused caller is told.
    #[must_use]
    pub fn challenge(&self) -> &Challenge {
        &self.challenge
    }

    /// The accepted issuers.
    #[must_use]
    pub fn jwt_rules(&self) -> &[JwtRule] {
        &self.jwt_rules
    }

    /// Whether verdicts are carried out.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether CORS preflight requests pass without a token.
    #[must_use]
    pub fn bypass_cors_preflight(&self) -> bool {
        self.bypass_cors_preflight
    }

    /// Whether the proxy may be asked to verify signatures that it has shown to verify rightly.
    #[must_use]
    pub fn host_verification(&self) -> bool {
        self.host_verification
    }

    /// The keys that stand in the configuration itself.
    pub fn inline_keys(&self) -> impl Iterator<Item = &Key> {
        self.inline_sets().flat_map(KeySet::iter)
    }

    /// How many keys of the configuration itself are of unknown types, or otherwise of no use.
    #[must_use]
    pub fn skipped_inline_keys(&self) -> usize {
        self.inline_sets().map(KeySet::skipped).sum()
    }

    /// The keys of the configuration itself that were passed over, with the index of their rule.
    pub fn passed_over_inline_keys(&self) -> impl Iterator<Item = (usize, &PassedOver)> {
        self.jwt_rules.iter().enumerate().flat_map(|(at, rule)| {
            let set = if let KeySource::Inline(set) = &rule.keys {
                Some(set)
            } else {
                None
            };
            set.into_iter()
                .flat_map(KeySet::passed_over)
                .map(move |passed| (at, passed))
        })
    }

    fn inline_sets(&self) -> impl Iterator<Item = &KeySet> {
        self.jwt_rules.iter().filter_map(|rule| {
            if let KeySource::Inline(set) = &rule.keys {
                Some(set)
            } else {
                None
            }
        })
    }

    /// How the trust bundle is received, if it is.
    #[must_use]
    pub fn trust_bundle(&self) -> Option<&TrustBundleConfig> {
        self.trust_bundle.as_ref()
    }

    /// A part of the names of metrics; may be empty.
    #[must_use]
    pub fn stat_prefix(&self) -> &str {
        &self.stat_prefix
    }

    /// Every header that an output may set, to be removed from requests first (V21). Lower case;
    /// may repeat.
    pub fn sanitized_headers(&self) -> impl Iterator<Item = &str> {
        self.jwt_rules.iter().flat_map(|rule| {
            let claims = rule
                .output_claim_to_headers
                .iter()
                .map(|output| output.header.as_ref());
            rule.output_payload_to_header
                .as_deref()
                .into_iter()
                .chain(claims)
        })
    }

    /// The rules for an issuer, compared exactly (V9). Each has keys of its own.
    pub fn jwt_rules_for(&self, issuer: &str) -> impl Iterator<Item = (usize, &JwtRule)> {
        self.jwt_rules
            .iter()
            .enumerate()
            .filter(move |(_, rule)| *rule.issuer == *issuer)
    }

    /// Returns the request as rules compare it. Path and host are brought to their canonical form
    /// if any rule looks at them.
    ///
    /// # Errors
    /// [`Rejection::PathNotNormalized`] for a path that servers may read in two ways,
    /// [`Rejection::HostMalformed`] for an authority that is not one host with at most one port,
    /// [`Rejection::PathTooLong`] and [`Rejection::HostTooLong`].
    pub fn canonical<'a>(&self, request: &Request<'a>) -> Result<CanonicalRequest<'a>, Rejection> {
        let (paths, hosts) = self.route_rules.compares;
        let path = request.path_without_query();
        let path = if paths {
            if path.len() > limits::MAX_PATH_BYTES {
                return Err(Rejection::PathTooLong);
            }
            normal::canonical_path(path, self.route_rules.slashes)
                .ok_or(Rejection::PathNotNormalized)?
        } else {
            Cow::Borrowed(path)
        };
        let host = if hosts {
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
        self.route_rules.compares_ports
            && request.host.as_ref().is_some_and(|host| !host.has_port())
    }

    /// Whether a request without a token passes: some rule with `allowMissing` matches its route
    /// and no DENY rule does.
    #[must_use]
    pub fn admits_anonymous(&self, request: &CanonicalRequest<'_>) -> bool {
        let rules = &self.route_rules;
        let public = rules
            .rules
            .iter()
            .any(|rule| rule.allow_missing && rule.matches_route(request));
        public && !rules.denies(request, &rules.anonymous)
    }

    /// What the rules make of a token, whatever the request.
    #[must_use]
    pub fn standing(&self, token: &Verified) -> Standing {
        let accepted_by = self.jwt_rules.get(token.jwt_rule());
        Standing::of(
            &self.route_rules.rules,
            accepted_by.map(|rule| (token.claims(), rule)),
            accepted_by.map(|_| token.jwt_rule()),
        )
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
        standing: &Standing,
        freshness: Freshness,
    ) -> Result<(), Denied<'_>> {
        let rules = &self.route_rules;
        if rules.denies(request, standing) {
            return Err(Denied::plain(Rejection::RuleDenied));
        }
        let fresh = |staleness: Staleness| self.is_fresh(standing, staleness, freshness);
        if !rules.allows {
            let default = self
                .trust_bundle
                .as_ref()
                .map_or(Staleness::DEFAULT, |bundle| bundle.staleness);
            return if fresh(default) {
                Ok(())
            } else {
                Err(Denied::plain(Rejection::BundleStale))
            };
        }
        let mut denied = Denied::plain(Rejection::RuleUnmatched);
        for (at, rule) in rules
            .on_route(Action::Allow, request)
            .filter(|(at, _)| standing.matches(*at))
        {
            if !standing.has_scopes(at) {
                if denied.rejection == Rejection::RuleUnmatched {
                    denied = Denied {
                        rejection: Rejection::ScopeMissing,
                        scopes: &rule.scopes,
                    };
                }
            } else if fresh(rule.staleness) {
                return Ok(());
            } else {
                denied = Denied::plain(Rejection::BundleStale);
            }
        }
        Err(denied)
    }

    /// Only tokens whose keys come from the bundle depend on its age.
    fn is_fresh(&self, standing: &Standing, staleness: Staleness, freshness: Freshness) -> bool {
        let rule = standing.jwt_rule().and_then(|at| self.jwt_rules.get(at));
        let from_bundle = rule.is_some_and(|rule| matches!(rule.keys, KeySource::Bundle));
        let too_old = staleness
            .max_age
            .zip(freshness.age)
            .is_some_and(|(max, age)| age > max);
        !from_bundle || (!freshness.overdue && (staleness.serve || !(freshness.expired || too_old)))
    }
}

fn parse_host(text: &str) -> Result<Authority<'_>, Rejection> {
    if host::is_too_long(text) {
        return Err(Rejection::HostTooLong);
    }
    Authority::parse(text).ok_or(Rejection::HostMalformed)
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
