//! Route rules: `from`, `to` and `when` as AuthorizationPolicy has them, and required scopes (V22).

use alloc::boxed::Box;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::cell::OnceCell;

use super::CanonicalRequest;
use super::host::{Authority, HostMatcher};
use super::matching::{MethodMatcher, PathMatcher};
use crate::authn::JwtRule;
use crate::bundle::Staleness;
use crate::jose::Claims;
use crate::jose::claims::texts;
use crate::json::{Kind, Value};
use crate::limits;
use crate::matcher::{Match, Matcher as _, StringMatcher};

/// What a matching rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Lets pass.
    Allow,
    /// Refuses, whatever other rules say.
    Deny,
}

/// One rule. It matches when one of `from`, one of `to`, all of `when` and all `scopes` do; an
/// empty list matches.
#[derive(Clone, Debug)]
pub struct Rule {
    /// For people.
    pub name: Option<Box<str>>,
    /// What it does.
    pub action: Action,
    /// Whose token.
    pub from: Vec<Source>,
    /// Which requests.
    pub to: Vec<Operation>,
    /// Which claims.
    pub when: Vec<Condition>,
    /// Scopes that the token must have, all of them.
    pub scopes: Vec<Box<str>>,
    /// Whether a request without a token passes.
    pub allow_missing: bool,
    /// How old keys and revocations may be on this route.
    pub staleness: Staleness,
}

/// Whose token: `iss/sub`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// `requestPrincipals`.
    pub principals: Match<StringMatcher>,
}

/// Which requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Methods, with case.
    pub methods: Match<MethodMatcher>,
    /// Hosts, without case.
    pub hosts: Match<HostMatcher>,
    /// Paths without query.
    pub paths: Match<PathMatcher>,
}

/// A condition on the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What is looked at.
    pub key: ConditionKey,
    /// What it may be; with a list, any of its values.
    pub values: Match<StringMatcher>,
}

/// What a condition looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConditionKey {
    /// `request.auth.claims[a][b]`.
    Claim(Vec<Box<str>>),
    /// `request.auth.principal`: `iss/sub`.
    Principal,
    /// `request.auth.audiences`.
    Audiences,
    /// `request.auth.presenter`: `azp`.
    Presenter,
    /// `request.auth.subjectType`, ours: `client` when the subject is the client itself, else
    /// `user` (V23).
    SubjectType,
    /// `request.auth.delegated`, ours: `true` when the token has an actor (V24).
    Delegated,
    /// `request.auth.actor`, ours: the outermost actor as `iss/sub` or `iss/client_id` (V24).
    Actor,
    /// `request.auth.delegationDepth`, ours: the number of actors (V24).
    DelegationDepth,
}

/// Returns whether this can be meant as a claim's name. Quotes and blanks around it are not: they
/// would be part of the name.
pub(crate) fn is_claim_name(name: &str) -> bool {
    let quoted = |quote: char| name.starts_with(quote) || name.ends_with(quote);
    !name.is_empty()
        && name.trim() == name
        && !name.contains(['[', ']'])
        && !quoted('"')
        && !quoted('\'')
}

impl ConditionKey {
    /// Reads AuthorizationPolicy's spelling of a key.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "request.auth.principal" => Some(Self::Principal),
            "request.auth.audiences" => Some(Self::Audiences),
            "request.auth.presenter" => Some(Self::Presenter),
            "request.auth.subjectType" => Some(Self::SubjectType),
            "request.auth.delegated" => Some(Self::Delegated),
            "request.auth.actor" => Some(Self::Actor),
            "request.auth.delegationDepth" => Some(Self::DelegationDepth),
            _ => {
                let inner = text
                    .strip_prefix("request.auth.claims[")?
                    .strip_suffix(']')?;
                let path: Vec<Box<str>> = inner.split("][").map(Into::into).collect();
                path.iter()
                    .all(|name| is_claim_name(name))
                    .then_some(Self::Claim(path))
            }
        }
    }

    /// Error for a pattern that no value of this key can match.
    pub(crate) fn refuses(&self, pattern: &StringMatcher) -> Option<&'static str> {
        let text = if let StringMatcher::Exact(text) = pattern {
            &**text
        } else {
            ""
        };
        let depth = text
            .parse::<u8>()
            .is_ok_and(|depth| depth <= limits::MAX_JSON_DEPTH);
        match self {
            Self::SubjectType => {
                (!matches!(text, "client" | "user")).then_some("must be client or user")
            }
            Self::Delegated => {
                (!matches!(text, "true" | "false")).then_some("must be \"true\" or \"false\"")
            }
            Self::DelegationDepth => {
                let canonical = depth && (text == "0" || !text.starts_with(['0', '+']));
                (!canonical).then_some(
                    "must be a number from 0 to the deepest nesting of a token, without *",
                )
            }
            Self::Claim(_) | Self::Principal | Self::Audiences | Self::Presenter | Self::Actor => {
                None
            }
        }
    }
}

