//! The engine: carries out decisions and holds the state of one root context, that is, of one
//! plugin configuration in one worker.
//!
//! Envoy reports requests on their stream contexts, and ticks and call responses on the root
//! context. Each callback borrows the same engine. Callbacks never nest; if a host nests them
//! anyway, the borrow fails and the adapters (`root.rs`, `streams.rs`) reject the callback.

use std::time::Duration;

use meshseal_core::decide::{
    Accepted, Decision, HeaderEdit, Pass, Refusal, forged_outputs, locate,
};
use meshseal_core::limits;
use meshseal_core::policy::Mode;
use meshseal_core::rejection::Rejection;

use crate::config::{Active, Ticked};
use crate::decide::{decide, sources};
use crate::headers::{AbiHeaders, ProxyRequest};
use crate::host::{Host, Level};
use crate::log;
use crate::metrics::Count;
use crate::registry;
use crate::response;
use crate::sync::jwks::RefreshReason;
use crate::sync::{CallOutcome, Finished};
use crate::verify::{Hosted, tables};
use crate::waiters::{self, Source, Waiters};

/// Longest tick period of the root context. Reported metrics are at most this old.
const IDLE_TICK: Duration = Duration::from_secs(1);

/// Shortest tick period: the next iteration of the proxy's event loop.
const SOON: Duration = Duration::from_millis(1);

/// Action that the proxy takes for the request when the callback returns.
#[derive(Debug)]
pub enum Flow {
    /// Forward the request.
    Continue,
    /// Stop; the engine has sent a response.
    Answered,
    /// Pause the request; the engine answers or resumes it later.
    Held,
}

/// The state of a root context.
pub struct Engine<H> {
    host: H,
    root: u32,
    active: Option<Active>,
    waiters: Waiters,
    tick: Option<Duration>,
    level: Level,
    /// True while key tables are being built, a few rows per tick.
    growing: bool,
}

impl<H: Host> Engine<H> {
    /// Creates an engine that rejects every request until it is configured (V28).
    pub fn new(host: H, root: u32) -> Self {
        Self {
            host,
            root,
            active: None,
            waiters: Waiters::default(),
            tick: None,
            level: Level::Info,
            growing: false,
        }
    }

    /// Activates a plugin configuration of `size` bytes. If it is invalid, logs every mistake,
    /// returns false and keeps the previous configuration active.
    pub fn configure(&mut self, size: usize) -> bool {
        let host = &self.host;
        self.level = host.log_level();
        let read = if size > limits::MAX_CONFIG_BYTES {
            Err(vec![format!(
                "pluginConfig: has {size} bytes, the limit is {}",
                limits::MAX_CONFIG_BYTES
            )])
        } else {
            Active::read(host, &host.configuration(size).unwrap_or_default())
        };
        match read {
            Ok(active) => {
                self.end();
                self.active = Some(active);
                // Held requests waited for keys of the old configuration: decide them by the new.
                let orphans = self.waiters.take_all();
                self.decide_again(&orphans);
                // HTTP calls from on_configure are not reliable in Envoy, so the first tick makes
                // them.
                self.set_tick(SOON);
                true
            }
            Err(mistakes) => {
                for mistake in mistakes {
                    host.log(Level::Error, &format!("configuration rejected: {mistake}"));
                }
                false
            }
        }
    }

    /// Decides a request that has arrived on `stream`, which is the entered context.
    pub fn on_request(&mut self, stream: u32) -> Flow {
        let headers = self.host.request_headers();
        let Some(active) = &self.active else {
            self.host.respond(&response::unavailable(headers.is_grpc()));
            return Flow::Answered;
        };
        // Forged headers are removed first, because requests can also pass without a token or in
        // shadow mode.
        if !sanitize(active, &self.host, &headers) {
            return fail_closed(active, &self.host, &headers);
        }
        let decision = decide(active, &self.host, &headers);
        let Decision::Need(question) = decision else {
            return carry_out(active, &self.host, &headers, decision, self.level);
        };
        let (rejection, sources) = (question.rejection, sources(active, &question));
        // A newer key may accept the token. Wait for it if a refresh is possible.
        if self.hold(stream, rejection, &sources) {
            return Flow::Held;
        }
        let Some(active) = &self.active else {
            return Flow::Answered;
        };
        refuse(active, &self.host, &headers, &rejection.into(), self.level)
    }

