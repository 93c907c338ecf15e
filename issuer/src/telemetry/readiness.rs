//! Readiness of each capability of the issuer.

use serde_json::{Map, Value, json};

use crate::issuer::Issuer;
use crate::store::{Health, Outage};

/// A function of the issuer that can be unavailable while others work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Capability {
    /// `/jwks` and discovery.
    Keys,
    /// `/bundle` for proxies that hold one.
    Bundle,
    /// `/token`.
    Mint,
    /// `/introspect`.
    Introspect,
    /// `/revoke` and the changes of keys.
    Revoke,
}

impl Capability {
    pub(super) const ALL: [Self; 5] = [
        Self::Keys,
        Self::Bundle,
        Self::Mint,
        Self::Introspect,
        Self::Revoke,
    ];

    pub(super) fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|capability| capability.name() == name)
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Bundle => "bundle",
            Self::Mint => "mint",
            Self::Introspect => "introspect",
            Self::Revoke => "revoke",
        }
    }

    /// Returns the reason why this capability is unavailable now, or `None` if it works.
    pub(super) fn problem(self, issuer: &Issuer) -> Option<String> {
        if issuer.ending.is_cancelled() {
            return Some("shutting down".to_owned());
        }
        let (published, health) = (issuer.publisher.current(), issuer.store.health());
        match self {
            // `/jwks` is served from memory, without limit.
            Self::Keys => None,
            // Bundles of the last state are served until their not-after.
            Self::Bundle if published.bundle_signer.is_none() => unusable("bundle"),
            Self::Bundle => issuer
                .publisher
                .is_expired()
                .then(|| database(health.read.as_ref())),
            // Minting needs a fresh state, a right clock, and a database that can lease token
            // indices; leased indices suffice until they are used up.
            Self::Mint if published.token_signer.is_none() => unusable("signing"),
            Self::Mint => tampered(issuer)
                .or_else(|| stale(issuer, &health))
                .or_else(|| issuer.clock.read().fault())
                .or_else(|| {
                    health
                        .write
                        .as_ref()
                        .filter(|_| issuer.indices.is_empty())
                        .map(|outage| database(Some(outage)))
                }),
            // A token may have been revoked since the last state.
            Self::Introspect => stale(issuer, &health),
            // A revocation counts only when it is on the disk.
            Self::Revoke => tampered(issuer)
                .or_else(|| stale(issuer, &health))
                .or_else(|| health.write.as_ref().map(|outage| database(Some(outage)))),
        }
    }
}

fn unusable(purpose: &str) -> Option<String> {
    Some(format!("the {purpose} key cannot be used; see the log"))
}

fn tampered(issuer: &Issuer) -> Option<String> {
    issuer.publisher.tampered().map(|_| TAMPERED.to_owned())
}

/// Returns the reason why the published state is not fresh, or `None` if it is.
fn stale(issuer: &Issuer, health: &Health) -> Option<String> {
    (!issuer.publisher.is_fresh())
        .then(|| tampered(issuer).unwrap_or_else(|| database(health.read.as_ref())))
}

/// Reason for a database with forged rows. It does not name the rows: their names hold subjects and
/// clients, and any caller can read this answer.
const TAMPERED: &str = "the database was changed without the master key; \
    the log and `meshseal incident show` name the rows";

/// Note about an incident. It omits the reason, which holds an administrator's name and words.
const INCIDENT: &str = "lost state; the log and `meshseal incident show` give the reason";

/// Returns the class of an outage and its remedy. The driver's message appears in the log only.
fn database(outage: Option<&Outage>) -> String {
    let Some(outage) = outage else {
        return "database: no-answer; see the log".to_owned();
    };
    format!(
        "database: {}; {}",
        outage.reason.name(),
        outage.reason.remedy()
    )
}

/// State of selected capabilities.
pub(super) struct Readiness {
    /// First problem found.
    pub(super) problem: Option<String>,
    /// State of each capability, as JSON.
    pub(super) detail: Value,
    /// Note about an incident that no operator has ended. It makes no capability unavailable.
    pub(super) incident: Option<&'static str>,
}

impl Readiness {
    pub(super) fn of(issuer: &Issuer, capabilities: &[Capability]) -> Self {
        // Check each capability, and remember the first problem for `detail` of the answer.
        let (mut first, mut detail) = (None, Map::new());
        for capability in capabilities {
            let state = match capability.problem(issuer) {
                None => json!({ "ready": true }),
                Some(problem) => {
                    let state = json!({ "ready": false, "reason": problem });
                    first = first.or(Some(problem));
                    state
                }
            };
            detail.insert(capability.name().to_owned(), state);
        }
        let incident = issuer.publisher.incident().map(|_| INCIDENT);
        Self {
            problem: first,
            detail: Value::Object(detail),
            incident,
        }
    }
}