/// A request's token as rules see it, or that it has none.
pub(super) struct Caller<'c> {
    claims: Option<&'c Claims>,
    /// The rule that accepted the token.
    accepted_by: Option<&'c JwtRule>,
    /// Made once, by the first rule that asks.
    principal: OnceCell<Option<String>>,
}

impl<'c> Caller<'c> {
    pub(super) fn new(token: Option<(&'c Claims, &'c JwtRule)>) -> Self {
        Self {
            claims: token.map(|(claims, _)| claims),
            accepted_by: token.map(|(_, rule)| rule),
            principal: OnceCell::new(),
        }
    }

    /// Whether a scope is granted by one of the claims that hold scopes.
    fn has_scope(&self, scope: &str) -> bool {
        let Some(claims) = self.claims else {
            return false;
        };
        let paths = self
            .accepted_by
            .map_or(&[][..], |rule| rule.scope_claims.as_slice());
        if paths.is_empty() {
            claims.has_scope(scope)
        } else {
            paths.iter().any(|path| claims.has_scope_at(path, scope))
        }
    }

    /// V23: whether the subject is a service, not a user.
    fn is_client(&self, claims: &Claims) -> bool {
        let Some(setting) = self.accepted_by.and_then(|rule| rule.subject_type.as_ref()) else {
            return claims.subject_is_client();
        };
        let value = claims.get(&setting.claim);
        if setting.client_values.is_empty() {
            return claims
                .subject()
                .is_some_and(|subject| value.and_then(Value::as_str) == Some(subject));
        }
        let mut is_client = false;
        let mut see = |seen: Seen<'_>| {
            is_client |= setting
                .client_values
                .iter()
                .any(|pattern| seen.matches(pattern));
        };
        value
            .into_iter()
            .for_each(|value| each_value(&setting.claim, value, &mut see));
        is_client
    }

    /// `iss/sub`, as Istio has it.
    fn principal(&self) -> Option<&str> {
        let join = || {
            let (issuer, subject) = self
                .claims
                .and_then(|claims| claims.issuer().zip(claims.subject()))?;
            Some([issuer, subject].join("/"))
        };
        self.principal.get_or_init(join).as_deref()
    }
}

impl Rule {
    /// Whether it can match a request without a token: it has no scopes, and only `not…`
    /// conditions.
    #[must_use]
    pub fn matches_anonymous(&self) -> bool {
        let anonymous = Caller::new(None);
        self.matches_token(&anonymous) && self.has_scopes(&anonymous)
    }

    /// Returns whether one of `to` matches.
    #[must_use]
    pub(super) fn matches_route(&self, request: &CanonicalRequest<'_>) -> bool {
        self.to.is_empty()
            || self
                .to
                .iter()
                .any(|operation| operation.matches(request, self.action))
    }

    /// Whether `from` and `when` match; scopes are looked at apart, since they are answered
    /// differently.
    #[must_use]
    pub(super) fn matches_token(&self, caller: &Caller<'_>) -> bool {
        let from = self.from.is_empty() || self.from.iter().any(|source| source.matches(caller));
        from && self.when.iter().all(|condition| condition.matches(caller))
    }

    /// Whether the token has every required scope.
    #[must_use]
    pub(super) fn has_scopes(&self, caller: &Caller<'_>) -> bool {
        self.scopes.iter().all(|scope| caller.has_scope(scope))
    }

    /// Whether this rule is sure to match whenever `other` does.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let route = |operation: &Operation| self.to.iter().any(|ours| ours.covers(operation));
        let to = self.to.is_empty() || (!other.to.is_empty() && other.to.iter().all(route));
        let from = self.from.is_empty() || self.from == other.from;
        let when = self
            .when
            .iter()
            .all(|condition| other.when.contains(condition));
        let scopes = self.scopes.iter().all(|scope| other.scopes.contains(scope));
        let missing = self.allow_missing || !other.allow_missing;
        let staleness = self.staleness.is_as_patient_as(other.staleness);
        to && from && when && scopes && missing && staleness
    }
}

impl Source {
    fn matches(&self, caller: &Caller<'_>) -> bool {
        caller
            .principal()
            .map_or(self.principals.any.is_empty(), |principal| {
                self.principals.matches(principal)
            })
    }
}

impl Operation {
    fn matches(&self, request: &CanonicalRequest<'_>, action: Action) -> bool {
        let host = self.hosts.is_empty()
            || request
                .host
                .as_ref()
                .is_some_and(|host| self.matches_host(host, action));
        self.methods.matches(request.method) && host && self.paths.matches(&request.path)
    }

