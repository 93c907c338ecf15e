//! Counts of the workers that may accept tokens, and of those that lack a version.

use super::worker::ProxyRecord;

/// A worker that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Record of the worker.
    pub record: ProxyRecord,
    /// True if the worker polls, or polled lately.
    pub reachable: bool,
}

/// Workers that count and do not hold a version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Behind {
    /// Number of reachable workers.
    pub(crate) pending: usize,
    /// Number of unreachable workers.
    pub(crate) unreachable: usize,
    /// Workers to name, in the order of their nodes.
    pub(crate) named: Vec<Counted>,
}

/// Workers that count at one moment: workers that poll, and workers that may still act on a bundle
/// that they were given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// The workers.
    pub proxies: Vec<Counted>,
    /// True if the workers of other replicas are known.
    pub all_known: bool,
}

impl Live {
    /// Returns the version that all workers hold: `u64::MAX` without workers, 0 if some workers may
    /// be unknown.
    #[must_use]
    pub fn confirmed(&self) -> u64 {
        let least = self
            .proxies
            .iter()
            .map(|proxy| proxy.record.version)
            .min()
            .unwrap_or(u64::MAX);
        if self.all_known { least } else { 0 }
    }

    /// Returns the number of workers that pin this bundle key, and the number of workers that state
    /// pins without it. The other workers speak protocol 1, which states no pins.
    #[must_use]
    pub fn pins(&self, kid: &str) -> (usize, usize) {
        let stated = self
            .proxies
            .iter()
            .map(|proxy| &proxy.record.pins)
            .filter(|pins| !pins.is_empty());
        let with = stated
            .clone()
            .filter(|pins| pins.split(',').any(|pin| pin == kid))
            .count();
        (with, stated.count().saturating_sub(with))
    }

    /// Returns the number of workers that hold at least this version.
    #[must_use]
    pub fn holding(&self, version: u64) -> usize {
        self.proxies
            .iter()
            .filter(|proxy| proxy.record.version >= version)
            .count()
    }
}