    /// Requests newer keys from `sources` and holds the request until they may have arrived.
    /// Returns false if the request is not held. Shadow mode refreshes keys but holds no request.
    fn hold(&mut self, stream: u32, rejection: Rejection, sources: &[Source]) -> bool {
        let now = self.host.steady();
        let Some(active) = &mut self.active else {
            return false;
        };
        let why = if rejection == Rejection::KeyUnknown {
            RefreshReason::UnknownKey
        } else {
            RefreshReason::OtherKey
        };
        let mut under_way = sources.to_vec();
        under_way.retain(|source| match source {
            Source::Bundle => active.bundle.request_refresh(now),
            Source::Jwks(index) => active.jwks.request_refresh(*index, why, now),
        });
        if under_way.is_empty() {
            return false;
        }
        let shadow = active.policy.mode() == Mode::Shadow;
        // Some hosts (Kong's ngx_wasm_module) report a running request as ended. On them the filter
        // could not tell later whether a held request still exists.
        let held =
            !shadow && !self.host.request_has_ended() && self.waiters.admit(stream, under_way, now);
        if held {
            active.metrics.count(Count::Waited);
        }
        // The tick period belongs to the root context, and the next tick makes the calls.
        self.host.enter(self.root);
        self.set_tick(SOON);
        self.host.enter(stream);
        held
    }

    /// Handles a tick of the root context: refreshes keys, expires trust and releases requests.
    pub fn on_tick(&mut self) {
        self.level = self.host.log_level();
        self.notice_jump();
        self.age();
        self.poll();
        self.prepare();
        // Requests past their deadline are decided with the keys that have arrived by now.
        let due = self.waiters.take_due(self.host.steady());
        self.decide_again(&due);
        self.report();
        self.reschedule();
    }

    /// Polls the issuer at once after the wall clock jumped forward. The machine may have been
    /// suspended, and a monotonic clock may stand still meanwhile.
    fn notice_jump(&mut self) {
        let Some(active) = &mut self.active else {
            return;
        };
        let now = Ticked::now(&self.host);
        if now.jumped_since(active.ticked.replace(now))
            && active.policy.authn().trust_bundle().is_some()
        {
            active.bundle.request_refresh(self.host.steady());
        }
    }

    /// Withdraws trust from fetched keys that have not been confirmed within `staleness.maxAge`.
    /// Runs once per tick, so that requests need not read the clock.
    fn age(&self) {
        let Some(active) = &self.active else { return };
        let Ok(mut trust) = active.trust.try_borrow_mut() else {
            return;
        };
        for rule in trust.age_jwks(active.policy.authn(), self.host.steady()) {
            let line = format!(
                "jwtRules[{rule}]: fetched keys are older than staleness.maxAge; \
                 rejecting its tokens with 503"
            );
            self.host.log(Level::Warn, &line);
        }
    }

    /// Prepares faster verification (host crypto and key tables) outside the request path.
    fn prepare(&mut self) {
        let Some(active) = &mut self.active else {
            return;
        };
        if active.hosted.is_none() && active.policy.host_verification() {
            active.hosted = Some(Hosted::proven(&self.host));
        }
        let generation = active
            .trust
            .try_borrow()
            .map_or(0, |trust| trust.generation());
        // Keys have changed since the tables were chosen.
        if active.tables_of != Some(generation) {
            active.tables_of = Some(generation);
            tables::keep();
        }
        self.growing = tables::grow();
    }