    /// If the scheme leaves open which port an absent port is, DENY rules match and ALLOW rules do
    /// not.
    fn matches_host(&self, host: &Authority<'_>, action: Action) -> bool {
        let Match { any, none } = &self.hosts;
        let (sure, possible) = (
            |pattern: &HostMatcher| pattern.matches(host),
            |pattern: &HostMatcher| pattern.may_match(host),
        );
        match action {
            Action::Allow => (any.is_empty() || any.iter().any(sure)) && !none.iter().any(possible),
            Action::Deny => (any.is_empty() || any.iter().any(possible)) && !none.iter().any(sure),
        }
    }

    /// Whether ports of hosts decide here.
    pub(super) fn compares_ports(&self) -> bool {
        self.hosts
            .any
            .iter()
            .chain(&self.hosts.none)
            .any(HostMatcher::has_port)
    }

    fn covers(&self, other: &Self) -> bool {
        self.methods.covers(&other.methods)
            && self.hosts.covers(&other.hosts)
            && self.paths.covers(&other.paths)
    }

    /// Returns whether paths decide here.
    pub(super) fn compares_paths(&self) -> bool {
        !self.paths.is_empty()
    }

    /// Returns whether hosts decide here.
    pub(super) fn compares_hosts(&self) -> bool {
        !self.hosts.is_empty()
    }
}

impl Condition {
    /// With several values: one of them must be admitted and none excluded. Without any: only
    /// `notValues` alone is met.
    fn matches(&self, caller: &Caller<'_>) -> bool {
        let mut admitted = self.values.any.is_empty();
        let mut excluded = false;
        let mut see = |seen: Seen<'_>| {
            admitted |= self.values.any.iter().any(|pattern| seen.matches(pattern));
            excluded |= self.values.none.iter().any(|pattern| seen.matches(pattern));
        };
        let Some(claims) = caller.claims else {
            return admitted;
        };
        match &self.key {
            ConditionKey::Principal => caller.principal().map(Seen::Text).into_iter().for_each(see),
            ConditionKey::SubjectType => see(Seen::Text(if caller.is_client(claims) {
                "client"
            } else {
                "user"
            })),
            ConditionKey::Delegated => see(Seen::Text(if claims.is_delegated() {
                "true"
            } else {
                "false"
            })),
            ConditionKey::Actor => {
                if let Some((issuer, name)) = claims.actor() {
                    see(Seen::Text(&[issuer, name].join("/")));
                }
            }
            ConditionKey::DelegationDepth => {
                see(Seen::Text(&claims.delegation_depth().to_string()));
            }
            ConditionKey::Audiences => claims.audiences().map(Seen::Text).for_each(see),
            ConditionKey::Presenter => {
                let presenter = claims.get(&[Box::from("azp")]).and_then(Value::as_str);
                presenter.map(Seen::Text).into_iter().for_each(see);
            }
            ConditionKey::Claim(path) => claims
                .get(path)
                .into_iter()
                .for_each(|value| each_value(path, value, &mut see)),
        }
        admitted && !excluded
    }
}

/// One value of a claim, as patterns see it.
#[derive(Clone, Copy)]
enum Seen<'v> {
    /// A string, a number as it was signed, or a boolean.
    Text(&'v str),
    /// An object, or a list inside a list: no text, but present.
    Structure,
}

impl Seen<'_> {
    fn matches(self, pattern: &StringMatcher) -> bool {
        match self {
            Self::Text(text) => pattern.matches(text),
            Self::Structure => *pattern == StringMatcher::Present,
        }
    }
}

/// Passes each value of a claim to `see`: the claim itself, or each item of a list. Null is no
/// value. `scope` and `permission` hold several, separated by spaces, as in Istio.
fn each_value(path: &[Box<str>], value: Value<'_>, see: &mut impl FnMut(Seen<'_>)) {
    let spaced = matches!(path, [only] if matches!(&**only, "scope" | "permission"));
    if spaced && matches!(value.kind(), Kind::String | Kind::Array) {
        let each = texts(value)
            .flat_map(|list| list.split(' '))
            .filter(|text| !text.is_empty());
        return each.map(Seen::Text).for_each(see);
    }
    let one_or_many = (value.kind() != Kind::Array)
        .then_some(value)
        .into_iter()
        .chain(value.items());
    for one in one_or_many {
        match one.kind() {
            Kind::String => see(Seen::Text(one.as_str().unwrap_or_default())),
            Kind::Bool | Kind::Number => see(Seen::Text(&one.to_string())),
            Kind::Array | Kind::Object => see(Seen::Structure),
            Kind::Null => {}
        }
    }
}
