//! Key sets of third-party identity providers, fetched through a cluster that the configuration names.

use std::time::Duration;

use meshseal_core::config::{KeySource, RemoteJwks};
use meshseal_core::limits;
use meshseal_core::policy::Policy;
use meshseal_core::trust::Trust;

use super::pace::{Backoff, Bucket, portion};
use super::{Finished, Health, Heard, document};
use crate::host::{Host, HttpCall};
use crate::metrics::{Count, Metrics};

/// The key sets that are fetched, each from a place of its own.
#[derive(Debug)]
pub(crate) struct JwksSync(Vec<Remote>);

/// One place, and the rules that take their keys from it.
#[derive(Debug)]
struct Remote {
    rules: Vec<usize>,
    fetch: Option<u32>,
    due: Duration,
    backoff: Backoff,
    budget: Bucket,
    health: Health,
}

impl JwksSync {
    pub(crate) fn new(policy: &Policy) -> Self {
        let mut remotes: Vec<(&RemoteJwks, Remote)> = Vec::new();
        for (index, rule) in policy.jwt_rules().iter().enumerate() {
            let KeySource::Remote(jwks) = &rule.keys else { continue };
            match remotes.iter_mut().find(|(known, _)| *known == jwks) {
                Some((_, remote)) => remote.rules.push(index),
                None => remotes.push((jwks, Remote::new(index, jwks))),
            }
        }
        Self(remotes.into_iter().map(|(_, remote)| remote).collect())
    }

    /// The place that a rule takes its keys from.
    pub(crate) fn source_of(&self, rule: usize) -> Option<usize> {
        self.0.iter().position(|remote| remote.rules.contains(&rule))
    }

    /// When something is to be done next.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.0.iter().filter(|remote| remote.fetch.is_none()).map(|remote| remote.due).min()
    }

    /// Fetches what is due. Only from the root context: calls belong to the context that makes them.
    pub(crate) fn tick(&mut self, host: &impl Host, policy: &Policy, metrics: &Metrics) {
        let now = host.now();
        for remote in self.0.iter_mut().filter(|remote| remote.fetch.is_none() && remote.due <= now) {
            remote.start(host, policy, metrics);
        }
    }

    /// Wants to fetch at the next tick, on behalf of requests that wait; true if an answer is under way then. One fetch serves all.
    pub(crate) fn urge(&mut self, source: usize, now: Duration) -> bool {
        let Some(remote) = self.0.get_mut(source) else { return false };
        let under_way = remote.fetch.is_some() || remote.due <= now;
        if under_way || !remote.budget.take(now) {
            return under_way;
        }
        remote.due = now;
        true
    }

    /// Takes in an answer: the place it came from; `None` if it is to somebody else's question.
    pub(crate) fn finished(
        &mut self,
        host: &impl Host,
        finished: Finished,
        policy: &Policy,
        trust: &mut Trust,
        metrics: &Metrics,
    ) -> Option<(usize, Heard)> {
        let source = self.0.iter().position(|remote| remote.fetch == Some(finished.token))?;
        let remote = self.0.get_mut(source)?;
        remote.fetch = None;
        Some((source, remote.finished(host, finished, policy, trust, metrics)))
    }
}

impl Remote {
    fn new(rule: usize, jwks: &RemoteJwks) -> Self {
        let longest = refresh(jwks).min(Duration::from_secs(60));
        Self {
            rules: vec![rule],
            fetch: None,
            due: Duration::ZERO,
            backoff: Backoff::new(Duration::from_secs(1).min(longest), longest),
            // Providers rotate keys daily at the most; two questions in a row bridge a provider that publishes a moment late.
            budget: Bucket::full(2, Duration::from_secs(10)),
            health: Health::default(),
        }
    }

    fn config<'p>(&self, policy: &'p Policy) -> Option<&'p RemoteJwks> {
        match &policy.jwt_rules().get(*self.rules.first()?)?.keys {
            KeySource::Remote(jwks) => Some(jwks),
            KeySource::Inline(_) | KeySource::Bundle => None,
        }
    }

    fn start(&mut self, host: &impl Host, policy: &Policy, metrics: &Metrics) {
        let Some(jwks) = self.config(policy) else { return };
        let headers = [
            (":method", "GET"),
            (":scheme", if jwks.https { "https" } else { "http" }),
            (":path", &*jwks.path),
            (":authority", &*jwks.authority),
            ("accept", "application/json"),
        ];
        let timeout = Duration::from_millis(jwks.timeout_ms);
        self.fetch = host.call(&HttpCall { cluster: &jwks.cluster, headers: &headers, timeout }).ok();
        if self.fetch.is_none() {
            self.failed(host, jwks, &"the cluster cannot be reached", metrics);
        }
    }

    fn finished(
        &mut self,
        host: &impl Host,
        finished: Finished,
        policy: &Policy,
        trust: &mut Trust,
        metrics: &Metrics,
    ) -> Heard {
        let Some(jwks) = self.config(policy) else { return Heard::Nothing };
        let text = match document(host, finished, limits::MAX_JWKS_BYTES) {
            Ok(text) => text,
            Err(fault) => return self.failed(host, jwks, &fault, metrics),
        };
        let mut skipped = 0;
        for rule in &self.rules {
            match trust.accept_jwks(*rule, &text, policy) {
                Ok((_, unusable)) => skipped = skipped.max(unusable),
                Err(problem) => {
                    let why = format!("{}: {}", problem.path, problem.message);
                    return self.failed(host, jwks, &why, metrics);
                }
            }
        }
        metrics.count(Count::JwksFetched);
        metrics.add(Count::JwksSkippedKeys, skipped);
        self.health.works(host, &name(jwks));
        self.backoff.reset();
        // Up to a tenth early, so that workers and proxies that started together do not ask together.
        let refresh = refresh(jwks);
        let early = portion(refresh.checked_div(10).unwrap_or_default(), host);
        self.due = host.now().saturating_add(refresh.saturating_sub(early));
        Heard::News
    }

    fn failed(&mut self, host: &impl Host, jwks: &RemoteJwks, why: &dyn std::fmt::Display, metrics: &Metrics) -> Heard {
        metrics.count(Count::JwksFailed);
        self.health.failed(host, &name(jwks), why);
        self.due = host.now().saturating_add(self.backoff.next(host));
        Heard::Nothing
    }
}

fn refresh(jwks: &RemoteJwks) -> Duration {
    Duration::from_secs(jwks.refresh_s.max(1))
}

fn name(jwks: &RemoteJwks) -> String {
    format!("keys from {}{} ({})", jwks.authority, jwks.path, jwks.cluster)
}

#[cfg(test)]
#[path = "jwks_tests.rs"]
mod tests;
