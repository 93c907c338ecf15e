//! Carries out what is decided: the state of one root context (one plugin configuration in one
//! worker).
//!
//! Requests come in on their own contexts, ticks and answers on the root context; all of them
//! borrow the one engine, one at a time. What may not happen (a callback inside a callback) is
//! refused at the borrow, in the adapters.

use std::time::Duration;

use meshseal_core::limits;
use meshseal_core::policy::Mode;
use meshseal_core::rejection::Rejection;

use crate::config::{Active, Ticked};
use crate::decide::{Accepted, Verdict, decide};
use crate::headers::RequestHeaders;
use crate::host::{Host, Level};
use crate::log;
use crate::metrics::Count;
use crate::registry;
use crate::response::{self, Refusal};
use crate::sync::jwks::Urge;
use crate::sync::{Finished, Heard};
use crate::verify::{Hosted, tables};
use crate::waiters::{self, Source, Waiters};

/// The longest that the root context sleeps: what it reports is this old at the most, in seconds.
const IDLE_TICK: Duration = Duration::from_secs(1);

/// At the next turn of the proxy's event loop.
const SOON: Duration = Duration::from_millis(1);

/// What the proxy is to do with the request for now.
#[derive(Debug)]
pub enum Flow {
    /// Send it on.
    Continue,
    /// It has been answered.
    Answered,
    /// Hold it; the engine will answer or resume it.
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
    /// Whether tables are being built, a little at every tick.
    growing: bool,
}

impl<H: Host> Engine<H> {
    /// An engine that refuses everything until it is configured (V28).
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

    /// Takes a plugin configuration of `size` bytes into force. False, with every mistake in the
    /// log, if it is not one: then whatever was in force stays in force.
    pub fn configure(&mut self, size: usize) -> bool {
        let host = &self.host;
        self.level = host.log_level();
        let read = if size > limits::MAX_CONFIG_BYTES {
            Err(vec![format!(
                "the plugin configuration has {size} bytes, more than {}",
                limits::MAX_CONFIG_BYTES
            )])
        } else {
            Active::read(host, &host.configuration(size).unwrap_or_default())
        };
        match read {
            Ok(active) => {
                self.end();
                self.active = Some(active);
                let orphans = self.waiters.take_all();
                self.decide_again(&orphans);
                // Calls from on_configure are not reliable in Envoy: the first tick makes them.
                self.set_tick(SOON);
                true
            }
            Err(mistakes) => {
                for mistake in mistakes {
                    host.log(Level::Error, &format!("configuration refused: {mistake}"));
                }
                false
            }
        }
    }

    /// A request has arrived on the entered context `stream`.
    pub fn on_request(&mut self, stream: u32) -> Flow {
        let headers = self.host.request_headers();
        let Some(active) = &self.active else {
            self.host.respond(&response::unavailable(headers.is_grpc()));
            return Flow::Answered;
        };
        if !sanitize(active, &self.host, &headers) {
            let reply = active
                .replies
                .reply(&Rejection::KeysUnavailable.into(), headers.is_grpc());
            self.host.log(
                Level::Error,
                "the host refused to remove a request header that the client forged",
            );
            self.host.respond(&reply);
            return Flow::Answered;
        }
        let verdict = decide(active, &self.host, &headers);
        let Verdict::KeyMayBeNewer(rejection, sources) = verdict else {
            return carry_out(active, &self.host, &headers, verdict, self.level);
        };
        if self.hold(stream, rejection, &sources) {
            return Flow::Held;
        }
        let Some(active) = &self.active else {
            return Flow::Answered;
        };
        refuse(active, &self.host, &headers, &rejection.into(), self.level)
    }

    /// Holds a request until there may be a newer key, if one can be had in time. Shadow mode urges
    /// too, but holds nothing up.
    fn hold(&mut self, stream: u32, rejection: Rejection, sources: &[Source]) -> bool {
        let now = self.host.steady();
        let Some(active) = &mut self.active else {
            return false;
        };
        let why = if rejection == Rejection::KeyUnknown {
            Urge::UnknownKey
        } else {
            Urge::OtherKey
        };
        let mut under_way = sources.to_vec();
        under_way.retain(|source| match source {
            Source::Bundle => active.bundle.urge(now),
            Source::Jwks(index) => active.jwks.urge(*index, why, now),
        });
        if under_way.is_empty() {
            return false;
        }
        let shadow = active.policy.mode() == Mode::Shadow;
        // On a host where a living request looks ended (Kong's ngx_wasm_module), its end could not
        // be learned later.
        let held =
            !shadow && !self.host.request_has_ended() && self.waiters.admit(stream, under_way, now);
        if held {
            active.metrics.count(Count::Waited);
        }
        self.host.enter(self.root);
        self.set_tick(SOON);
        self.host.enter(stream);
        held
    }

    /// Time has passed, on the root context.
    pub fn on_tick(&mut self) {
        self.level = self.host.log_level();
        self.notice_jump();
        self.age();
        self.poll();
        self.prepare();
        let due = self.waiters.take_due(self.host.steady());
        self.decide_again(&due);
        self.report();
        self.reschedule();
    }

    /// Asks for a confirmation of the bundle at once after the wall clock went ahead: the machine
    /// may have slept, and a monotonic clock may stand still meanwhile.
    fn notice_jump(&mut self) {
        let Some(active) = &mut self.active else {
            return;
        };
        let now = Ticked::now(&self.host);
        if now.jumped_since(active.ticked.replace(now))
            && active.policy.authn().trust_bundle().is_some()
        {
            active.bundle.urge(self.host.steady());
        }
    }