    /// Handles the response to an HTTP call on the root context.
    pub fn on_call_finished(&mut self, token: u32, size: usize) {
        let finished = Finished { token, size };
        if let Some((source, CallOutcome::News)) = self.dispatch(finished) {
            self.report();
            let served = self.waiters.take_served(source);
            self.decide_again(&served);
        }
        // Poll again at once. Without a poll under way, the issuer cannot push a new key before the
        // next tick.
        self.poll();
        self.reschedule();
    }

    /// Passes a response to the component that made the call. Returns its source and outcome.
    fn dispatch(&mut self, finished: Finished) -> Option<(Source, CallOutcome)> {
        let (host, active) = (&self.host, self.active.as_mut()?);
        let mut trust = active.trust.try_borrow_mut().ok()?;
        if let Some(config) = active.policy.authn().trust_bundle()
            && let Some(outcome) =
                active
                    .bundle
                    .finished(host, finished, config, &mut trust, &active.metrics)
        {
            // `share` borrows the trust of every configuration.
            drop(trust);
            if outcome == CallOutcome::News {
                registry::share(&active.policy, &active.trust);
            }
            return Some((Source::Bundle, outcome));
        }
        let (index, outcome) =
            active
                .jwks
                .finished(host, finished, &active.policy, &mut trust, &active.metrics)?;
        Some((Source::Jwks(index), outcome))
    }

    /// Makes the HTTP calls that are due.
    fn poll(&mut self) {
        let (host, Some(active)) = (&self.host, &mut self.active) else {
            return;
        };
        let Ok(trust) = active.trust.try_borrow() else {
            return;
        };
        if let Some(config) = active.policy.authn().trust_bundle() {
            active
                .bundle
                .tick(host, config, &active.me, &trust, &active.metrics);
        }
        active.jwks.tick(host, &active.policy, &active.metrics);
    }

    /// Decides held requests with the keys known now. No request is held twice.
    fn decide_again(&mut self, streams: &[u32]) {
        let Some(active) = &self.active else { return };
        for stream in streams {
            // The client may have gone while its request was held.
            if !self.host.enter(*stream) || self.host.request_has_ended() {
                continue;
            }
            let headers = self.host.request_headers();
            // The configuration may have changed since the request was held.
            if !sanitize(active, &self.host, &headers) {
                fail_closed(active, &self.host, &headers);
                continue;
            }
            let decision = decide(active, &self.host, &headers);
            if let Flow::Continue = carry_out(active, &self.host, &headers, decision, self.level) {
                self.host.resume();
            }
        }
        if !streams.is_empty() {
            self.host.enter(self.root);
        }
    }

    /// Flushes buffered metrics before this configuration is dropped.
    pub fn end(&self) {
        if let Some(active) = &self.active {
            active.metrics.tell(&self.host);
        }
    }

    /// Reports metrics to the proxy.
    fn report(&self) {
        let Some(active) = &self.active else { return };
        active.metrics.tell(&self.host);
        let Ok(trust) = active.trust.try_borrow() else {
            return;
        };
        let age = trust.freshness(self.host.moment()).age;
        active.metrics.trust(
            &self.host,
            trust.bundle_version(),
            age,
            trust.keys().count(),
        );
    }

    /// Sets the tick period so that the next tick comes when the next work is due.
    fn reschedule(&mut self) {
        let now = self.host.steady();
        let bundle = self
            .active
            .as_ref()
            .filter(|active| active.policy.authn().trust_bundle().is_some());
        let due = bundle.and_then(|active| active.bundle.due()).into_iter();
        let due = due
            .chain(self.active.as_ref().and_then(|active| active.jwks.due()))
            .min();
        // At least every IDLE_TICK, to report metrics; at most every `waiters::TICK`.
        let wait = due.map_or(IDLE_TICK, |due| {
            due.saturating_sub(now).clamp(waiters::TICK, IDLE_TICK)
        });
        let wait = if self.growing { SOON } else { wait };
        self.set_tick(if self.waiters.is_empty() {
            wait
        } else {
            wait.min(waiters::TICK)
        });
    }

