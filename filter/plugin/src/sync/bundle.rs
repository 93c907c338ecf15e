//! Long-polls the issuer for the trust bundle. Every worker polls on its own. The version in a
//! poll's `have` parameter acknowledges that bundle.

use std::cell::OnceCell;
use std::time::Duration;

use meshseal_core::authn::{Accepted, Trust, TrustBundleConfig};
use meshseal_core::bundle::{
    BundleError, PINS_HEADER, PROOF_HEADER, PROTOCOL, PROTOCOL_HEADER, STALENESS_HEADER,
};
use meshseal_core::keys::KeySet;
use meshseal_core::limits;
use meshseal_core::policy::Policy;

use super::pace::{Backoff, Bucket};
use super::{CallOutcome, Fault, Finished, Health, document};
use crate::host::{Host, HttpCall};
use crate::metrics::{Count, Metrics};
use crate::waiters;

/// Timeout of a poll beyond the time for which the issuer may hold the response.
const GRACE: Duration = Duration::from_secs(5);

/// Minimum time between polls that bring nothing new. It prevents a busy loop if the issuer, or a
/// proxy between, does not hold polls.
const SHORTEST_ROUND: Duration = Duration::from_secs(1);

const WHAT: &str = "trust bundle";

/// Identity of this worker, sent with every poll.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// Random id of this worker's trust store: 16 hexadecimal digits.
    pub(crate) worker: String,
    /// The proxy's node id, at most 128 visible ASCII characters. It is read at the first poll,
    /// because Envoy 1.40 does not provide it during configuration.
    pub(crate) node: OnceCell<String>,
    /// Maximum time for which the configuration uses one bundle, as the issuer reads it.
    pub(crate) staleness: String,
    /// Ids of the pinned bundle keys.
    pub(crate) pins: String,
}

impl Identity {
    pub(crate) fn new(host: &impl Host, policy: &Policy) -> Self {
        Self {
            worker: format!("{:016x}", host.random()),
            node: OnceCell::new(),
            staleness: policy.staleness_bound().to_string(),
            pins: policy
                .authn()
                .trust_bundle()
                .map(|bundle| pin_list(&bundle.pins))
                .unwrap_or_default(),
        }
    }

    fn node(&self, host: &impl Host) -> &str {
        self.node.get_or_init(|| {
            // Current Envoy has the first property; older Envoys and other hosts have the second.
            let node = host
                .property(&["xds", "node", "id"])
                .or_else(|| host.property(&["node", "id"]));
            node.unwrap_or_default()
                .into_iter()
                .filter(u8::is_ascii_graphic)
                .take(128)
                .map(char::from)
                .collect()
        })
    }
}

/// Returns the ids of the pinned keys as a header value. An id that a header cannot carry is
/// omitted. The issuer then counts its key as not pinned, which only delays a rotation.
fn pin_list(pins: &KeySet) -> String {
    pins.kids()
        .flatten()
        .filter(|kid| is_sendable(kid))
        .collect::<Vec<_>>()
        .join(",")
}

fn is_sendable(kid: &str) -> bool {
    kid.bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b',')
}

/// State of the polls. All times are monotonic.
#[derive(Debug)]
pub(crate) struct BundleSync {
    /// The long-poll under way.
    poll: Option<PendingPoll>,
    /// Start of the latest long-poll.
    started: Duration,
    /// Time of the latest accepted bundle.
    last_accepted: Duration,
    due: Duration,
    urgent: UrgentPoll,
    backoff: Backoff,
    budget: Bucket,
    /// True after a delta that did not match: the next poll requests a full bundle.
    ask_full: bool,
    health: Health,
}

/// A short poll on behalf of held requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UrgentPoll {
    No,
    Wanted,
    Sent(PendingPoll),
}

/// A poll under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PendingPoll {
    token: u32,
    have: Option<u64>,
    wait_s: u64,
    /// Time at which the poll is given up, although the proxy promises a response.
    overdue: Duration,
}

