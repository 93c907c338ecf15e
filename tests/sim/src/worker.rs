//! Worker of a proxy: the trust and validation of core, behind a link that loses, delays and
//! reorders messages, and can be cut.

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

/// `bundle.notAfter` of these histories, in seconds.
pub(super) const NOT_AFTER_S: u64 = 600;

/// Caches the results of [`Portable`], because a history verifies the same signature hundreds of
/// times.
#[derive(Default)]
pub(super) struct Memo(RefCell<HashMap<Question, bool>>);

/// Message and its signature.
type Question = (Vec<u8>, Vec<u8>);

impl SignatureVerifier for Memo {
    fn verify(&self, key: &Key, message: &[u8], signature: &[u8]) -> bool {
        // INVARIANT: the message names the key id, and the keys of a history have distinct ids.
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
    /// Seconds by which the wall clock is ahead of the true time.
    pub(super) ahead_s: i64,
    /// Parts per million by which the monotonic clock is fast.
    pub(super) rate_error_ppm: i64,
    /// Time on the monotonic clock, in microseconds.
    steady_us: u64,
}

impl MachineClock {
    /// Creates clocks whose wall clock is ahead by these seconds.
    pub(super) const fn ahead(ahead_s: i64) -> Self {
        Self {
            ahead_s,
            rate_error_ppm: 0,
            steady_us: 0,
        }
    }

    /// Advances the monotonic clock by true time.
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

/// Worker of a proxy.
pub(super) struct Worker {
    /// `x-meshseal-worker`.
    pub(super) id: u64,
    /// `x-meshseal-node`.
    pub(super) node: String,
    /// True if no message reaches or leaves the worker.
    pub(super) cut: bool,
    /// Clocks of its machine.
    pub(super) clock: MachineClock,
    /// Seconds by which the wall clock was ahead when its process began.
    pub(super) began_ahead_s: i64,
    /// True time at which its process began.
    pub(super) began_at: u64,
    /// Time on its monotonic clock at which its process began.
    began_steady: Duration,
    /// True time at which a replica issued the current bundle.
    pub(super) given_at: u64,
    /// True time at which the worker last accepted a bundle.
    pub(super) accepted_at: u64,
    /// Number of the open poll, and the time on the monotonic clock at which it began. The worker
    /// drops answers to earlier polls.
    pub(super) asked: Option<(u64, Duration)>,
    /// VM of the worker. Workers of one VM are configurations in one worker thread of a proxy.
    pub(super) vm: u64,
    /// True if the worker never polls, like a configuration with a wrong cluster.
    pub(super) is_mute: bool,
    /// Worker that received the current bundle, and whose bound applies to it.
    lender: Option<Lender>,
    policy: Rc<Policy>,
    memo: Rc<Memo>,
    trust: Trust,
}

/// Worker that the issuer counts for a bundle that others of its VM have adopted.
#[derive(Clone, Copy, Debug)]
struct Lender {
    id: u64,
    bound_s: Option<u64>,
}

impl Worker {
    /// Creates a worker that begins at the true time `now` without a bundle.
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

    /// Ends the process and starts another one on the same node, with a new id, this policy and no
    /// bundle.
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

    /// Adopts the bundle of another configuration of its VM, as the filter does before the next
    /// poll of the other configuration confirms it.
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

        // The issuer counts only the worker that received the bundle.
        let lender = Lender {
            id: other.id,
            bound_s: other.own_bound_s(),
        };
        self.lender = Some(other.lender.unwrap_or(lender));
        self.given_at = other.given_at;
        self.accepted_at = other.accepted_at;
    }

    /// Returns the id of the worker that the issuer counts for the current bundle.
    #[must_use]
    pub(super) fn counted_as(&self) -> u64 {
        self.lender.map_or(self.id, |lender| lender.id)
    }

    /// Returns its wall clock at the true time `now`.
    #[must_use]
    pub(super) const fn time(&self, now: u64) -> u64 {
        now.saturating_add_signed(self.clock.ahead_s)
    }

    /// Returns the headers of a poll.
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

    /// Returns its trust: keys and revocations.
    #[must_use]
    pub(super) const fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Returns its policy.
    #[must_use]
    pub(super) fn policy(&self) -> Rc<Policy> {
        Rc::clone(&self.policy)
    }

    /// Returns whether the worker pins this bundle key.
    #[must_use]
    pub(super) fn pins(&self, kid: &str) -> bool {
        self.policy
            .authn()
            .trust_bundle()
            .is_some_and(|bundle| bundle.pins.kids().flatten().any(|pin| pin == kid))
    }

    /// Returns whether the worker uses an old bundle without limit.
    #[must_use]
    pub(super) fn serves_stale(&self) -> bool {
        self.policy
            .authn()
            .trust_bundle()
            .is_some_and(|bundle| bundle.staleness.serve)
    }

    /// Returns whether the worker holds a bundle that its policy still allows it to use.
    #[must_use]
    pub(super) fn may_accept(&self, now: u64) -> bool {
        let freshness = self.trust.freshness(self.clock.moment(now));

        // The policy bounds the age of a bundle.
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

    /// Returns for how many seconds the worker uses the current bundle; `None` without limit.
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

    /// Accepts a bundle.
    ///
    /// # Errors
    /// If core rejects the bundle.
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
    /// The rejection of the token.
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
