//! From a plugin configuration to what the engine works with, or to a list of its mistakes.

use std::cell::{Cell, RefCell};
use std::hash::RandomState;
use std::rc::Rc;
use std::time::Duration;

use meshseal_core::authn::Trust;
use meshseal_core::bundle::BundleError;
use meshseal_core::decide::TokenCache;
use meshseal_core::policy::Policy;

use crate::host::{Host, Level};
use crate::log::Throttle;
use crate::metrics::{Count, Metrics};
use crate::registry;
use crate::response::Replies;
use crate::sync::bundle::{BundleSync, Identity};
use crate::sync::jwks::JwksSync;
use crate::verify::Hosted;

/// Envoy hands a `google.protobuf.Struct` on as its binary encoding, unlike what its documentation
/// says (seen in 1.40).
const NOT_TEXT: &str = "the plugin configuration is not text; give it as a google.protobuf.StringValue that holds JSON";

/// Longest time between two ticks, and how far a step of the wall clock may go unnoticed between
/// them.
const LONGEST_TICK: Duration = Duration::from_secs(2);

/// Both clocks at a tick.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticked {
    wall: Duration,
    steady: Duration,
}

impl Ticked {
    pub(crate) fn now(host: &impl Host) -> Self {
        Self {
            wall: host.now(),
            steady: host.steady(),
        }
    }

    /// Whether the wall clock went ahead of the monotonic clock since an earlier tick.
    pub(crate) fn jumped_since(self, earlier: Self) -> bool {
        let passed = self.steady.saturating_sub(earlier.steady);
        self.wall.saturating_sub(earlier.wall) > passed.saturating_add(LONGEST_TICK)
    }

    /// Monotonic time when the wall clock shows `wall`. A request reads one clock, not two: the
    /// host is asked only if the time of day was changed or the ticks have stopped.
    pub(crate) fn steady_at(self, wall: Duration, host: &impl Host) -> Duration {
        match wall.checked_sub(self.wall) {
            Some(passed) if passed <= LONGEST_TICK => self.steady.saturating_add(passed),
            Some(_) | None => host.steady(),
        }
    }
}

/// A configuration in force, with all that depends on it.
pub(crate) struct Active {
    pub(crate) policy: Rc<Policy>,
    pub(crate) trust: Rc<RefCell<Trust>>,
    /// Both clocks at the last tick.
    pub(crate) ticked: Cell<Ticked>,
    /// Verdicts on tokens seen before; they hold for this policy only.
    pub(crate) verdicts: RefCell<TokenCache<RandomState>>,
    /// Algorithms whose signatures the host verifies; none before it was asked, which takes a
    /// millisecond and waits for a tick.
    pub(crate) hosted: Option<Hosted>,
    /// The generation of `trust` whose keys have their tables, or will.
    pub(crate) tables_of: Option<u64>,
    pub(crate) metrics: Metrics,
    /// Limits the log lines about outputs that were left out.
    pub(crate) omissions: Throttle,
    pub(crate) replies: Replies,
    pub(crate) me: Identity,
    pub(crate) bundle: BundleSync,
    pub(crate) jwks: JwksSync,
}

impl Active {
    /// Reads a configuration. What other configurations of this VM know and this one may believe is
    /// taken over, so that a change of configuration does not start from nothing.
    ///
    /// # Errors
    /// One line for each mistake, with its path.
    pub(crate) fn read(host: &impl Host, text: &[u8]) -> Result<Self, Vec<String>> {
        if text.is_empty() {
            return Err(vec![
                "there is no plugin configuration; give at least jwtRules".to_owned(),
            ]);
        }
        let text = std::str::from_utf8(text).map_err(|_| vec![NOT_TEXT.to_owned()])?;
        let policy = meshseal_core::config::read_policy(text)
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        for warning in policy.warnings() {
            host.log(Level::Warn, &format!("configuration: {warning}"));
        }
        let mut trust = Trust::since(registry::start(host));
        registry::hand_down(&policy, &mut trust);
        let metrics = Metrics::define(host, policy.stat_prefix());
        accept_embedded(host, &policy, &mut trust, &metrics)?;
        metrics.add(Count::JwksSkippedKeys, policy.authn().skipped_inline_keys());
        for (rule, passed) in policy.authn().passed_over_inline_keys() {
            host.log(
                Level::Info,
                &format!("jwtRules[{rule}].jwks: passed over {}", passed.problem),
            );
        }
        let (policy, trust) = (Rc::new(policy), Rc::new(RefCell::new(trust)));
        registry::remember(&policy, &trust);
        Ok(Self {
            ticked: Cell::new(Ticked::now(host)),
            hosted: None,
            tables_of: None,
            verdicts: RefCell::new(TokenCache::new(RandomState::new())),
            metrics,
            omissions: Throttle::default(),
            replies: Replies::new(policy.challenge()),
            me: Identity::new(host, &policy),
            bundle: BundleSync::new(),
            jwks: JwksSync::new(&policy),
            policy,
            trust,
        })
    }
}

/// A bundle in the configuration: a wrong one is a mistake, an old one only helps less.
fn accept_embedded(
    host: &impl Host,
    policy: &Policy,
    trust: &mut Trust,
    metrics: &Metrics,
) -> Result<(), Vec<String>> {
    let Some((config, jws)) = policy
        .authn()
        .trust_bundle()
        .and_then(|config| Some((config, config.embedded.as_deref()?)))
    else {
        return Ok(());
    };
    match trust.accept_bundle(jws.trim(), &config.pins, host.moment()) {
        Ok(_) => metrics.count(Count::BundleAccepted),
        // What was handed down is newer.
        Err(BundleError::Rollback) => {}
        Err(BundleError::OutOfDate) => {
            host.log(
                Level::Warn,
                "trustBundle.embedded: past its not-after; tokens wait for the issuer's first answer",
            );
        }
        Err(error) => {
            return Err(vec![format!(
                "trustBundle.embedded: {error}; embed what the issuer serves at its bundle path"
            )]);
        }
    }
    Ok(())
}
