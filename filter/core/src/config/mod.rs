//! The plugin configuration, which is plain data and read strictly.
//!
//! Fields have Istio's names where Istio has the concept (RequestAuthentication's `jwtRules`,
//! AuthorizationPolicy's `rules`), so that operators can paste them.

mod challenge;
mod jwt_rules;
mod reader;
mod route_rules;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::authn::{JwtRule, RequestAuthentication, TrustBundleConfig};
use crate::authz::host::Authority;
use crate::authz::rules::Rule;
use crate::authz::{AuthorizationPolicy, EscapedSlashes};
use crate::bundle::Staleness;
use crate::jose::Alg;
use crate::json::{Budget, Document, Value};
use crate::keys::KeySet;
use crate::policy::{Mistake, Mode, Policy};
use crate::{keys, limits};

pub use reader::ConfigErrors;
use reader::{Findings, Object};

/// Reads a plugin configuration.
///
/// # Errors
/// [`ConfigErrors`] with all mistakes.
pub fn read_policy(json: &str) -> Result<Policy, ConfigErrors> {
    // The size is checked before the text is parsed.
    if json.len() > limits::MAX_CONFIG_BYTES {
        return Err(unreadable(format!(
            "the configuration is larger than {} bytes",
            limits::MAX_CONFIG_BYTES
        )));
    }
    let document = Document::lent(json, Budget::CONFIG)
        .map_err(|error| unreadable(format!("the configuration cannot be read: {error}")))?;
    let findings = Findings::default();
    let root = Object::new(document.root(), String::new(), &findings);
    let policy = read(&root);
    let mistakes = findings.mistakes.into_inner();
    if !mistakes.is_empty() {
        return Err(ConfigErrors(mistakes));
    }
    Ok(Policy {
        warnings: findings.warnings.into_inner(),
        ..policy
    })
}

/// Returns the error for a text that is not read at all.
fn unreadable(message: String) -> ConfigErrors {
    ConfigErrors(alloc::vec![Mistake {
        path: String::new(),
        message
    }])
}

const FIELDS: [&str; 9] = [
    "mode",
    "statPrefix",
    "bypassCorsPreflight",
    "hostVerification",
    "pathWithEscapedSlashesAction",
    "challenge",
    "trustBundle",
    "jwtRules",
    "rules",
];

/// Reads the top-level object. The result is usable only if no mistake was recorded.
fn read(root: &Object<'_, '_>) -> Policy {
    root.only(&FIELDS);
    let trust_bundle = root
        .object("trustBundle")
        .map(|bundle| read_trust_bundle(&bundle));
    if !root.has("jwtRules") {
        root.mistake(
            "jwtRules",
            "missing; name at least one issuer whose tokens are accepted",
        );
    }
    let jwt_rules: Vec<JwtRule> = root
        .objects("jwtRules")
        .iter()
        .map(jwt_rules::read)
        .collect();
    jwt_rules::check_together(root, &jwt_rules, trust_bundle.is_some());
    let staleness = trust_bundle
        .as_ref()
        .map_or(Staleness::DEFAULT, |bundle| bundle.staleness);
    // The route rules depend on this setting: it decides which patterns can match.
    let slashes = root.word(
        "pathWithEscapedSlashesAction",
        EscapedSlashes::Reject,
        &[
            ("REJECT_REQUEST", EscapedSlashes::Reject),
            ("KEEP_UNCHANGED", EscapedSlashes::Keep),
        ],
    );
    // Route rules are compared with each other only if all of them were read without a mistake.
    let before = root.mistakes();
    let rules: Vec<Rule> = root
        .objects("rules")
        .iter()
        .map(|rule| route_rules::read(rule, staleness, slashes))
        .collect();
    // A rule with a mistake is read as broader than intended, so its coverage is meaningless.
    if root.mistakes() == before {
        route_rules::check_together(root, &rules);
    }
    // The prefix becomes part of Prometheus metric names.
    let stat_prefix = root.text("statPrefix").unwrap_or_default();
    if !stat_prefix
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    {
        root.mistake("statPrefix", "must be letters, digits and _");
    }
    Policy {
        mode: root.word(
            "mode",
            Mode::Enforce,
            &[("ENFORCE", Mode::Enforce), ("SHADOW", Mode::Shadow)],
        ),
        stat_prefix: stat_prefix.into(),
        bypass_cors_preflight: root.flag("bypassCorsPreflight"),
        host_verification: !root.has("hostVerification") || root.flag("hostVerification"),
        challenge: challenge::read(root),
        authn: RequestAuthentication::new(jwt_rules, trust_bundle),
        authz: AuthorizationPolicy::new(rules, staleness, slashes),
        warnings: Vec::new(),
    }
}