impl BundleSync {
    pub(crate) fn new() -> Self {
        Self {
            poll: None,
            started: Duration::ZERO,
            last_accepted: Duration::ZERO,
            due: Duration::ZERO,
            urgent: UrgentPoll::No,
            backoff: Backoff::new(Duration::from_millis(250), Duration::from_secs(10)),
            budget: Bucket::full(4, Duration::from_secs(1)),
            ask_full: false,
            health: Health::default(),
        }
    }

    /// Returns the time of the next poll; `None` while one is under way.
    pub(crate) fn due(&self) -> Option<Duration> {
        if self.urgent == UrgentPoll::Wanted {
            Some(Duration::ZERO)
        } else {
            self.poll.is_none().then_some(self.due)
        }
    }

    /// Starts the polls that are due and gives up those that are overdue. Must run on the root
    /// context, because the proxy delivers a response to the context that made the call.
    pub(crate) fn tick(
        &mut self,
        host: &impl Host,
        config: &TrustBundleConfig,
        me: &Identity,
        trust: &Trust,
        metrics: &Metrics,
    ) {
        // Urgent poll: runs beside the long-poll.
        if let UrgentPoll::Sent(asked) = self.urgent
            && asked.overdue <= host.steady()
        {
            self.urgent = UrgentPoll::No;
        }
        if self.urgent == UrgentPoll::Wanted {
            let asked = ask(host, config, me, held(trust), 0, waiters::MAX_WAIT);
            self.urgent = asked.map_or(UrgentPoll::No, UrgentPoll::Sent);
        }
        // Long-poll.
        let now = host.steady();
        if self.poll.take_if(|asked| asked.overdue <= now).is_some() {
            metrics.count(Count::BundlePollFailed);
            self.failed(host, &Fault::NoAnswer);
        }
        if self.poll.is_some() || now < self.due {
            return;
        }
        let have = held(trust).filter(|_| !self.ask_full);
        // After a failure or a long silence, ask for an immediate response: it confirms the bundle
        // without the delay of a whole long-poll.
        let silent = self.health.is_failing()
            || now.saturating_sub(self.last_accepted) > Duration::from_secs(config.wait_s);
        let wait_s = if silent { 0 } else { config.wait_s };
        self.started = now;
        self.poll = ask(
            host,
            config,
            me,
            have,
            wait_s,
            Duration::from_secs(wait_s).saturating_add(GRACE),
        );
        if self.poll.is_none() {
            metrics.count(Count::BundlePollFailed);
            self.failed(
                host,
                &format!(
                    "cluster {:?} is unknown to the proxy or has no healthy host",
                    config.cluster
                ),
            );
        }
    }

    /// Schedules an urgent poll for the next tick on behalf of a held request. Returns true if a
    /// response can arrive in time for it. All held requests share one urgent poll, and a budget
    /// limits urgent polls.
    pub(crate) fn request_refresh(&mut self, now: Duration) -> bool {
        if self.urgent == UrgentPoll::No && self.budget.take(now) {
            self.urgent = UrgentPoll::Wanted;
        }
        self.urgent != UrgentPoll::No
    }

    /// Handles a response and returns its outcome. Returns `None` if no poll made the call.
    pub(crate) fn finished(
        &mut self,
        host: &impl Host,
        finished: Finished,
        config: &TrustBundleConfig,
        trust: &mut Trust,
        metrics: &Metrics,
    ) -> Option<CallOutcome> {
        let (asked, regular) = self.take_pending(finished.token)?;
        Some(match document(host, finished, limits::MAX_BUNDLE_BYTES) {
            // Another poll brought a new version while this one was under way. This response is
            // a delta from the replaced version, so it is dropped.
            Ok(_) if asked.have != trust.bundle_version() && asked.have.is_some() => {
                self.due = self.due.min(host.steady());
                CallOutcome::Nothing
            }
            Ok(jws) => self.accept(host, &jws, asked, config, trust, metrics),
            Err(fault) => {
                let count = if matches!(fault, Fault::TooLarge(_)) {
                    Count::BundleRefused
                } else {
                    Count::BundlePollFailed
                };
                metrics.count(count);
                // A failed urgent poll does not affect the long-poll, which may be under way.
                if regular {
                    self.failed(host, &fault);
                }
                CallOutcome::Nothing
            }
        })
    }

