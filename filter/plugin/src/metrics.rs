//! The filter's metrics. Envoy shows them as `wasmcustom.meshseal.…`.
//!
//! Counts are buffered and reported to the proxy at the next tick, at most a second later. A host
//! call for each count would be a considerable part of the cost of a request.

use std::cell::{Cell, RefCell};

use meshseal_core::rejection::Rejection;

use crate::host::{Host, Level, MetricId, MetricKind};

/// Counters without a reason in their name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Count {
    /// Requests with a valid token that the policy allows.
    Accepted,
    /// Requests without a token on a route that requires none.
    Anonymous,
    /// CORS preflights that were passed.
    Preflight,
    /// Requests held for newer keys.
    Waited,
    /// Output headers omitted from accepted requests because the value is unsafe or too long.
    OutputOmitted,
    /// New bundle versions accepted; heartbeats are not counted.
    BundleAccepted,
    /// Bundles received and rejected.
    BundleRefused,
    /// Polls that brought no bundle.
    BundlePollFailed,
    /// Key sets fetched from providers.
    JwksFetched,
    /// Fetches that brought no usable key set.
    JwksFailed,
    /// Unusable keys skipped in fetched and inline key sets.
    JwksSkippedKeys,
}

impl Count {
    const ALL: [(Self, &'static str); 11] = [
        (Self::Accepted, "accepted"),
        (Self::Anonymous, "anonymous"),
        (Self::Preflight, "preflight"),
        (Self::Waited, "waited"),
        (Self::OutputOmitted, "output.omitted"),
        (Self::BundleAccepted, "bundle.accepted"),
        (Self::BundleRefused, "bundle.refused"),
        (Self::BundlePollFailed, "bundle.poll_failed"),
        (Self::JwksFetched, "jwks.fetched"),
        (Self::JwksFailed, "jwks.failed"),
        (Self::JwksSkippedKeys, "jwks.skipped_keys"),
    ];
}

/// A counter with its buffered count, which the proxy does not know yet.
#[derive(Debug, Default)]
struct Counter {
    metric: Option<MetricId>,
    untold: Cell<u32>,
}

impl Counter {
    fn add(&self, by: u32) {
        self.untold.set(self.untold.get().saturating_add(by));
    }

    fn tell(&self, host: &impl Host) {
        if let (Some(metric), by @ 1..) = (self.metric, self.untold.take()) {
            host.increment_metric(metric, by);
        }
    }
}

/// Metrics of one configuration. A counter for a rejection reason is defined when the reason first
/// occurs, because 80 names for each plugin and worker would hide the others.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    prefix: String,
    /// In the order of [`Count::ALL`].
    counts: [Counter; Count::ALL.len()],
    reasons: RefCell<Vec<((bool, Rejection), Counter)>>,
    bundle_version: Option<MetricId>,
    bundle_age: Option<MetricId>,
    keys: Option<MetricId>,
    validation: Option<MetricId>,
}

impl Metrics {
    /// Defines the metrics under `meshseal.<prefix>.`, or under `meshseal.` if the prefix is empty.
    pub(crate) fn define(host: &impl Host, prefix: &str) -> Self {
        let prefix = if prefix.is_empty() {
            "meshseal.".to_owned()
        } else {
            format!("meshseal.{prefix}.")
        };
        let define = |kind, name: &str| host.define_metric(kind, &format!("{prefix}{name}"));
        let metrics = Self {
            counts: Count::ALL.map(|(_, name)| Counter {
                metric: define(MetricKind::Counter, name),
                untold: Cell::new(0),
            }),
            reasons: RefCell::default(),
            bundle_version: define(MetricKind::Gauge, "bundle.version"),
            bundle_age: define(MetricKind::Gauge, "bundle.age_s"),
            keys: define(MetricKind::Gauge, "keys"),
            validation: define(MetricKind::Histogram, "validation_us"),
            prefix,
        };
        // One undefined metric stands for all: the host then lacks metrics altogether.
        if metrics.keys.is_none() {
            host.log(
                Level::Warn,
                "the host offers no metrics: the filter reports none",
            );
        }
        metrics
    }

    pub(crate) fn count(&self, count: Count) {
        self.add(count, 1);
    }

