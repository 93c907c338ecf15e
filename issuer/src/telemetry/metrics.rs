//! Counters, and their text for Prometheus
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::store::{Health, Reason};

/// Something counted.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// So many.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Something counted by a label, or several, whose values are words of this program.
#[derive(Debug, Default)]
pub struct LabelledCounter<L = &'static str>(Mutex<BTreeMap<L, u64>>);

impl<L: Ord + Clone> LabelledCounter<L> {
    /// One more with this label.
    pub fn increment(&self, label: L) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(label).or_default() += 1;
    }

    /// Number with this label.
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

/// All counters.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Tokens issued.
    pub tokens: Counter,
    /// Token requests refused, by OAuth error.
    pub token_errors: LabelledCounter,
    /// Failed authentications, by endpoint and reason.
    pub authentication_failures: LabelledCounter<(&'static str, &'static str)>,
    /// Introspections answered.
    pub introspections: Counter,
    /// Revocations made.
    pub revocations: Counter,
    /// Bundles given out, by kind.
    pub bundles: LabelledCounter,
    /// Rotations of the signing key.
    pub rotations: Counter,
    /// Rotations that did not wait for every proxy.
    pub forced_rotations: Counter,
    /// Background tasks that died and were started again, by task.
    pub background_restarts: LabelledCounter,
}

/// What is measured when somebody looks.
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
    pub(super) fn render(&self, gauges: &Gauges) -> String {
        let mut text = String::new();
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
        let labelled = [
            (
                "token_errors_total",
                "Token requests refused, by OAuth error.",
                "error",
                &self.token_errors,
            ),
            (
                "bundles_total",
                "Bundles given out, by kind.",
                "kind",
                &self.bundles,
            ),
            (
                "background_restarts_total",
                "Background tasks that died and were started again, by task.",
                "task",
                &self.background_restarts,
            ),
        ];
        for (name, help, label, counts) in labelled {
            let samples: Vec<_> = counts
                .snapshot()
                .into_iter()
                .map(|(value, count)| (format!("{{{label}=\"{value}\"}}"), count))
                .collect();
            family(&mut text, name, help, "counter", &samples);
        }
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
        measure(&mut text, gauges);
        text
    }
}

/// Appends what is measured at the time of the scrape.
fn measure(text: &mut String, gauges: &Gauges) {
    let count = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
    let measured: [(&str, &str, u64); 15] = [
        (
            "bundle_version",
            "Version of keys and revocations.",
            gauges.version,
        ),
        ("keys", "Published signing keys.", count(gauges.keys)),
        (
            "revoked_tokens",
            "Revoked tokens in the bundle.",
            count(gauges.revoked),
        ),
        ("proxies", "Live proxy workers.", count(gauges.proxies)),
        (
            "proxies_current",
            "Live proxy workers with the present version.",
            count(gauges.proxies_current),
        ),
        (
            "polls_waiting",
            "Polls being held by this replica.",
            gauges.polls_waiting,
        ),
        (
            "proxies_all_counted",
            "1 while every proxy is known; else none counts as confirmed.",
            u64::from(gauges.proxies_all_counted),
        ),
        (
            "clock_skew_seconds",
            "Seconds by which the machine's clock was put back; tokens wait.",
            gauges.clock_behind_s,
        ),
        (
            "clock_ahead_seconds",
            "Length of a step forward of the machine's clock that is not confirmed; tokens wait.",
            gauges.clock_ahead_s,
        ),
        (
            "clock_database_difference_seconds",
            "Difference between the machine's and the database server's clock.",
            gauges.clock_disagreement_s,
        ),
        (
            "kept_longer_seconds",
            "Seconds for which entries are kept after their expiry, because no issuer observed that time.",
            gauges.kept_longer_s,
        ),
        (
            "database_fresh",
            "1 while the database answers.",
            u64::from(gauges.fresh),
        ),
        (
            "database_writable",
            "1 while the database takes changes.",
            u64::from(gauges.fresh && gauges.database.write.is_none()),
        ),
        (
            "incident",
            "1 from a loss of state until an operator ends the incident.",
            u64::from(gauges.incident),
        ),
        (
            "database_tampered",
            "1 while database rows do not carry their MACs; nothing is minted.",
            u64::from(gauges.tampered),
        ),
    ];
    for (name, help, value) in measured {
        family(text, name, help, "gauge", &[(String::new(), value)]);
    }
}

fn family(text: &mut String, name: &str, help: &str, kind: &str, samples: &[(String, u64)]) {
    // Writing to a String does not fail.
    let _ok = write!(
        text,
        "# HELP meshseal_{name} {help}\n# TYPE meshseal_{name} {kind}\n"
    );
    for (labels, value) in samples {
        let _ok = writeln!(text, "meshseal_{name}{labels} {value}");
    }
}