    /// Withdraws trust from fetched keys that were not confirmed for too long, whatever the reason.
    /// Once a tick, so that no request asks for the time.
    fn age(&self) {
        let Some(active) = &self.active else { return };
        let Ok(mut trust) = active.trust.try_borrow_mut() else {
            return;
        };
        for rule in trust.age_jwks(active.policy.authn(), self.host.steady()) {
            let line = format!(
                "jwtRules[{rule}]: fetched keys are older than staleness.maxAge; rejecting its tokens with 503"
            );
            self.host.log(Level::Warn, &line);
        }
    }

    /// What makes verification cheaper is made ready where no request waits for it.
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
        if active.tables_of != Some(generation) {
            active.tables_of = Some(generation);
            tables::keep();
        }
        self.growing = tables::grow();
    }

    /// A call has finished, on the root context.
    pub fn on_call_finished(&mut self, token: u32, size: usize) {
        let finished = Finished { token, size };
        if let Some((source, Heard::News)) = self.hear(finished) {
            self.report();
            let served = self.waiters.take_served(source);
            self.decide_again(&served);
        }
        // The next poll goes out at once: while none is under way, a new key would have to wait for
        // the tick.
        self.poll();
        self.reschedule();
    }

    fn hear(&mut self, finished: Finished) -> Option<(Source, Heard)> {
        let (host, active) = (&self.host, self.active.as_mut()?);
        let mut trust = active.trust.try_borrow_mut().ok()?;
        if let Some(config) = active.policy.authn().trust_bundle()
            && let Some(heard) =
                active
                    .bundle
                    .finished(host, finished, config, &mut trust, &active.metrics)
        {
            drop(trust);
            if heard == Heard::News {
                registry::share(&active.policy, &active.trust);
            }
            return Some((Source::Bundle, heard));
        }
        let (index, heard) =
            active
                .jwks
                .finished(host, finished, &active.policy, &mut trust, &active.metrics)?;
        Some((Source::Jwks(index), heard))
    }

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

    /// Decides held requests again, with what is known now; nobody waits twice.
    fn decide_again(&mut self, streams: &[u32]) {
        let Some(active) = &self.active else { return };
        for stream in streams {
            if !self.host.enter(*stream) || self.host.request_has_ended() {
                continue;
            }
            let headers = self.host.request_headers();
            // The configuration may be another one than that under which it came.
            if !sanitize(active, &self.host, &headers) {
                self.host.respond(
                    &active
                        .replies
                        .reply(&Rejection::KeysUnavailable.into(), headers.is_grpc()),
                );
                continue;
            }
            let verdict = decide(active, &self.host, &headers);
            if let Flow::Continue = carry_out(active, &self.host, &headers, verdict, self.level) {
                self.host.resume();
            }
        }
        if !streams.is_empty() {
            self.host.enter(self.root);
        }
    }

    /// The configuration in force ends: what is not told yet is told.
    pub fn end(&self) {
        if let Some(active) = &self.active {
            active.metrics.tell(&self.host);
        }
    }

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

    /// Ticks when the next thing is due.
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
        if self.tick != Some(period) {
            self.tick = Some(period);
            self.host.set_tick_period(period);
        }
    }
}

/// Removes every spelling of the headers that this configuration may add (V21). False if the proxy
/// refuses: the request must not go on then.
fn sanitize(active: &Active, host: &impl Host, headers: &RequestHeaders) -> bool {
    active
        .sanitized
        .iter()
        .flat_map(|name| headers.spellings(name))
        .all(|name| host.remove_request_header(name))
}

/// Answers, or makes the request ready to go on.
fn carry_out(
    active: &Active,
    host: &impl Host,
    headers: &RequestHeaders,
    verdict: Verdict<'_>,
    level: Level,
) -> Flow {
    match verdict {
        Verdict::Preflight => active.metrics.count(Count::Preflight),
        Verdict::Anonymous => active.metrics.count(Count::Anonymous),
        Verdict::Accepted(accepted) => {
            if !apply(host, &accepted) {
                host.log(
                    Level::Error,
                    "the host refused to remove the token or to add an output header",
                );
                return refuse(
                    active,
                    host,
                    headers,
                    &Rejection::KeysUnavailable.into(),
                    level,
                );
            }
            active.metrics.count(Count::Accepted);
            let omitted = accepted.omitted();
            if omitted > 0 {
                active.metrics.add(Count::OutputOmitted, omitted);
            }
        }
        Verdict::KeyMayBeNewer(rejection, _) => {
            return refuse(active, host, headers, &rejection.into(), level);
        }
        Verdict::Refused(refusal) => return refuse(active, host, headers, &refusal, level),
    }
    Flow::Continue
}

/// In shadow mode a refusal is counted and the request goes on as it came, without any output:
/// nothing identifies a caller but a token that is really good.
fn refuse(
    active: &Active,
    host: &impl Host,
    headers: &RequestHeaders,
    refusal: &Refusal,
    level: Level,
) -> Flow {
    let shadow = active.policy.mode() == Mode::Shadow;
    active.metrics.refused(host, refusal.rejection, shadow);
    if level == Level::Debug {
        let path = headers.request().map_or("", |request| request.path);
        let token = active
            .places
            .locate(headers, path)
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

/// False if the proxy refuses to remove the token, which the upstream must not see, or to add an
/// output: the upstream must not take the request for an anonymous one.
fn apply(host: &impl Host, accepted: &Accepted<'_>) -> bool {
    if accepted
        .remove()
        .is_some_and(|located| !located.remove(host))
    {
        return false;
    }
    // Whatever the request had under these names was removed before.
    accepted
        .outputs()
        .all(|(name, value)| host.add_request_header(name, value))
}

#[cfg(test)]
#[path = "engine_tests/mod.rs"]
mod tests;
