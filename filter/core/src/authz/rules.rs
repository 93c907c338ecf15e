//! Route rules: `from`, `to` and `when` of AuthorizationPolicy, and required scopes (V22).

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

/// Effect of a matching rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Allows the request.
    Allow,
    /// Denies the request, whatever other rules allow.
    Deny,
}

/// One rule. It matches if one entry of `from`, one of `to`, all of `when` and all `scopes` match;
/// an empty list always matches.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Name for logs and messages.
    pub name: Option<Box<str>>,
    /// Effect of the rule.
    pub action: Action,
    /// Token sources (`iss/sub`) of which one must match.
    pub from: Vec<Source>,
    /// Operations of which one must match.
    pub to: Vec<Operation>,
    /// Conditions on claims, all of which must match.
    pub when: Vec<Condition>,
    /// Scopes, all of which the token must have.
    pub scopes: Vec<Box<str>>,
    /// True if the rule admits requests without a token.
    pub allow_missing: bool,
    /// Maximum age of keys and revocations on this route.
    pub staleness: Staleness,
}

/// An entry of `from`: principals in the form `iss/sub`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// `requestPrincipals`.
    pub principals: Match<StringMatcher>,
}

/// An entry of `to`: properties of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Methods, compared case-sensitively.
    pub methods: Match<MethodMatcher>,
    /// Hosts, compared case-insensitively.
    pub hosts: Match<HostMatcher>,
    /// Paths without query.
    pub paths: Match<PathMatcher>,
}

/// A condition on the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Property of the token.
    pub key: ConditionKey,
    /// Accepted values; for a list, one of its values must match.
    pub values: Match<StringMatcher>,
}

/// Property of a token that a condition compares.
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
    /// `request.auth.subjectType`, a Meshseal addition: `client` if the subject is the client
    /// itself, else `user` (V23).
    SubjectType,
    /// `request.auth.delegated`, a Meshseal addition: `true` if the token has an actor (V24).
    Delegated,
    /// `request.auth.actor`, a Meshseal addition: the outermost actor as `iss/sub` or
    /// `iss/client_id` (V24).
    Actor,
    /// `request.auth.delegationDepth`, a Meshseal addition: the number of actors (V24).
    DelegationDepth,
}

/// Returns whether this is plausible as a claim's name. Surrounding quotes and spaces would be part
/// of the name, which is hardly intended.
pub(crate) fn is_claim_name(name: &str) -> bool {
    !name.is_empty()
        && name.trim() == name
        && !name.contains(['[', ']'])
        && !name.starts_with(['"', '\''])
        && !name.ends_with(['"', '\''])
}

impl ConditionKey {
    /// Parses a key in the notation of AuthorizationPolicy.
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
                // The path is split at `][`, so names may contain dots.
                let path: Vec<Box<str>> = inner.split("][").map(Into::into).collect();
                path.iter()
                    .all(|name| is_claim_name(name))
                    .then_some(Self::Claim(path))
            }
        }
    }

    /// Returns the error for a pattern that no value of this key can match.
    pub(crate) fn refuses(&self, pattern: &StringMatcher) -> Option<&'static str> {
        let text = if let StringMatcher::Exact(text) = pattern {
            &**text
        } else {
            ""
        };
        // The nesting limit bounds the depth of a chain of actors.
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
                    "must be a number from 0 to the maximum nesting of a token, without *",
                )
            }
            Self::Claim(_) | Self::Principal | Self::Audiences | Self::Presenter | Self::Actor => {
                None
            }
        }
    }
}

/// The token of a request as rules see it, or its absence.
pub(super) struct Caller<'c> {
    claims: Option<&'c Claims>,
    /// Rule that accepted the token.
    accepted_by: Option<&'c JwtRule>,
    /// `iss/sub`, joined for the first rule that needs it.
    principal: OnceCell<Option<String>>,
}

impl<'c> Caller<'c> {
    /// Wraps the claims and the rule that accepted them; `None` without a token.
    pub(super) fn new(token: Option<(&'c Claims, &'c JwtRule)>) -> Self {
        Self {
            claims: token.map(|(claims, _)| claims),
            accepted_by: token.map(|(_, rule)| rule),
            principal: OnceCell::new(),
        }
    }

    /// Returns whether one of the claims that hold scopes grants this scope.
    fn has_scope(&self, scope: &str) -> bool {
        let Some(claims) = self.claims else {
            return false;
        };
        // A rule without `scopeClaims` uses `scope`.
        let paths = self
            .accepted_by
            .map_or(&[][..], |rule| rule.scope_claims.as_slice());
        if paths.is_empty() {
            claims.has_scope(scope)
        } else {
            paths.iter().any(|path| claims.has_scope_at(path, scope))
        }
    }

    /// Returns whether the subject is a service rather than a user (V23).
    fn is_client(&self, claims: &Claims) -> bool {
        let Some(setting) = self.accepted_by.and_then(|rule| rule.subject_type.as_ref()) else {
            return claims.subject_is_client();
        };
        let value = claims.get(&setting.claim);
        // Without values, the claim repeats the subject in tokens of a service.
        if setting.client_values.is_empty() {
            return claims
                .subject()
                .is_some_and(|subject| value.and_then(Value::as_str) == Some(subject));
        }
        let mut is_client = false;
        if let Some(value) = value {
            each_value(&setting.claim, value, &mut |seen: Seen<'_>| {
                is_client |= setting
                    .client_values
                    .iter()
                    .any(|pattern| seen.matches(pattern));
            });
        }
        is_client
    }

    /// Returns `iss/sub`, as Istio defines it.
    fn principal(&self) -> Option<&str> {
        self.principal
            .get_or_init(|| {
                let (issuer, subject) = self
                    .claims
                    .and_then(|claims| claims.issuer().zip(claims.subject()))?;
                Some([issuer, subject].join("/"))
            })
            .as_deref()
    }
}

