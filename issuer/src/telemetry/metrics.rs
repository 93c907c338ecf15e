//! Counters and gauges in the text format of Prometheus
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::store::{Health, Reason};

/// A counter.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        // Counters order no other memory access.
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the count.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A counter for each label value. Label values are constants of this program, never input, so
/// their number is limited and they need no escaping.
#[derive(Debug, Default)]
pub struct LabelledCounter<L = &'static str>(Mutex<BTreeMap<L, u64>>);

impl<L: Ord + Clone> LabelledCounter<L> {
    /// Adds one to the count of this label.
    pub fn increment(&self, label: L) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(label).or_default() += 1;
    }

    /// Returns the count of this label.
    #[must_use]
    pub fn get(&self, label: &L) -> u64 {
        self.snapshot().get(label).copied().unwrap_or(0)
    }

    fn snapshot(&self) -> BTreeMap<L, u64> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// All counters of the issuer.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Tokens issued.
    pub tokens: Counter,
    /// Token requests rejected, by OAuth error.
    pub token_errors: LabelledCounter,
    /// Failed authentications, by endpoint and reason.
    pub authentication_failures: LabelledCounter<(&'static str, &'static str)>,
    /// Introspections answered.
    pub introspections: Counter,
    /// Revocations made.
    pub revocations: Counter,
    /// Bundles served, by kind.
    pub bundles: LabelledCounter,
    /// Rotations of the signing key.
    pub rotations: Counter,
    /// Rotations that did not wait for every proxy.
    pub forced_rotations: Counter,
    /// Background tasks that failed and were restarted, by task.
    pub background_restarts: LabelledCounter,
}

/// Values that are read at each scrape.
#[derive(Clone, Debug, Default)]
pub(super) struct Gauges {
    pub(super) version: u64,
    pub(super) keys: usize,
    pub(super) revoked: usize,
    pub(super) proxies: usize,
    pub(super) proxies_current: usize,
    pub(super) polls_waiting: u64,
    pub(super) proxies_all_counted: bool,
    pub(super) fresh: bool,
    pub(super) tampered: bool,
    pub(super) incident: bool,
    pub(super) clock_behind_s: u64,
    pub(super) clock_ahead_s: u64,
    pub(super) clock_disagreement_s: u64,
    pub(super) kept_longer_s: u64,
    pub(super) database: Health,
}

impl Metrics {
    /// Returns all counters and gauges in the text format of Prometheus.
    pub(super) fn render(&self, gauges: &Gauges) -> String {
        let mut text = String::new();
        // Counters without labels.
        let counters: [(&str, &str, u64); 5] = [
            ("tokens_issued_total", "Tokens issued.", self.tokens.get()),
            (
                "introspections_total",
                "Introspections answered.",
                self.introspections.get(),
            ),
            (
                "revocations_total",
                "Revocations made.",
                self.revocations.get(),
            ),
            (
                "rotations_total",
                "Rotations of the signing key.",
                self.rotations.get(),
            ),
            (
                "rotations_forced_total",
                "Rotations that did not wait for every proxy.",
                self.forced_rotations.get(),
            ),
        ];
        for (name, help, value) in counters {
            family(&mut text, name, help, "counter", &[(String::new(), value)]);
        }
        // Counters with one label.
        let labelled = [
            (
                "token_errors_total",
                "Token requests rejected, by OAuth error.",
                "error",
                &self.token_errors,
            ),
            (
                "bundles_total",
                "Bundles served, by kind.",
                "kind",
                &self.bundles,
            ),
            (
                "background_restarts_total",
                "Background tasks that failed and were restarted, by task.",
                "task",
                &self.background_restarts,
            ),
        ];
        for (name, help, label, counts) in labelled {
            // A label without events has no sample yet.
            let samples: Vec<_> = counts
                .snapshot()
                .into_iter()
                .map(|(value, count)| (format!("{{{label}=\"{value}\"}}"), count))
                .collect();
            family(&mut text, name, help, "counter", &samples);
        }
        // Failed authentications, which have two labels.
        let failures = self.authentication_failures.snapshot().into_iter();
        let failures: Vec<_> = failures
            .map(|((endpoint, reason), count)| {
                (
                    format!("{{endpoint=\"{endpoint}\",reason=\"{reason}\"}}"),
                    count,
                )
            })
            .collect();
        let help = "Failed authentications, by endpoint and reason.";
        family(
            &mut text,
            "authentication_failures_total",
            help,
            "counter",
            &failures,
        );
        // Database failures. Every reason has a sample, so that alerts can use `increase`.
        let failures: Vec<_> = Reason::ALL
            .iter()
            .map(|reason| {
                let count = gauges
                    .database
                    .failures
                    .get(reason.name())
                    .copied()
                    .unwrap_or(0);
                (format!("{{reason=\"{}\"}}", reason.name()), count)
            })
            .collect();
        family(
            &mut text,
            "database_errors_total",
            "Failed database operations, by reason.",
            "counter",
            &failures,
        );
        // Gauges come last.
        measure(&mut text, gauges);
        text
    }
}

