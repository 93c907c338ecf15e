//! Fetches the key sets of third-party identity providers through a configured cluster.

use std::time::Duration;

use meshseal_core::authn::{KeySource, RemoteJwks, Trust};
use meshseal_core::keys::PassedOver;
use meshseal_core::limits;
use meshseal_core::policy::Policy;

use super::pace::{Backoff, Bucket, portion};
use super::{CallOutcome, Fault, Finished, Health, document};
use crate::host::{Host, HttpCall, Level};
use crate::metrics::{Count, Metrics};

/// All fetched key sets, one entry per distinct source.
#[derive(Debug)]
pub(crate) struct JwksSync(Vec<Remote>);

/// A source of keys, with the state of its fetches.
#[derive(Debug)]
struct Remote {
    /// Indices of the `jwtRules` that take their keys from this source.
    rules: Vec<usize>,
    fetch: Option<Fetch>,
    due: Duration,
    backoff: Backoff,
    unknown_keys: Bucket,
    bad_signatures: Bucket,
    health: Health,
    /// Skipped keys that have been logged.
    passed_over: Vec<PassedOver>,
}

/// A fetch under way.
#[derive(Clone, Copy, Debug)]
struct Fetch {
    token: u32,
    /// Time at which the fetch is given up, although the proxy promises a response.
    overdue: Duration,
}

/// Reason why a request asks for newer keys. Each reason has its own rate limit, so that one cannot
/// exhaust the other's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefreshReason {
    /// No known key matches the token.
    UnknownKey,
    /// A key with this `kid` exists but did not sign the token; the provider may have replaced it.
    OtherKey,
}

/// Extra time beyond the call's timeout, in which the proxy should report that timeout.
const OVERDUE: Duration = Duration::from_secs(10);

/// `Accept` header of a fetch. The Kubernetes API server answers 406 to `application/json` alone,
/// and other servers answer 406 to `application/jwk-set+json` alone.
const ACCEPT: &str = "application/jwk-set+json, application/json, */*";

impl JwksSync {
    pub(crate) fn new(policy: &Policy) -> Self {
        let mut remotes: Vec<(&RemoteJwks, Remote)> = Vec::new();
        for (index, rule) in policy.authn().jwt_rules().iter().enumerate() {
            let KeySource::Remote(jwks) = &rule.keys else {
                continue;
            };
            // Rules with the same source share one fetch.
            match remotes.iter_mut().find(|(known, _)| *known == jwks) {
                Some((_, remote)) => remote.rules.push(index),
                None => remotes.push((jwks, Remote::new(index, jwks))),
            }
        }
        Self(remotes.into_iter().map(|(_, remote)| remote).collect())
    }

    /// Returns the index of the source that a rule takes its keys from.
    pub(crate) fn source_of(&self, rule: usize) -> Option<usize> {
        self.0
            .iter()
            .position(|remote| remote.rules.contains(&rule))
    }