impl Rule {
    /// Returns whether the rule can match a request without a token: it has no scopes, and only
    /// negative conditions.
    #[must_use]
    pub fn matches_anonymous(&self) -> bool {
        let anonymous = Caller::new(None);
        self.matches_token(&anonymous) && self.has_scopes(&anonymous)
    }

    /// Returns whether one entry of `to` matches the request.
    #[must_use]
    pub(super) fn matches_route(&self, request: &CanonicalRequest<'_>) -> bool {
        self.to.is_empty()
            || self
                .to
                .iter()
                .any(|operation| operation.matches(request, self.action))
    }

    /// Returns whether `from` and `when` match. Scopes are checked separately, because a missing
    /// scope has its own response.
    #[must_use]
    pub(super) fn matches_token(&self, caller: &Caller<'_>) -> bool {
        let from = self.from.is_empty() || self.from.iter().any(|source| source.matches(caller));
        from && self.when.iter().all(|condition| condition.matches(caller))
    }

    /// Returns whether the token has every required scope.
    #[must_use]
    pub(super) fn has_scopes(&self, caller: &Caller<'_>) -> bool {
        self.scopes.iter().all(|scope| caller.has_scope(scope))
    }

    /// Returns whether this rule certainly matches whenever `other` does.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        // Each part is compared on its own; an uncertain part means `false`.
        let to = self.to.is_empty()
            || (!other.to.is_empty()
                && other
                    .to
                    .iter()
                    .all(|operation| self.to.iter().any(|ours| ours.covers(operation))));
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
    /// Returns whether the principal matches. Without a principal, only negative patterns match.
    fn matches(&self, caller: &Caller<'_>) -> bool {
        caller
            .principal()
            .map_or(self.principals.any.is_empty(), |principal| {
                self.principals.matches(principal)
            })
    }
}

impl Operation {
    /// Returns whether method, host and path match.
    fn matches(&self, request: &CanonicalRequest<'_>, action: Action) -> bool {
        let host = self.hosts.is_empty()
            || request
                .host
                .as_ref()
                .is_some_and(|host| self.matches_host(host, action));
        self.methods.matches(request.method) && host && self.paths.matches(&request.path)
    }

    /// Returns whether the host matches.
    ///
    /// If the scheme leaves open which port an absent port stands for, DENY rules match and ALLOW
    /// rules do not.
    fn matches_host(&self, host: &Authority<'_>, action: Action) -> bool {
        let Match { any, none } = &self.hosts;
        let (sure, possible) = (
            |pattern: &HostMatcher| pattern.matches(host),
            |pattern: &HostMatcher| pattern.may_match(host),
        );
        // A negated pattern excludes requests, so it uses the opposite certainty.
        match action {
            Action::Allow => (any.is_empty() || any.iter().any(sure)) && !none.iter().any(possible),
            Action::Deny => (any.is_empty() || any.iter().any(possible)) && !none.iter().any(sure),
        }
    }

    /// Returns whether the rule compares ports of hosts.
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

    /// Returns whether the rule compares paths.
    pub(super) fn compares_paths(&self) -> bool {
        !self.paths.is_empty()
    }

    /// Returns whether the rule compares hosts.
    pub(super) fn compares_hosts(&self) -> bool {
        !self.hosts.is_empty()
    }
}

impl Condition {
    /// Returns whether the property satisfies the condition.
    ///
    /// If it has several values, one must be admitted and no value excluded. If it has no value,
    /// only `notValues` without `values` matches.
    fn matches(&self, caller: &Caller<'_>) -> bool {
        let mut admitted = self.values.any.is_empty();
        let mut excluded = false;
        let mut see = |seen: Seen<'_>| {
            admitted |= self.values.any.iter().any(|pattern| seen.matches(pattern));
            excluded |= self.values.none.iter().any(|pattern| seen.matches(pattern));
        };
        // A request without a token has no values.
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

/// One value of a claim, as patterns compare it.
#[derive(Clone, Copy)]
enum Seen<'v> {
    /// A string, a number as it was signed, or a boolean.
    Text(&'v str),
    /// An object, or a list inside a list: it has no text, but it is present.
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

/// Passes each value of a claim to `see`: the claim itself, or each item of a list. Null is not a
/// value. As in Istio, `scope` and `permission` hold several values separated by spaces.
fn each_value(path: &[Box<str>], value: Value<'_>, see: &mut impl FnMut(Seen<'_>)) {
    // Only the top-level claims of these names are split.
    let spaced = matches!(path, [only] if matches!(&**only, "scope" | "permission"));
    if spaced && matches!(value.kind(), Kind::String | Kind::Array) {
        let each = texts(value)
            .flat_map(|list| list.split(' '))
            .filter(|text| !text.is_empty());
        return each.map(Seen::Text).for_each(see);
    }
    // A list matches if one of its items does.
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