/// Appends the gauges.
fn measure(text: &mut String, gauges: &Gauges) {
    let measured: [(&str, &str, u64); 15] = [
        // Trust state and proxies.
        (
            "bundle_version",
            "Version of keys and revocations.",
            gauges.version,
        ),
        ("keys", "Published signing keys.", as_u64(gauges.keys)),
        (
            "revoked_tokens",
            "Revoked tokens in the bundle.",
            as_u64(gauges.revoked),
        ),
        ("proxies", "Live proxy workers.", as_u64(gauges.proxies)),
        (
            "proxies_current",
            "Live proxy workers that hold the current version.",
            as_u64(gauges.proxies_current),
        ),
        (
            "polls_waiting",
            "Polls that wait at this replica.",
            gauges.polls_waiting,
        ),
        (
            "proxies_all_counted",
            "1 while all proxies are known; otherwise nothing counts as confirmed.",
            u64::from(gauges.proxies_all_counted),
        ),
        // Clocks.
        (
            "clock_skew_seconds",
            "Seconds by which the machine's clock stepped back; no tokens are issued.",
            gauges.clock_behind_s,
        ),
        (
            "clock_ahead_seconds",
            "Seconds of an unconfirmed forward step of the machine's clock; no tokens are issued.",
            gauges.clock_ahead_s,
        ),
        (
            "clock_database_difference_seconds",
            "Difference between the machine's and the database server's clock.",
            gauges.clock_disagreement_s,
        ),
        (
            "kept_longer_seconds",
            "Seconds for which expired entries are kept, because no issuer observed that time.",
            gauges.kept_longer_s,
        ),
        // Database and incidents.
        (
            "database_fresh",
            "1 while the database answers.",
            u64::from(gauges.fresh),
        ),
        (
            "database_writable",
            "1 while the database accepts writes.",
            u64::from(gauges.fresh && gauges.database.write.is_none()),
        ),
        (
            "incident",
            "1 from a loss of state until an operator ends the incident.",
            u64::from(gauges.incident),
        ),
        (
            "database_tampered",
            "1 while database rows lack valid MACs; no tokens are issued.",
            u64::from(gauges.tampered),
        ),
    ];
    for (name, help, value) in measured {
        family(text, name, help, "gauge", &[(String::new(), value)]);
    }
}

fn as_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// Appends a metric family: its help, its type, and its samples as labels and value.
fn family(text: &mut String, name: &str, help: &str, kind: &str, samples: &[(String, u64)]) {
    // Writing to a `String` cannot fail.
    let _ok = write!(
        text,
        "# HELP meshseal_{name} {help}\n# TYPE meshseal_{name} {kind}\n"
    );
    for (labels, value) in samples {
        let _ok = writeln!(text, "meshseal_{name}{labels} {value}");
    }
}
