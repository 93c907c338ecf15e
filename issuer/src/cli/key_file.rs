//! Key sets from files, for `meshseal token verify`.

use std::time::Duration;

use meshseal_core::authn::Trust;
use meshseal_core::jose::Alg;
use meshseal_core::keys::KeySet;
use meshseal_core::policy::Policy;
use serde_json::{Map, Value, json};

use super::{Failure, note};

/// Returns all usable keys of a set, including shared secrets. Unusable keys are reported and
/// skipped.
pub(super) fn any_keys(jwks: &str) -> Result<KeySet, Failure> {
    if let Ok(keys) = KeySet::from_config(jwks, &Alg::ALL, true) {
        return Ok(keys);
    }
    // Some keys are unusable: find them by parsing each key alone.
    let document: Value = serde_json::from_str(jwks)
        .map_err(|error| Failure::usage(format!("--jwks: not JSON: {error}")))?;
    let members = document.get("keys").and_then(Value::as_array);
    let members = members.ok_or_else(|| {
        Failure::usage("--jwks: not a key set: `keys` must be a list of JWKs (RFC 7517 §5)")
    })?;
    let mut usable = Vec::new();
    for (at, key) in members.iter().enumerate() {
        match KeySet::from_config(&json!({ "keys": [key] }).to_string(), &Alg::ALL, true) {
            Ok(_) => usable.push(key),
            Err(problems) => {
                for problem in problems {
                    note(&format!("--jwks: skipped key {at}: {problem}"));
                }
            }
        }
    }
    if usable.is_empty() {
        return Ok(KeySet::empty());
    }
    KeySet::from_config(&json!({ "keys": usable }).to_string(), &Alg::ALL, true).map_err(
        |problems| {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Failure::usage(format!("--jwks: {}", lines.join("; ")))
        },
    )
}

/// Changes a rule so that it fetches its keys. The URL is a placeholder, because no fetch happens.
pub(super) fn as_if_fetched(rule: &mut Map<String, Value>) {
    rule.remove("trustBundle");
    rule.remove("jwks");
    rule.entry("jwksUri")
        .or_insert_with(|| "https://keys.invalid/jwks".into());
    rule.entry("jwksCluster").or_insert_with(|| "file".into());
}

/// Removes a trust bundle that no rule uses after [`as_if_fetched`]. The configuration would be
/// rejected with it.
pub(super) fn drop_unused_bundle(configuration: &mut Value) {
    let rules = configuration.get("jwtRules").and_then(Value::as_array);
    let used = rules
        .into_iter()
        .flatten()
        .any(|rule| rule.get("trustBundle").is_some());
    if let (false, Some(members)) = (used, configuration.as_object_mut()) {
        members.remove("trustBundle");
    }
}

/// Gives a rule its keys as a fetch would. A set without usable keys leaves the rule without keys.
pub(super) fn give(
    trust: &mut Trust,
    policy: &Policy,
    rule: usize,
    jwks: &str,
) -> Result<(), Failure> {
    KeySet::from_provider(jwks, &Alg::ALL)
        .map_err(|problem| Failure::usage(format!("--jwks: {problem}")))?;
    match trust.accept_jwks(rule, jwks, policy.authn(), Duration::ZERO) {
        Ok(set) => set
            .passed_over()
            .iter()
            .for_each(|passed| note(&format!("--jwks: skipped {}", passed.problem))),
        Err(problem) => note(&format!("--jwks: {problem}")),
    }
    Ok(())
}
