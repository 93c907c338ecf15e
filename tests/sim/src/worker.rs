//! A worker of a proxy: core's own trust and validation, behind a link that loses, delays, reorders
//! and cuts.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use std::time::Duration;

use meshseal_core::authn::{Accepted, Moment, Trust, check};
use meshseal_core::bundle::{
    BundleError, PINS_HEADER, PROOF_HEADER, PROTOCOL, PROTOCOL_HEADER, STALENESS_HEADER, Staleness,
};
use meshseal_core::keys::{Key, Portable, SignatureVerifier};
use meshseal_core::policy::Policy;
use meshseal_core::rejection::Rejection;

/// Seconds for which a bundle of these histories may be used.
pub(super) const NOT_AFTER_S: u64 = 600;

/// Remembers what [`Portable`] said about each signature: a history asks the same question hundreds
/// of times.
#[derive(Default)]
pub(super) struct Memo(RefCell<HashMap<Question, bool>>);

/// A message and its signature.
type Question = (Vec<u8>, Vec<u8>);

impl SignatureVerifier for Memo {
    fn verify(&self, key: &Key, message: &[u8], signature: &[u8]) -> bool {
        // Keys of a history have distinct ids, and the message names the id.
        let question = (message.to_vec(), signature.to_vec());
        *self
            .0
            .borrow_mut()
            .entry(question)
            .or_insert_with(|| Portable.verify(key, message, signature))
    }
}

/// Parts per million by which a monotonic clock may run fast or slow.
pub(super) const MAX_RATE_ERROR_PPM: i64 = 10_000;

/// The clocks of a worker's machine.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MachineClock {
    /// Seconds by which the time of day is ahead of the true time.
    pub(super) ahead_s: i64,
    /// Parts per million by which the monotonic clock is fast.
    pub(super) rate_error_ppm: i64,
    /// Time on the monotonic clock, in microseconds.
    steady_us: u64,
}

impl MachineClock {
    /// Creates clocks of which the time of day is ahead.
    pub(super) const fn ahead(ahead_s: i64) -> Self {
        Self {
            ahead_s,
            rate_error_ppm: 0,
            steady_us: 0,
        }
    }

    /// Lets true time pass.
    pub(super) const fn pass(&mut self, seconds: u64) {
        let us_per_s = 1_000_000_u64.saturating_add_signed(self.rate_error_ppm);
        self.steady_us = self
            .steady_us
            .saturating_add(seconds.saturating_mul(us_per_s));
    }

    /// Reads both clocks at the true time `now`.
    const fn moment(self, now: u64) -> Moment {
        Moment {
            wall_s: now.saturating_add_signed(self.ahead_s),
            steady: self.steady(),
        }
    }

    /// Reads the monotonic clock.
    pub(super) const fn steady(self) -> Duration {
        Duration::from_micros(self.steady_us)
    }
}

/// A worker.
pub(super) struct Worker {
    /// `x-meshseal-worker`.
    pub(super) id: u64,
    /// `x-meshseal-node`.
    pub(super) node: String,
    /// Whether no message reaches it or leaves it.
    pub(super) cut: bool,
    /// The clocks of its machine.
    pub(super) clock: MachineClock,
    /// Seconds by which the time of day was ahead when its process began.
    pub(super) began_ahead_s: i64,
    /// True time at which its process began.
    pub(super) began_at: u64,
    /// The same on its monotonic clock.
    began_steady: Duration,
    /// True time at which a replica gave out the bundle in force.
    pub(super) given_at: u64,
    /// True time at which it last accepted one.
    pub(super) accepted_at: u64,
    /// The poll that it waits for, and when it began on the monotonic clock. Answers to earlier ones
    /// are dropped.
    pub(super) asked: Option<(u64, Duration)>,
    /// Its VM: workers of one VM are configurations of one proxy's worker thread.
    pub(super) vm: u64,
    /// Whether it never polls, as a configuration whose cluster is wrong.
    pub(super) is_mute: bool,
    /// The worker that was given the bundle in force, and whose bound holds for it.
    lender: Option<Lender>,
    policy: Rc<Policy>,
    memo: Rc<Memo>,
    trust: Trust,
}

/// The worker that the issuer counts for a bundle that others have taken over from it.
#[derive(Clone, Copy, Debug)]
struct Lender {
    id: u64,
    bound_s: Option<u64>,
}

impl Worker {
    /// Creates a worker that begins at the true time `now` and knows nothing yet.
    #[must_use]
    pub(super) fn new(
        id: u64,
        node: String,
        (clock, now): (MachineClock, u64),
        policy: Rc<Policy>,
        memo: Rc<Memo>,
    ) -> Self {
        Self {
            id,
            node,
            cut: false,
            clock,
            began_ahead_s: clock.ahead_s,
            began_at: now,
            began_steady: clock.steady(),
            given_at: 0,
            accepted_at: 0,
            asked: None,
            vm: id,
            is_mute: false,
            lender: None,
            policy,
            memo,
            trust: Trust::since(clock.moment(now)),
        }
    }

    /// Ends the process and starts another one on the same node: a new id, a policy, and nothing
    /// known.
    pub(super) fn restart(&mut self, id: u64, policy: Rc<Policy>, now: u64) {
        self.id = id;
        self.policy = policy;
        self.asked = None;
        self.lender = None;
        self.began_ahead_s = self.clock.ahead_s;
        self.began_at = now;
        self.began_steady = self.clock.steady();
        self.trust = Trust::since(self.clock.moment(now));
    }

