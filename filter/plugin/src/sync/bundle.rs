//! The long-poll for the trust bundle. Every worker keeps its own; the version it asks with is its
//! acknowledgement.

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
use super::{Fault, Finished, Health, Heard, document};
use crate::host::{Host, HttpCall};
use crate::metrics::{Count, Metrics};
use crate::waiters;

/// What the proxy waits for the issuer beyond the time that the poll asks it to hold the answer.
const GRACE: Duration = Duration::from_secs(5);

/// An issuer that answers at once with nothing new (a proxy between may cut long-polls) is asked
/// once a second, not in a loop.
const SHORTEST_ROUND: Duration = Duration::from_secs(1);

const WHAT: &str = "trust bundle";

/// How this worker introduces itself to the issuer.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// 16 hex digits, one for each worker and trust store.
    pub(crate) worker: String,
    /// The proxy's node id, at most 128 visible characters; asked for with the first poll, since a
    /// proxy has none to tell while it is being configured (seen in Envoy 1.40).
    pub(crate) node: OnceCell<String>,
    /// Longest time for which the rules go on by one bundle.
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
            // The first is Envoy's present name for it, the second that of older Envoys and other
            // hosts.
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

/// Ids of pinned keys for a header. An id that a header cannot carry is left out: the issuer then
/// counts its key as not pinned, which delays a rotation and loosens nothing.
fn pin_list(pins: &KeySet) -> String {
    let sendable = |kid: &&str| {
        kid.bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b',')
    };
    pins.kids()
        .flatten()
        .filter(sendable)
        .collect::<Vec<_>>()
        .join(",")
}

/// The state of the poll.
#[derive(Debug)]
pub(crate) struct BundleSync {
    poll: Option<Asked>,
    started: Duration,
    heard: Duration,
    due: Duration,
    urgent: Urgent,
    backoff: Backoff,
    budget: Bucket,
    ask_full: bool,
    health: Health,
}

/// A question on behalf of requests that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Urgent {
    No,
    Wanted,
    Asked(Asked),
}

/// A question under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    token: u32,
    have: Option<u64>,
    wait_s: u64,
    /// Time after which no answer is expected any more, although the proxy promises one.
    overdue: Duration,
}

impl BundleSync {
    pub(crate) fn new() -> Self {
        Self {
            poll: None,
            started: Duration::ZERO,
            heard: Duration::ZERO,
            due: Duration::ZERO,
            urgent: Urgent::No,
            backoff: Backoff::new(Duration::from_millis(250), Duration::from_secs(10)),
            budget: Bucket::full(4, Duration::from_secs(1)),
            ask_full: false,
            health: Health::default(),
        }
    }

    /// When something is to be done next; `None` while the poll is under way.
    pub(crate) fn due(&self) -> Option<Duration> {
        if self.urgent == Urgent::Wanted {
            Some(Duration::ZERO)
        } else {
            self.poll.is_none().then_some(self.due)
        }
    }