    pub(crate) fn add(&self, count: Count, by: usize) {
        let at = Count::ALL.iter().position(|(of, _)| *of == count);
        if let Some(counter) = at.and_then(|at| self.counts.get(at)) {
            counter.add(u32::try_from(by).unwrap_or(u32::MAX));
        }
    }

    /// Counts a rejection, or in shadow mode a request that enforcement would reject.
    pub(crate) fn refused(&self, host: &impl Host, rejection: Rejection, shadow: bool) {
        let Ok(mut reasons) = self.reasons.try_borrow_mut() else {
            return;
        };
        if let Some((_, counter)) = reasons.iter().find(|(of, _)| *of == (shadow, rejection)) {
            return counter.add(1);
        }
        let verdict = if shadow { "shadow" } else { "rejected" };
        let name = format!("{}{verdict}.{}", self.prefix, rejection.code());
        let counter = Counter {
            metric: host.define_metric(MetricKind::Counter, &name),
            untold: Cell::new(1),
        };
        reasons.push(((shadow, rejection), counter));
    }

    /// Reports the buffered counts to the proxy.
    pub(crate) fn tell(&self, host: &impl Host) {
        self.counts.iter().for_each(|counter| counter.tell(host));
        if let Ok(reasons) = self.reasons.try_borrow() {
            reasons.iter().for_each(|(_, counter)| counter.tell(host));
        }
    }

    /// Records the duration of a validation in microseconds, starting at the check of the token's
    /// times. Most of it is the verification of the signature.
    pub(crate) fn validation_us(&self, host: &impl Host, micros: u64) {
        record(host, self.validation, micros);
    }

    /// Records version and age of the bundle, and the number of trusted keys.
    pub(crate) fn trust(
        &self,
        host: &impl Host,
        version: Option<u64>,
        age_s: Option<u64>,
        keys: usize,
    ) {
        if let Some(version) = version {
            record(host, self.bundle_version, version);
        }
        if let Some(age) = age_s {
            record(host, self.bundle_age, age);
        }
        record(host, self.keys, u64::try_from(keys).unwrap_or(u64::MAX));
    }
}

fn record(host: &impl Host, metric: Option<MetricId>, value: u64) {
    if let Some(metric) = metric {
        host.record_metric(metric, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    #[test]
    fn names_carry_configured_prefix() {
        let host = FakeHost::new();
        for (prefix, count) in [("edge", Count::BundleAccepted), ("", Count::Anonymous)] {
            let metrics = Metrics::define(&host, prefix);
            metrics.count(count);
            metrics.tell(&host);
        }
        assert_eq!(host.metric("meshseal.edge.bundle.accepted"), 1);
        assert_eq!(host.metric("meshseal.anonymous"), 1);
    }

    #[test]
    fn flush_reports_each_count_once() {
        let host = FakeHost::new();
        let metrics = Metrics::define(&host, "");
        for _ in 0..2 {
            metrics.count(Count::Accepted);
            metrics.refused(&host, Rejection::TokenExpired, false);
        }
        let told = || {
            [
                host.metric("meshseal.accepted"),
                host.metric("meshseal.rejected.token-expired"),
            ]
        };
        assert_eq!(told(), [0, 0]);
        metrics.tell(&host);
        metrics.tell(&host);
        assert_eq!(told(), [2, 2]);
    }

    #[test]
    fn defines_reason_counter_at_first_use() {
        let host = FakeHost::new();
        let metrics = Metrics::define(&host, "");
        assert!(!host.has_metric("meshseal.rejected.token-expired"));
        metrics.refused(&host, Rejection::TokenExpired, false);
        metrics.refused(&host, Rejection::TokenExpired, false);
        metrics.refused(&host, Rejection::TokenExpired, true);
        metrics.tell(&host);
        assert_eq!(host.metric("meshseal.rejected.token-expired"), 2);
        assert_eq!(host.metric("meshseal.shadow.token-expired"), 1);
    }

    #[test]
    fn tolerates_host_without_metrics() {
        let host = FakeHost::new().without_metrics();
        let metrics = Metrics::define(&host, "");
        metrics.count(Count::Accepted);
        metrics.refused(&host, Rejection::TokenExpired, false);
        metrics.tell(&host);
        metrics.trust(&host, Some(1), Some(1), 1);
        assert!(!host.has_metric("meshseal.accepted"));
    }
}
