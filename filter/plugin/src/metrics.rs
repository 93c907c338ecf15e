//! The filter's statistics. Envoy shows them as `wasmcustom.meshseal.…`.
//!
//! What is counted is told to the proxy at the next tick, a second later at the most: a call for
//! each would be a good part of what a request costs.

use std::cell::{Cell, RefCell};

use meshseal_core::rejection::Rejection;

use crate::host::{Host, Level, MetricId, MetricKind};

/// Counters without a reason in their name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Count {
    /// Requests with a good token that policy allows.
    Accepted,
    /// Requests without a token on a route that needs none.
    Anonymous,
    /// CORS preflights let through.
    Preflight,
    /// Requests that waited for newer keys.
    Waited,
    /// Output headers that accepted requests do not carry, because the value is unsafe or too long.
    OutputOmitted,
    /// Bundles taken over: new versions, not heartbeats.
    BundleAccepted,
    /// Bundles received and not believed.
    BundleRefused,
    /// Polls without a bundle for an answer.
    BundlePollFailed,
    /// Key sets fetched from providers.
    JwksFetched,
    /// Fetches without a usable key set for an answer.
    JwksFailed,
    /// Keys of fetched and inline sets that could not be used.
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

/// A counter, and what the proxy has not been told of it.
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

/// Metric ids of one configuration. Counters by reason are made when the reason first occurs: 80
/// names for each plugin and worker would drown the rest.
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
    /// Defines them under `meshseal.<prefix>.`, or `meshseal.` where the prefix is empty.
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
        if metrics.keys.is_none() {
            host.log(
                Level::Warn,
                "the host offers no metrics: nothing is counted",
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

    /// Counts a refusal, or what would have been one in shadow mode.
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

    /// Tells the proxy what was counted.
    pub(crate) fn tell(&self, host: &impl Host) {
        self.counts.iter().for_each(|counter| counter.tell(host));
        if let Ok(reasons) = self.reasons.try_borrow() {
            reasons.iter().for_each(|(_, counter)| counter.tell(host));
        }
    }

    /// Records how long a validation took from the check of its times on, which is in the main its
    /// verification, in microseconds.
    pub(crate) fn validation_us(&self, host: &impl Host, micros: u64) {
        record(host, self.validation, micros);
    }

    /// Records what is trusted now.
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
    fn names_carry_the_prefix_if_there_is_one() {
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
    fn what_is_counted_is_told_together_and_once() {
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
    fn a_reason_gets_its_counter_when_it_first_occurs() {
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
    fn a_host_without_metrics_is_no_trouble() {
        let host = FakeHost::new().without_metrics();
        let metrics = Metrics::define(&host, "");
        metrics.count(Count::Accepted);
        metrics.refused(&host, Rejection::TokenExpired, false);
        metrics.tell(&host);
        metrics.trust(&host, Some(1), Some(1), 1);
        assert!(!host.has_metric("meshseal.accepted"));
    }
}