    /// Returns the monotonic time of the next fetch; `None` if every fetch is under way.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.0
            .iter()
            .filter(|remote| remote.fetch.is_none())
            .map(|remote| remote.due)
            .min()
    }
    /// Starts the fetches that are due and gives up those that are overdue. Must run on the root
    /// context, because the proxy delivers a response to the context that made the call.
    pub(crate) fn tick(&mut self, host: &impl Host, policy: &Policy, metrics: &Metrics) {
        let now = host.steady();
        for remote in &mut self.0 {
            if remote.fetch.take_if(|fetch| fetch.overdue <= now).is_some()
                && let Some(jwks) = remote.config(policy)
            {
                remote.failed(host, jwks, &Fault::NoAnswer, metrics);
            }
        }
        for remote in self
            .0
            .iter_mut()
            .filter(|remote| remote.fetch.is_none() && remote.due <= now)
        {
            remote.start(host, policy, metrics);
        }
    }

    /// Schedules a fetch for the next tick on behalf of a held request. Returns true if a response
    /// will then be under way. All held requests share one fetch.
    pub(crate) fn request_refresh(
        &mut self,
        source: usize,
        why: RefreshReason,
        now: Duration,
    ) -> bool {
        let Some(remote) = self.0.get_mut(source) else {
            return false;
        };
        let under_way = remote.fetch.is_some() || remote.due <= now;
        let budget = match why {
            RefreshReason::UnknownKey => &mut remote.unknown_keys,
            RefreshReason::OtherKey => &mut remote.bad_signatures,
        };
        // A fetch that is due anyway costs nothing from the budget.
        if under_way || !budget.take(now) {
            return under_way;
        }
        remote.due = now;
        true
    }

    /// Handles a response and returns its source and outcome. Returns `None` if none of these
    /// fetches made the call.
    pub(crate) fn finished(
        &mut self,
        host: &impl Host,
        finished: Finished,
        policy: &Policy,
        trust: &mut Trust,
        metrics: &Metrics,
    ) -> Option<(usize, CallOutcome)> {
        let source = self.0.iter().position(|remote| {
            remote
                .fetch
                .is_some_and(|fetch| fetch.token == finished.token)
        })?;
        let remote = self.0.get_mut(source)?;
        remote.fetch = None;
        Some((
            source,
            remote.finished(host, finished, policy, trust, metrics),
        ))
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
            // Providers rotate keys at most daily. A second fetch in a row helps if a provider
            // publishes its new key a moment late.
            unknown_keys: Bucket::full(2, Duration::from_secs(10)),
            // Providers rarely reuse the `kid` of a replaced key, but any client can send a bad
            // signature.
            bad_signatures: Bucket::full(1, Duration::from_secs(10)),
            health: Health::default(),
            passed_over: Vec::new(),
        }
    }

    /// Returns the settings of this source. They are the same in all of its rules.
    fn config<'p>(&self, policy: &'p Policy) -> Option<&'p RemoteJwks> {
        match &policy.authn().jwt_rules().get(*self.rules.first()?)?.keys {
            KeySource::Remote(jwks) => Some(jwks),
            KeySource::Inline(_) | KeySource::Bundle => None,
        }
    }

    fn start(&mut self, host: &impl Host, policy: &Policy, metrics: &Metrics) {
        let Some(jwks) = self.config(policy) else {
            return;
        };
        let headers = [
            (":method", "GET"),
            (":scheme", if jwks.https { "https" } else { "http" }),
            (":path", &*jwks.path),
            (":authority", &*jwks.authority),
            ("accept", ACCEPT),
        ];
        let timeout = Duration::from_millis(jwks.timeout_ms);
        let overdue = host
            .steady()
            .saturating_add(timeout)
            .saturating_add(OVERDUE);
        let token = host
            .call(&HttpCall {
                cluster: &jwks.cluster,
                headers: &headers,
                timeout,
            })
            .ok();
        self.fetch = token.map(|token| Fetch { token, overdue });
        if self.fetch.is_none() {
            let why = "cluster is unknown to the proxy or has no healthy host";
            self.failed(host, jwks, &why, metrics);
        }
    }

    fn finished(
        &mut self,
        host: &impl Host,
        finished: Finished,
        policy: &Policy,
        trust: &mut Trust,
        metrics: &Metrics,
    ) -> CallOutcome {
        let Some(jwks) = self.config(policy) else {
            return CallOutcome::Nothing;
        };
        let text = match document(host, finished, limits::MAX_JWKS_BYTES) {
            Ok(text) => text,
            Err(fault) => return self.failed(host, jwks, &fault, metrics),
        };
        // Each rule may accept other algorithms, so a set can serve one rule and not another.
        let (mut passed_over, mut problem, mut outcome) = (Vec::new(), None, CallOutcome::Nothing);
        for rule in &self.rules {
            // A rejected set leaves the rule's keys as they are.
            match trust.accept_jwks(*rule, &text, policy.authn(), host.steady()) {
                Ok(set) => {
                    outcome = CallOutcome::News;
                    for passed in set.passed_over() {
                        if !passed_over.contains(passed) {
                            passed_over.push(passed.clone());
                        }
                    }
                }
                Err(error) => problem = Some(error),
            }
        }
        self.report(host, jwks, passed_over, metrics);
        if let Some(problem) = problem {
            self.failed(host, jwks, &problem, metrics);
            return outcome;
        }
        metrics.count(Count::JwksFetched);
        self.health.works(host, &name(jwks));
        self.backoff.reset();
        // Refresh up to a tenth early, at random, so that workers and proxies that started together
        // do not fetch together.
        let refresh = refresh(jwks);
        let early = portion(refresh.checked_div(10).unwrap_or_default(), host);
        self.due = host.steady().saturating_add(refresh.saturating_sub(early));
        outcome
    }

    /// Logs the skipped keys that the previous fetch did not skip.
    fn report(
        &mut self,
        host: &impl Host,
        jwks: &RemoteJwks,
        passed_over: Vec<PassedOver>,
        metrics: &Metrics,
    ) {
        metrics.add(Count::JwksSkippedKeys, passed_over.len());
        for passed in passed_over
            .iter()
            .filter(|passed| !self.passed_over.contains(passed))
        {
            let level = if passed.faulty {
                Level::Warn
            } else {
                Level::Info
            };
            host.log(
                level,
                &format!("{}: skipped {}", name(jwks), passed.problem),
            );
        }
        self.passed_over = passed_over;
    }

    /// Records a failed fetch and schedules the retry. Fetched keys stay valid until they age out.
    fn failed(
        &mut self,
        host: &impl Host,
        jwks: &RemoteJwks,
        why: &dyn std::fmt::Display,
        metrics: &Metrics,
    ) -> CallOutcome {
        metrics.count(Count::JwksFailed);
        self.health.failed(host, &name(jwks), why);
        self.due = host.steady().saturating_add(self.backoff.next(host));
        CallOutcome::Nothing
    }
}

fn refresh(jwks: &RemoteJwks) -> Duration {
    Duration::from_secs(jwks.refresh_s.max(1))
}

fn name(jwks: &RemoteJwks) -> String {
    format!(
        "keys from {}{} ({})",
        jwks.authority, jwks.path, jwks.cluster
    )
}

#[cfg(test)]
#[path = "jwks_tests.rs"]
mod tests;