    fn set_tick(&mut self, period: Duration) {
        // Setting the period restarts Envoy's timer, so an unchanged period is not set again.
        if self.tick != Some(period) {
            self.tick = Some(period);
            self.host.set_tick_period(period);
        }
    }
}

/// Removes every spelling of the headers that this configuration may add (V21). Returns false if
/// the proxy refuses; the caller must then reject the request.
fn sanitize(active: &Active, host: &impl Host, headers: &ProxyRequest) -> bool {
    forged_outputs(headers, &active.policy).all(|name| host.remove_request_header(name))
}

/// Carries out a decision: answers the request, or prepares it for the upstream.
fn carry_out(
    active: &Active,
    host: &impl Host,
    headers: &ProxyRequest,
    decision: Decision<'_, AbiHeaders>,
    level: Level,
) -> Flow {
    match decision {
        Decision::Pass(Pass::Preflight) => active.metrics.count(Count::Preflight),
        Decision::Pass(Pass::Anonymous) => active.metrics.count(Count::Anonymous),
        Decision::Pass(Pass::Accepted(accepted)) => {
            // Fail closed: the upstream must see neither the token nor a request without outputs.
            if !apply(host, &accepted) {
                return fail_closed(active, host, headers);
            }
            active.metrics.count(Count::Accepted);
            let omitted = accepted.omitted();
            if omitted > 0 {
                active.metrics.add(Count::OutputOmitted, omitted);
            }
        }
        // Only `decide_again` gets here: the request has been held once, so it is rejected.
        Decision::Need(question) => {
            return refuse(active, host, headers, &question.rejection.into(), level);
        }
        Decision::Refuse(refusal) => return refuse(active, host, headers, &refusal, level),
    }
    Flow::Continue
}

/// Answers 503 to a request that the proxy refuses to edit, in shadow mode too: some edits may be
/// done, so the request is no longer the client's.
fn fail_closed(active: &Active, host: &impl Host, headers: &ProxyRequest) -> Flow {
    let rejection = Rejection::KeysUnavailable;
    active.metrics.refused(host, rejection, false);
    host.log(
        Level::Error,
        "the host refused to edit the headers of a request; request rejected",
    );
    host.respond(&active.replies.reply(&rejection.into(), headers.is_grpc()));
    Flow::Answered
}

/// Rejects a request. In shadow mode the rejection is only counted, and the request passes
/// unchanged and without outputs: only a valid token may identify a caller.
fn refuse(
    active: &Active,
    host: &impl Host,
    headers: &ProxyRequest,
    refusal: &Refusal,
    level: Level,
) -> Flow {
    let shadow = active.policy.mode() == Mode::Shadow;
    active.metrics.refused(host, refusal.rejection, shadow);
    // Locating the token again is expensive, so only debug logging pays for it.
    if level == Level::Debug {
        let path = headers.request().map_or("", |request| request.path);
        let token = locate(active.policy.authn().token_sources(), headers, path)
            .and_then(|located| located.text())
            .ok();
        host.log(
            Level::Debug,
            &log::refused(refusal.rejection, shadow, token),
        );
    }
    if shadow {
        return Flow::Continue;
    }
    host.respond(&active.replies.reply(refusal, headers.is_grpc()));
    Flow::Answered
}

/// Edits the headers of an accepted request. Returns false if the proxy refuses to remove the
/// token, which the upstream must not see, or to add an output. Without its outputs the upstream
/// could take the request for an anonymous one.
fn apply(host: &impl Host, accepted: &Accepted<'_, AbiHeaders>) -> bool {
    accepted.apply(&mut |edit| match edit {
        HeaderEdit::Remove(name) => host.remove_request_header(name),
        HeaderEdit::Set(name, value) => host.set_request_header(name, &value),
        // INVARIANT: `sanitize` has removed every header of this name, so no forged copy remains.
        HeaderEdit::Add(name, value) => host.add_request_header(name, value),
    })
}

#[cfg(test)]
#[path = "engine_tests/mod.rs"]
mod tests;