    /// Asks what there is to ask. Only from the root context: calls belong to the context that
    /// makes them.
    pub(crate) fn tick(
        &mut self,
        host: &impl Host,
        config: &TrustBundleConfig,
        me: &Identity,
        trust: &Trust,
        metrics: &Metrics,
    ) {
        if let Urgent::Asked(asked) = self.urgent
            && asked.overdue <= host.steady()
        {
            self.urgent = Urgent::No;
        }
        if self.urgent == Urgent::Wanted {
            let asked = ask(host, config, me, held(trust), 0, waiters::MAX_WAIT);
            self.urgent = asked.map_or(Urgent::No, Urgent::Asked);
        }
        let now = host.steady();
        if self.poll.take_if(|asked| asked.overdue <= now).is_some() {
            metrics.count(Count::BundlePollFailed);
            self.failed(host, &"no answer");
        }
        if self.poll.is_some() || now < self.due {
            return;
        }
        let have = held(trust).filter(|_| !self.ask_full);
        // An issuer that was not heard for a while confirms what we have at once, rather than at
        // the end of a round.
        let silent = self.health.is_failing()
            || now.saturating_sub(self.heard) > Duration::from_secs(config.wait_s);
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
                &format!("cluster {:?} cannot be reached", config.cluster),
            );
        }
    }

    /// Wants to ask at the next tick, on behalf of requests that wait; true if that will be
    /// answered in time for them. One question serves all, and there is a budget for such
    /// questions.
    pub(crate) fn urge(&mut self, now: Duration) -> bool {
        if self.urgent == Urgent::No && self.budget.take(now) {
            self.urgent = Urgent::Wanted;
        }
        self.urgent != Urgent::No
    }

    /// Takes in an answer; `None` if it is to somebody else's question.
    pub(crate) fn finished(
        &mut self,
        host: &impl Host,
        finished: Finished,
        config: &TrustBundleConfig,
        trust: &mut Trust,
        metrics: &Metrics,
    ) -> Option<Heard> {
        let (asked, regular) = self.take_asked(finished.token)?;
        Some(match document(host, finished, limits::MAX_BUNDLE_BYTES) {
            // While this question was under way, another one brought news: the answer is to what we
            // no longer have.
            Ok(_) if asked.have != trust.bundle_version() && asked.have.is_some() => {
                self.due = self.due.min(host.steady());
                Heard::Nothing
            }
            Ok(jws) => self.accept(host, &jws, asked, config, trust, metrics),
            Err(fault) => {
                let count = if matches!(fault, Fault::TooLarge(_)) {
                    Count::BundleRefused
                } else {
                    Count::BundlePollFailed
                };
                metrics.count(count);
                // An urgent question that failed says nothing about the long-poll, which may well
                // be under way.
                if regular {
                    self.failed(host, &fault);
                }
                Heard::Nothing
            }
        })
    }

    fn take_asked(&mut self, token: u32) -> Option<(Asked, bool)> {
        if let Some(asked) = self.poll.take_if(|asked| asked.token == token) {
            return Some((asked, true));
        }
        match self.urgent {
            Urgent::Asked(asked) if asked.token == token => {
                self.urgent = Urgent::No;
                Some((asked, false))
            }
            Urgent::No | Urgent::Wanted | Urgent::Asked(_) => None,
        }
    }

    fn accept(
        &mut self,
        host: &impl Host,
        jws: &str,
        asked: Asked,
        config: &TrustBundleConfig,
        trust: &mut Trust,
        metrics: &Metrics,
    ) -> Heard {
        let now = host.steady();
        match trust.accept_bundle(jws.trim_ascii_end(), &config.pins, host.moment()) {
            Ok(accepted) => {
                self.health.works(host, WHAT);
                self.backoff.reset();
                self.ask_full = false;
                self.heard = now;
                if accepted == Accepted::NewVersion {
                    metrics.count(Count::BundleAccepted);
                    self.due = now;
                    return Heard::News;
                }
                let at_once_on_purpose = asked.wait_s == 0;
                self.due = if at_once_on_purpose {
                    now
                } else {
                    now.max(self.started.saturating_add(SHORTEST_ROUND))
                };
                Heard::Nothing
            }
            Err(error) => {
                metrics.count(Count::BundleRefused);
                // Whatever we have that a delta does not fit to: a full bundle does. Its version
                // must still not be older.
                self.ask_full = error == BundleError::WrongBase;
                self.failed(host, &error);
                Heard::Nothing
            }
        }
    }

    fn failed(&mut self, host: &impl Host, why: &dyn std::fmt::Display) {
        self.health.failed(host, WHAT, why);
        self.due = host.steady().saturating_add(self.backoff.next(host));
    }
}

/// A version, and the acknowledgement value that came with it.
type Held<'t> = (u64, Option<&'t str>);

fn held(trust: &Trust) -> Option<Held<'_>> {
    trust
        .bundle_version()
        .map(|version| (version, trust.bundle_ack()))
}

fn ask(
    host: &impl Host,
    config: &TrustBundleConfig,
    me: &Identity,
    have: Option<Held<'_>>,
    wait_s: u64,
    timeout: Duration,
) -> Option<Asked> {
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
    Some(Asked {
        token,
        have: have.map(|(version, _)| version),
        wait_s,
        overdue,
    })
}

#[cfg(test)]
#[path = "bundle_tests.rs"]
mod tests;
