//! JSON views of keys, proxies and incidents, shared by `/admin/…` and the command line.

use serde::{Deserialize, Serialize};

use crate::bundle::{Counted, Live, Published, UNBOUNDED};

/// All keys of the issuer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeysView {
    /// Current bundle version.
    pub version: u64,
    /// Time at which a pending rotation of the token key was requested (Unix seconds).
    pub rotation_requested: Option<u64>,
    /// Time at which a pending rotation of the bundle key was requested (Unix seconds).
    #[serde(default)]
    pub bundle_rotation_requested: Option<u64>,
    /// Number of workers that count.
    pub proxies: usize,
    /// Keys, oldest first.
    pub keys: Vec<KeyView>,
}

/// One key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyView {
    /// Key id.
    pub kid: String,
    /// `token` or `bundle`.
    pub purpose: String,
    /// JOSE name of the algorithm.
    pub algorithm: String,
    /// `next`, `active`, `draining` or `retired`.
    pub state: String,
    /// Time of the change to this state (Unix seconds).
    pub since: u64,
    /// First bundle version that contains the key.
    pub published: u64,
    /// Number of workers that hold this version or a later one.
    pub confirmed: usize,
    /// Number of workers that state that they pin the key; for bundle keys.
    #[serde(default)]
    pub pinned: usize,
    /// Earliest time at which a standby key may sign without force (Unix seconds).
    #[serde(default)]
    pub ready_at: u64,
}

/// State of the database as administrators see it: incident and tampered rows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IncidentView {
    /// Incident that no operator has ended yet, or `null`.
    pub incident: Option<IncidentReport>,
    /// Rows that were changed without the master key, or `null`.
    pub tampered: Option<String>,
}

/// An incident: its finding and time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IncidentReport {
    /// Time of the finding (Unix seconds).
    pub since: u64,
    /// Finding and its effect.
    pub reason: String,
}

/// All workers that count in receipts and rotations.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProxiesView {
    /// Current bundle version.
    pub version: u64,
    /// Workers of all proxies.
    pub proxies: Vec<ProxyView>,
}

/// One worker of a proxy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProxyView {
    /// Node id of the proxy.
    pub node: String,
    /// Worker id.
    pub worker: String,
    /// Version that the worker holds; 0 if it holds none.
    pub version: u64,
    /// True if the worker holds the current version.
    pub current: bool,
    /// Milliseconds between the version that the worker holds and the current version.
    pub lag_ms: u64,
    /// Time of the last contact (Unix seconds).
    pub seen_at: u64,
    /// `reachable`, or `unreachable` for a worker that does not poll and may still act on the
    /// version that it holds.
    pub state: String,
    /// Time until which the worker may act on the version that it holds (Unix seconds). `None`
    /// means without limit (`staleness.action: SERVE`).
    pub accepts_until: Option<u64>,
    /// Poll protocol of the worker.
    pub protocol: u32,
    /// Ids of the bundle keys that the worker pins.
    pub pins: Vec<String>,
}

impl KeysView {
    pub(super) fn of(published: &Published, live: &Live, rotation_requested: Option<u64>) -> Self {
        let keys = published
            .keys
            .iter()
            .map(|key| KeyView {
                kid: key.kid.clone(),
                purpose: key.purpose.name().to_owned(),
                algorithm: key.algorithm.name().to_owned(),
                state: key.state.name().to_owned(),
                since: key.since,
                published: key.published,
                confirmed: live.holding(key.published),
                pinned: live.pins(&key.kid).0,
                ready_at: key.ready_at,
            })
            .collect();
        Self {
            version: published.version(),
            rotation_requested,
            // The caller asks the database for it.
            bundle_rotation_requested: None,
            proxies: live.proxies.len(),
            keys,
        }
    }
}

impl ProxiesView {
    pub(super) fn of(version: u64, live: Live) -> Self {
        Self {
            version,
            proxies: live
                .proxies
                .into_iter()
                .map(|counted| ProxyView::of(version, counted))
                .collect(),
        }
    }
}

impl ProxyView {
    /// Creates the view of a worker; `current` is the current bundle version.
    fn of(current: u64, Counted { record, reachable }: Counted) -> Self {
        Self {
            current: record.version == current,
            // A version is the time of its change in milliseconds, unless several changes fall
            // into one millisecond.
            lag_ms: if record.version == 0 {
                0
            } else {
                current.saturating_sub(record.version)
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
        }
    }
}
