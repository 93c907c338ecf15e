//! Readiness, capability by capability.

use serde_json::{Map, Value, json};

use crate::issuer::Issuer;
use crate::store::Outage;

/// Something that the issuer does for others, which may be lost alone.
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

    /// Returns why the issuer cannot do this now.
    pub(super) fn problem(self, issuer: &Issuer) -> Option<String> {
        if issuer.ending.is_cancelled() {
            return Some("shutting down".to_owned());
        }
        let unusable = |purpose| Some(format!("the {purpose} key cannot be used; see the log"));
        let (published, health) = (issuer.publisher.current(), issuer.store.health());
        let tampered = || issuer.publisher.tampered().map(|_| TAMPERED.to_owned());
        let stale = || {
            (!issuer.publisher.is_fresh())
                .then(|| tampered().unwrap_or_else(|| database(health.read.as_ref())))
        };
        match self {
            Self::Keys => None,
            Self::Bundle if published.bundle_signer.is_none() => unusable("bundle"),
            Self::Bundle => issuer
                .publisher
                .is_expired()
                .then(|| database(health.read.as_ref())),
            Self::Mint if published.token_signer.is_none() => unusable("signing"),
            Self::Mint => tampered()
                .or_else(stale)
                .or_else(|| issuer.clock.read().fault())
                .or_else(|| {
                    health
                        .write
                        .as_ref()
                        .filter(|_| issuer.indices.is_empty())
                        .map(|it| database(Some(it)))
                }),
            Self::Introspect => stale(),
            Self::Revoke => tampered()
                .or_else(stale)
                .or_else(|| health.write.as_ref().map(|outage| database(Some(outage)))),
        }
    }
}

/// Finding for a database with forged rows. Names of rows hold subjects and clients, and this
/// answer is for every caller.
const TAMPERED: &str = "the database was changed without the master key; \
    the log and `meshseal incident show` name the rows";

/// Finding for lost state. Its reason holds an administrator's name and words.
const INCIDENT: &str = "lost state; the log and `meshseal incident show` tell the reason";

/// Class and remedy, without the driver's words: those are for the log.
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

/// State of some capabilities.
pub(super) struct Readiness {
    /// The first problem.
    pub(super) problem: Option<String>,
    /// Each capability, as JSON.
    pub(super) detail: Value,
    /// Lost state that no operator has ended. It takes no capability away.
    pub(super) incident: Option<&'static str>,
}

impl Readiness {
    pub(super) fn of(issuer: &Issuer, capabilities: &[Capability]) -> Self {
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
