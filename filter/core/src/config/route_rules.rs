//! `rules`: the rules of AuthorizationPolicy, with required scopes, public routes and staleness in
//! addition.

use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;

use super::jwt_rules::inside_dotted_claim;
use super::read_staleness;
use super::reader::Object;
use crate::authz::EscapedSlashes;
use crate::authz::host::HostMatcher;
use crate::authz::matching::{MethodMatcher, PathMatcher};
use crate::authz::rules::{Action, Condition, ConditionKey, Operation, Rule, Source};
use crate::bundle::Staleness;
use crate::matcher::{Match, Matcher, StringMatcher};

/// Reads one rule. `default` is its staleness if it states none.
pub(super) fn read(object: &Object<'_, '_>, default: Staleness, slashes: EscapedSlashes) -> Rule {
    object.only(&[
        "name",
        "action",
        "from",
        "to",
        "when",
        "scopes",
        "allowMissing",
        "staleness",
    ]);
    let rule = Rule {
        name: object.text("name").map(Into::into),
        action: object.word(
            "action",
            Action::Allow,
            &[("ALLOW", Action::Allow), ("DENY", Action::Deny)],
        ),
        from: object
            .objects("from")
            .iter()
            .filter_map(read_source)
            .collect(),
        to: object
            .objects("to")
            .iter()
            .filter_map(|entry| read_operation(entry, slashes))
            .collect(),
        when: object
            .objects("when")
            .iter()
            .filter_map(read_condition)
            .collect(),
        scopes: read_scopes(object),
        allow_missing: object.flag("allowMissing"),
        staleness: read_staleness(object).unwrap_or(default),
    };
    // A public route cannot depend on claims or scopes: a request without a token has neither.
    if rule.allow_missing && (rule.action == Action::Deny || !rule.matches_anonymous()) {
        object.mistake(
            "allowMissing",
            "a request without a token has no claims or scopes, so this rule can never match one; \
             use a separate rule",
        );
    }
    if rule.action == Action::Deny && object.has("staleness") {
        object.mistake("staleness", "has no effect on a DENY rule");
    }
    rule
}

/// Reads the required scopes.
///
/// RFC 6749 §3.3 allows printable ASCII without space, quote and backslash. Such scopes need no
/// escape in WWW-Authenticate.
fn read_scopes(object: &Object<'_, '_>) -> Vec<Box<str>> {
    let scopes = object.texts("scopes");
    for (at, scope) in scopes.iter().enumerate() {
        if !scope
            .bytes()
            .all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
        {
            object.mistake(
                &format!("scopes[{at}]"),
                "must be one scope, without spaces, quotes or backslashes (RFC 6749 §3.3)",
            );
        }
    }
    scopes
}

/// Reads an entry of `from`.
fn read_source(entry: &Object<'_, '_>) -> Option<Source> {
    entry.only(&["source"]);
    let Some(source) = entry.object("source") else {
        entry.mistake("source", "missing");
        return None;
    };
    source.only(&["requestPrincipals", "notRequestPrincipals"]);
    names_something(&source);
    Some(Source {
        principals: read_match(
            &source,
            "requestPrincipals",
            "notRequestPrincipals",
            StringMatcher::parse,
        ),
    })
}

/// Reads an entry of `to`.
fn read_operation(entry: &Object<'_, '_>, slashes: EscapedSlashes) -> Option<Operation> {
    entry.only(&["operation"]);
    let Some(operation) = entry.object("operation") else {
        entry.mistake("operation", "missing");
        return None;
    };
    operation.only(&[
        "methods",
        "notMethods",
        "hosts",
        "notHosts",
        "paths",
        "notPaths",
    ]);
    names_something(&operation);
    Some(Operation {
        methods: read_match(&operation, "methods", "notMethods", MethodMatcher::parse),
        hosts: read_match(&operation, "hosts", "notHosts", HostMatcher::parse),
        paths: read_match(&operation, "paths", "notPaths", |text| {
            PathMatcher::parse(text, slashes)
        }),
    })
}

/// Rejects an empty object, because it looks like a restriction but restricts nothing.
fn names_something(object: &Object<'_, '_>) {
    if object.is_empty() {
        object.mistake(
            "",
            "is empty and would match everything; remove it, or add a field",
        );
    }
}

/// Reads an entry of `when`.
fn read_condition(object: &Object<'_, '_>) -> Option<Condition> {
    object.only(&["key", "values", "notValues"]);
    let key =
        ConditionKey::parse(object.required_text("key", "such as request.auth.claims[groups]")?);
    if key.is_none() {
        object.mistake(
            "key",
            "must be request.auth.claims[name] (nested: [a][b], without quotes and surrounding \
             spaces), request.auth.principal, .audiences, .presenter, .subjectType, .delegated, \
             .actor or .delegationDepth",
        );
    }
    if !object.has("values") && !object.has("notValues") {
        object.mistake("values", "missing; give values or notValues");
    }
    let values = read_match(object, "values", "notValues", StringMatcher::parse);
    let key = key?;
    // A dot inside brackets is part of the name, which surprises authors of Istio policies.
    if let ConditionKey::Claim(path) = &key
        && let Some(remedy) = path.first().and_then(|name| inside_dotted_claim(name))
    {
        object.warning(
            "key",
            format!("brackets hold one name; write request.auth.claims{remedy} for a claim inside"),
        );
    }
    for (field, patterns) in [("values", &values.any), ("notValues", &values.none)] {
        for message in patterns.iter().filter_map(|pattern| key.refuses(pattern)) {
            object.mistake(field, message);
        }
    }
    Some(Condition { key, values })
}

/// Reads a pair of lists such as `paths` and `notPaths`.
fn read_match<P: Matcher>(
    object: &Object<'_, '_>,
    any: &str,
    none: &str,
    parse: impl Fn(&str) -> Result<P, &'static str>,
) -> Match<P> {
    let read = |field: &str| {
        let texts = object.texts(field);
        texts
            .iter()
            .enumerate()
            .filter_map(|(at, text)| {
                parse(text)
                    .map_err(|message| object.mistake(&format!("{field}[{at}]"), message))
                    .ok()
            })
            .collect::<Vec<P>>()
    };
    let read = Match {
        any: read(any),
        none: read(none),
    };
    if read.never_matches() {
        object.mistake(
            any,
            format!("can never match: {none} excludes all its values"),
        );
    }
    read
}

/// Rejects rules that can never decide a request, because their author expects them to have an
/// effect.
pub(super) fn check_together(root: &Object<'_, '_>, rules: &[Rule]) {
    for (at, rule) in rules.iter().enumerate() {
        for (other_at, other) in rules.iter().enumerate() {
            // DENY rules come before ALLOW rules, whatever their order.
            let denied = other.action == Action::Deny && rule.action == Action::Allow;
            let earlier = other_at < at && other.action == rule.action;
            // The broader rule decides at any position, since one ALLOW rule is enough. Of two
            // equal rules, the later is named.
            let broader = other_at > at && other.action == rule.action && !rule.covers(other);
            if (denied || earlier || broader) && other.covers(rule) {
                let what = match (denied, rule.action) {
                    (true, _) => "denies everything that this rule allows",
                    (_, Action::Allow) => {
                        "allows everything that this rule allows, with no more conditions"
                    }
                    (_, Action::Deny) => "denies everything that this rule denies",
                };
                root.mistake(
                    &format!("rules[{at}]"),
                    format!("can never decide: rules[{other_at}] {what}; narrow or drop one"),
                );
                break;
            }
        }
    }
}