    /// Takes the poll that made the call `token`. The flag is true for the long-poll and false for
    /// an urgent poll.
    fn take_pending(&mut self, token: u32) -> Option<(PendingPoll, bool)> {
        if let Some(asked) = self.poll.take_if(|asked| asked.token == token) {
            return Some((asked, true));
        }
        match self.urgent {
            UrgentPoll::Sent(asked) if asked.token == token => {
                self.urgent = UrgentPoll::No;
                Some((asked, false))
            }
            UrgentPoll::No | UrgentPoll::Wanted | UrgentPoll::Sent(_) => None,
        }
    }

    /// Verifies a bundle and adopts it. The bundle in use stays if the new one is rejected.
    fn accept(
        &mut self,
        host: &impl Host,
        jws: &str,
        asked: PendingPoll,
        config: &TrustBundleConfig,
        trust: &mut Trust,
        metrics: &Metrics,
    ) -> CallOutcome {
        let now = host.steady();
        match trust.accept_bundle(jws.trim_ascii_end(), &config.pins, host.moment()) {
            Ok(accepted) => {
                self.health.works(host, WHAT);
                self.backoff.reset();
                self.ask_full = false;
                self.last_accepted = now;
                // The next poll acknowledges the new version, so it goes out at once.
                if accepted == Accepted::NewVersion {
                    metrics.count(Count::BundleAccepted);
                    self.due = now;
                    return CallOutcome::News;
                }
                // A poll without `wait` is answered at once by design, so no delay is needed.
                self.due = if asked.wait_s == 0 {
                    now
                } else {
                    now.max(self.started.saturating_add(SHORTEST_ROUND))
                };
                CallOutcome::Nothing
            }
            Err(error) => {
                metrics.count(Count::BundleRefused);
                // A delta that does not match our version: request a full bundle. Its version still
                // must not be older than ours.
                self.ask_full = error == BundleError::WrongBase;
                self.failed(host, &error);
                CallOutcome::Nothing
            }
        }
    }

    fn failed(&mut self, host: &impl Host, why: &dyn std::fmt::Display) {
        self.health.failed(host, WHAT, why);
        self.due = host.steady().saturating_add(self.backoff.next(host));
    }
}

/// A bundle version and its proof, which a poll returns to acknowledge the version.
type Held<'t> = (u64, Option<&'t str>);

/// Returns version and proof of the bundle in use.
fn held(trust: &Trust) -> Option<Held<'_>> {
    trust
        .bundle_version()
        .map(|version| (version, trust.bundle_ack()))
}

/// Sends a poll. Returns `None` if the proxy refuses the call.
fn ask(
    host: &impl Host,
    config: &TrustBundleConfig,
    me: &Identity,
    have: Option<Held<'_>>,
    wait_s: u64,
    timeout: Duration,
) -> Option<PendingPoll> {
    let known = have
        .map(|(version, _)| format!("have={version}&"))
        .unwrap_or_default();
    let path = format!("{}?{known}wait={wait_s}", config.path);
    let bearer = config
        .poll_token
        .as_ref()
        .map(|token| format!("Bearer {token}"));
    let protocol = PROTOCOL.to_string();
    let mut headers = vec![
        (":method", "GET"),
        (":path", path.as_str()),
        (":authority", &*config.authority),
        ("accept", "application/jose"),
        ("x-meshseal-worker", &*me.worker),
        ("x-meshseal-node", me.node(host)),
        (PROTOCOL_HEADER, &*protocol),
        (STALENESS_HEADER, &*me.staleness),
        (PINS_HEADER, &*me.pins),
    ];
    headers.extend(have.and_then(|(_, ack)| ack).map(|ack| (PROOF_HEADER, ack)));
    if let Some(bearer) = &bearer {
        headers.push(("authorization", bearer));
    }
    let token = host
        .call(&HttpCall {
            cluster: &config.cluster,
            headers: &headers,
            timeout,
        })
        .ok()?;
    let overdue = host.steady().saturating_add(timeout).saturating_add(GRACE);
    Some(PendingPoll {
        token,
        have: have.map(|(version, _)| version),
        wait_s,
        overdue,
    })
}

#[cfg(test)]
#[path = "bundle_tests.rs"]
mod tests;
