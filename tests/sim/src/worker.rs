//! A worker of a proxy: core's own trust and validation, behind a link that loses, delays, reorders
//! and cuts.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use anyhow::{Result, anyhow};
use meshseal_core::authn::{Accepted, Trust, check};
use meshseal_core::bundle::{
    PINS_HEADER, PROOF_HEADER, PROTOCOL, PROTOCOL_HEADER, STALENESS_HEADER, Staleness,
};
use meshseal_core::keys::{Key, Portable, SignatureVerifier};
use meshseal_core::policy::Policy;
use meshseal_core::rejection::Rejection;

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

/// A worker.
pub(super) struct Worker {
    /// `x-meshseal-worker`.
    pub(super) id: u64,
    /// `x-meshseal-node`.
    pub(super) node: String,
    /// Whether no message reaches it or leaves it.
    pub(super) cut: bool,
    /// Seconds by which its clock is ahead of the true time.
    pub(super) ahead_s: i64,
    /// True time at which it took over its last bundle.
    pub(super) given_at: u64,
    /// The poll that it waits for; answers to earlier ones are dropped.
    pub(super) asked: Option<u64>,
    policy: Rc<Policy>,
    memo: Rc<Memo>,
    trust: Trust,
}

impl Worker {
    /// Creates a worker that knows nothing yet.
    #[must_use]
    pub(super) fn new(
        id: u64,
        node: String,
        ahead_s: i64,
        policy: Rc<Policy>,
        memo: Rc<Memo>,
    ) -> Self {
        Self {
            id,
            node,
            cut: false,
            ahead_s,
            given_at: 0,
            asked: None,
            policy,
            memo,
            trust: Trust::new(),
        }
    }

    /// Ends the process and starts another one on the same node: a new id, a policy, and nothing
    /// known.
    pub(super) fn restart(&mut self, id: u64, policy: Rc<Policy>) {
        self.id = id;
        self.policy = policy;
        self.asked = None;
        self.trust = Trust::new();
    }

    /// Returns its time for the true time `now`.
    #[must_use]
    pub(super) const fn time(&self, now: u64) -> u64 {
        now.saturating_add_signed(self.ahead_s)
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
        let freshness = self.trust.freshness(self.time(now));
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
        self.trust.bundle_version().is_some() && fresh
    }

    /// Takes over a bundle.
    ///
    /// # Errors
    /// When core refuses it.
    pub(super) fn accept_bundle(&mut self, text: &str, now: u64) -> Result<Accepted> {
        let policy = Rc::clone(&self.policy);
        let config = policy
            .authn()
            .trust_bundle()
            .ok_or_else(|| anyhow!("the policy has no trust bundle"))?;
        let time = self.time(now);
        self.given_at = now;
        self.trust
            .accept_bundle(text, &config.pins, time)
            .map_err(|error| anyhow!("{error}"))
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