/// Reads `trustBundle`.
fn read_trust_bundle(bundle: &Object<'_, '_>) -> TrustBundleConfig {
    bundle.only(&[
        "cluster",
        "authority",
        "path",
        "keys",
        "embedded",
        "pollToken",
        "wait",
        "staleness",
    ]);
    let cluster = bundle
        .required_text("cluster", "name the Envoy cluster that reaches the issuer")
        .unwrap_or_default();
    let path = bundle.text("path").unwrap_or("/bundle");
    if !path.starts_with('/') || path.contains(['?', '#', ' ']) {
        bundle.mistake("path", "must be a path that starts with / and has no query");
    }
    if bundle
        .text("authority")
        .is_some_and(|authority| Authority::parse(authority).is_none())
    {
        bundle.mistake("authority", "must be a host, and a port up to 65535 if any");
    }
    TrustBundleConfig {
        cluster: cluster.into(),
        authority: bundle.text("authority").unwrap_or(cluster).into(),
        path: path.into(),
        pins: read_pins(bundle),
        embedded: bundle.text("embedded").map(Into::into),
        poll_token: bundle.text("pollToken").map(Into::into),
        wait_s: bundle.seconds("wait", 25, 1, 55),
        staleness: read_staleness(bundle).unwrap_or(Staleness::DEFAULT),
    }
}

/// Reads the pinned keys: `keys` is the list that `meshseal keys pins` prints.
fn read_pins(bundle: &Object<'_, '_>) -> KeySet {
    let Some(list) = bundle.value("keys") else {
        bundle.mistake(
            "keys",
            "missing; pin the issuer's bundle key as `meshseal keys pins` prints it",
        );
        return KeySet::empty();
    };
    // Two pins suffice for a rotation; more would only widen trust.
    if !(1..=2).contains(&list.items().count()) {
        bundle.mistake(
            "keys",
            "must be a list of one bundle key, or two during a rotation",
        );
        return KeySet::empty();
    }
    match KeySet::from_config(&jwks_text(list), &[Alg::EdDsa], false) {
        Ok(set) if set.len() == list.items().count() => set,
        Ok(_) => {
            bundle.mistake(
                "keys",
                "one key is given twice; a second pin is for the next bundle key",
            );
            KeySet::empty()
        }
        Err(problems) => {
            problems
                .into_iter()
                .for_each(|problem| bundle.mistake(&problem.path, problem.message));
            KeySet::empty()
        }
    }
}

/// Converts a list of JWKs to the text of a key set.
fn jwks_text(list: Value<'_>) -> String {
    format!("{{\"keys\":{list}}}")
}

/// Reads `staleness` of a parent object, if present.
fn read_staleness(parent: &Object<'_, '_>) -> Option<Staleness> {
    let object = parent.object("staleness")?;
    object.only(&["maxAge", "action"]);
    let max_age = object
        .has("maxAge")
        .then(|| object.seconds("maxAge", 0, 1, 7 * 24 * 3600));
    let serve = object.word("action", false, &[("DENY", false), ("SERVE", true)]);
    // An age limit without effect would give false security.
    if serve && max_age.is_some() {
        object.mistake(
            "maxAge",
            "has no effect with action SERVE; leave one of them out",
        );
    }
    Some(Staleness { max_age, serve })
}

/// Records the problems of a key set under the path of its field.
fn problems_at(object: &Object<'_, '_>, field: &str, problems: Vec<keys::KeyProblem>) {
    for problem in problems {
        let path = if problem.path.is_empty() {
            field.into()
        } else {
            format!("{field}.{}", problem.path)
        };
        object.mistake(&path, problem.message);
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