    /// Creates another configuration in the VM of `first`, with its clocks.
    #[must_use]
    pub(super) fn beside(first: &Self, id: u64, policy: Rc<Policy>, now: u64) -> Self {
        let began = Moment {
            wall_s: first.began_at.saturating_add_signed(first.began_ahead_s),
            steady: first.began_steady,
        };
        let start = (first.clock, now);
        let (node, memo) = (first.node.clone(), Rc::clone(&first.memo));
        Self {
            vm: first.vm,
            began_ahead_s: first.began_ahead_s,
            began_at: first.began_at,
            began_steady: first.began_steady,
            trust: Trust::since(began),
            ..Self::new(id, node, start, policy, memo)
        }
    }

    /// Takes over the bundle of another configuration of its VM, as the filter does before the
    /// other one's next poll confirms it.
    pub(super) fn adopt(&mut self, other: &Self) {
        let before = self.trust.bundle_version();
        self.trust.adopt(
            self.policy.authn(),
            &other.trust,
            other.policy.staleness_bound(),
        );
        if self.trust.bundle_version() == before {
            return;
        }
        let lender = Lender {
            id: other.id,
            bound_s: other.own_bound_s(),
        };
        self.lender = Some(other.lender.unwrap_or(lender));
        self.given_at = other.given_at;
        self.accepted_at = other.accepted_at;
    }

    /// Returns the id of the worker that the issuer counts for the bundle in force.
    #[must_use]
    pub(super) fn counted_as(&self) -> u64 {
        self.lender.map_or(self.id, |lender| lender.id)
    }

    /// Returns its time of day at the true time `now`.
    #[must_use]
    pub(super) const fn time(&self, now: u64) -> u64 {
        now.saturating_add_signed(self.clock.ahead_s)
    }

    /// Returns the headers of its poll.
    #[must_use]
    pub(super) fn poll_headers(&self) -> Vec<(&'static str, String)> {
        let pins = self.policy.authn().trust_bundle().map(|bundle| {
            let kids: Vec<&str> = bundle.pins.kids().flatten().collect();
            kids.join(",")
        });
        let proof = self.trust.bundle_ack().unwrap_or_default().to_owned();
        vec![
            ("x-meshseal-worker", format!("{:016x}", self.id)),
            ("x-meshseal-node", self.node.clone()),
            (PROTOCOL_HEADER, PROTOCOL.to_string()),
            (STALENESS_HEADER, self.policy.staleness_bound().to_string()),
            (PINS_HEADER, pins.unwrap_or_default()),
            (PROOF_HEADER, proof),
        ]
    }

    /// Returns what it trusts.
    #[must_use]
    pub(super) const fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Returns the policy that it runs.
    #[must_use]
    pub(super) fn policy(&self) -> Rc<Policy> {
        Rc::clone(&self.policy)
    }

    /// Returns whether it pins this bundle key.
    #[must_use]
    pub(super) fn pins(&self, kid: &str) -> bool {
        self.policy
            .authn()
            .trust_bundle()
            .is_some_and(|bundle| bundle.pins.kids().flatten().any(|pin| pin == kid))
    }

    /// Returns whether it goes on by an old bundle without limit.
    #[must_use]
    pub(super) fn serves_stale(&self) -> bool {
        self.policy
            .authn()
            .trust_bundle()
            .is_some_and(|bundle| bundle.staleness.serve)
    }

    /// Returns whether it holds a bundle and its rules go on by that.
    #[must_use]
    pub(super) fn may_accept(&self, now: u64) -> bool {
        let freshness = self.trust.freshness(self.clock.moment(now));
        let fresh = match self
            .policy
            .authn()
            .trust_bundle()
            .map(|bundle| bundle.staleness)
        {
            Some(Staleness { serve: true, .. }) => true,
            Some(Staleness {
                max_age: Some(max_age),
                ..
            }) => !freshness.expired && freshness.age.is_none_or(|age| age <= max_age),
            Some(_) | None => !freshness.expired,
        };
        self.trust.bundle_version().is_some() && fresh && !freshness.overdue
    }

    /// Returns for how many seconds it goes on by the bundle in force; `None` without limit.
    #[must_use]
    pub(super) fn bound_s(&self) -> Option<u64> {
        let lent = self.lender.and_then(|lender| lender.bound_s);
        [self.own_bound_s(), lent].into_iter().flatten().min()
    }

    fn own_bound_s(&self) -> Option<u64> {
        let staleness = self
            .policy
            .authn()
            .trust_bundle()
            .map(|bundle| bundle.staleness);
        match staleness {
            Some(Staleness { serve: true, .. }) => None,
            Some(Staleness { max_age, .. }) => {
                Some(max_age.unwrap_or(NOT_AFTER_S).min(NOT_AFTER_S))
            }
            None => Some(0),
        }
    }

    /// Takes over a bundle.
    ///
    /// # Errors
    /// When core refuses it.
    pub(super) fn accept_bundle(&mut self, text: &str, now: u64) -> Result<Accepted, BundleError> {
        let policy = Rc::clone(&self.policy);
        let config = policy
            .authn()
            .trust_bundle()
            .ok_or(BundleError::ForeignSignature)?;
        let moment = self.clock.moment(now);
        let accepted = self.trust.accept_bundle(text, &config.pins, moment)?;
        self.accepted_at = now;
        self.lender = None;
        Ok(accepted)
    }

    /// Decides about a token as the filter does on a route without rules.
    ///
    /// # Errors
    /// The rejection.
    pub(super) fn decide(&self, token: &str, now: u64) -> Result<(), Rejection> {
        let time = self.time(now);
        check(token, self.policy.authn(), &self.trust, || time)?.verify(&*self.memo)?;
        if self.may_accept(now) {
            Ok(())
        } else {
            Err(Rejection::BundleStale)
        }
    }
}
