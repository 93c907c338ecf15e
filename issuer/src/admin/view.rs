//! Keys and proxies as administrators, and the command line, see them.

use serde::{Deserialize, Serialize};

use crate::bundle::{Counted, Live, Published, UNBOUNDED};

/// Every key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeysView {
    /// The bundle version.
    pub version: u64,
    /// When a rotation was asked for, if it is not done.
    pub rotation_requested: Option<u64>,
    /// When a rotation of the bundle key was requested, if it is not done.
    #[serde(default)]
    pub bundle_rotation_requested: Option<u64>,
    /// Live proxies.
    pub proxies: usize,
    /// The keys, oldest first.
    pub keys: Vec<KeyView>,
}

/// One key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyView {
    /// The key id.
    pub kid: String,
    /// `token` or `bundle`.
    pub purpose: String,
    /// JOSE name.
    pub algorithm: String,
    /// `next`, `active`, `draining` or `retired`.
    pub state: String,
    /// Since when, Unix seconds.
    pub since: u64,
    /// The first bundle version that carried it.
    pub published: u64,
    /// Live proxies that have that version.
    pub confirmed: usize,
    /// Live proxies that state that they pin it; for bundle keys.
    #[serde(default)]
    pub pinned: usize,
    /// When it may sign unforced (Unix seconds); for keys that stand by.
    #[serde(default)]
    pub ready_at: u64,
}

/// The present incident.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IncidentView {
    /// Lost state that no operator has ended; `null` without one.
    pub incident: Option<IncidentReport>,
    /// Rows that a program without the master key changed; `null` without one.
    pub tampered: Option<String>,
}

/// What was found, and when.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IncidentReport {
    /// Time at which it was found (Unix seconds).
    pub since: u64,
    /// Findings and their effect.
    pub reason: String,
}

/// Every proxy that counts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProxiesView {
    /// The bundle version.
    pub version: u64,
    /// The proxies' workers.
    pub proxies: Vec<ProxyView>,
}

/// One worker of a proxy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProxyView {
    /// The proxy's node id.
    pub node: String,
    /// The worker.
    pub worker: String,
    /// The version it has; 0 for none.
    pub version: u64,
    /// Whether that is the present one.
    pub current: bool,
    /// Milliseconds between the version it has and the present one.
    pub lag_ms: u64,
    /// Last contact, Unix seconds.
    pub seen_at: u64,
    /// `reachable`, or `unreachable` for one that does not poll and may still act on the version
    /// that it has.
    pub state: String,
    /// Time until which it may act on the version that it has, Unix seconds; `None` without limit
    /// (`staleness.action: SERVE`).
    pub accepts_until: Option<u64>,
    /// Poll protocol that it speaks.
    pub protocol: u32,
    /// Ids of the bundle keys that it pins.
    pub pins: Vec<String>,
}

impl KeysView {
    pub(super) fn of(published: &Published, live: &Live, rotation_requested: Option<u64>) -> Self {
        let view = |key: &crate::keys::KeyRecord| KeyView {
            kid: key.kid.clone(),
            purpose: key.purpose.name().to_owned(),
            algorithm: key.algorithm.name().to_owned(),
            state: key.state.name().to_owned(),
            since: key.since,
            published: key.published,
            confirmed: live.holding(key.published),
            pinned: live.pins(&key.kid).0,
            ready_at: key.ready_at,
        };
        let keys = published.keys.iter().map(view).collect();
        let (version, proxies) = (published.version(), live.proxies.len());
        Self {
            version,
            rotation_requested,
            bundle_rotation_requested: None,
            proxies,
            keys,
        }
    }
}

impl ProxiesView {
    pub(super) fn of(version: u64, live: Live) -> Self {
        let view = |Counted { record, reachable }: Counted| ProxyView {
            current: record.version == version,
            // Versions are milliseconds, unless several changes came within one.
            lag_ms: if record.version == 0 {
                0
            } else {
                version.saturating_sub(record.version)
            },
            node: record.node,
            worker: record.worker,
            version: record.version,
            seen_at: record.seen_at,
            state: if reachable {
                "reachable"
            } else {
                "unreachable"
            }
            .to_owned(),
            accepts_until: Some(record.accepts_until).filter(|until| *until < UNBOUNDED),
            protocol: record.protocol,
            pins: record
                .pins
                .split(',')
                .filter(|pin| !pin.is_empty())
                .map(String::from)
                .collect(),
        };
        Self {
            version,
            proxies: live.proxies.into_iter().map(view).collect(),
        }
    }
}
