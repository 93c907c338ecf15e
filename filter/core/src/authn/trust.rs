//! The current trust: the bundle in force and the key sets fetched from providers. Only
//! [`Trust::accept_bundle`] and [`Trust::accept_jwks`] take in new data, and both verify it first.

use alloc::boxed::Box;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::ops::RangeInclusive;
use core::time::Duration;

use super::{JwtRule, KeySource, RequestAuthentication};
use crate::bundle::{self, BundleError, Freshness, IssuerTrust, Snapshot, StalenessBound};
use crate::jose::{Alg, Claims};
use crate::keys::{Key, KeyProblem, KeySet};
use crate::rejection::Rejection;
use crate::revocation::{Epochs, IndexSet};
use crate::{limits, revocation};

/// Keys and revocations that the filter currently trusts.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    bundle: Option<Bundle>,
    fetched: Vec<Fetched>,
    generation: u64,
    time: Option<CarriedTime>,
}

/// Readings of both clocks at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Time of day in Unix seconds. An operator or NTP may set it to any time.
    pub wall_s: u64,
    /// Time on a monotonic clock, since an unspecified moment.
    pub steady: Duration,
}

/// Builds the moment of a caller that uses one clock for both readings.
impl From<u64> for Moment {
    fn from(seconds: u64) -> Self {
        Self {
            wall_s: seconds,
            steady: Duration::from_secs(seconds),
        }
    }
}

/// Time by which bundles are judged: the time of day at the start, advanced by the monotonic clock.
/// A step of the wall clock therefore changes nothing (ADR 16).
///
/// INVARIANT: `proven <= estimate`.
#[derive(Clone, Copy, Debug)]
struct CarriedTime {
    /// Time since the Unix epoch at `read_at`.
    estimate: Duration,
    /// Lower bound of the same, from the latest `iat` that a pinned key signed.
    proven: Duration,
    /// Time on the monotonic clock.
    read_at: Duration,
}

impl CarriedTime {
    /// Starts at the wall clock's time; no signature has proven a lower bound yet.
    const fn start(now: Moment) -> Self {
        Self {
            estimate: Duration::from_secs(now.wall_s),
            proven: Duration::ZERO,
            read_at: now.steady,
        }
    }

    /// Returns this time advanced to the reading `steady` of the monotonic clock.
    fn at(self, steady: Duration) -> Self {
        let passed = steady.saturating_sub(self.read_at);
        let [estimate, proven] =
            [self.estimate, self.proven].map(|time| time.saturating_add(passed));
        Self {
            estimate,
            proven,
            read_at: steady,
        }
    }

    /// Joins the times of two configurations of one VM: the estimate of `adopted`, and the later of
    /// both lower bounds. Replicas date bundles by clocks of their own, so the bound of a newer
    /// bundle may be the earlier one.
    fn joined(self, adopted: Self) -> Self {
        let steady = self.read_at.max(adopted.read_at);
        let (ours, theirs) = (self.at(steady), adopted.at(steady));
        let proven = ours.proven.max(theirs.proven);
        Self {
            estimate: theirs.estimate.max(proven),
            proven,
            read_at: steady,
        }
    }

    /// Returns the range that contains the present time.
    ///
    /// If the wall clock and the carried time differ, one of them is wrong: the wall clock now, or
    /// its reading at the start. The signatures of bundles prove the lower bound independently of
    /// any wall clock.
    fn range(self, now: Moment) -> RangeInclusive<u64> {
        let carried = self.at(now.steady);
        let [estimate, proven] = [carried.estimate, carried.proven].map(|time| time.as_secs());
        now.wall_s.min(estimate).max(proven)..=now.wall_s.max(estimate)
    }

    /// Returns the time after a bundle with this `iat` was accepted at a present time in `range`.
    fn confirmed(self, now: Moment, range: &RangeInclusive<u64>, iat: u64) -> Self {
        // The signed `iat` is a proof that the present is not earlier.
        let iat = Duration::from_secs(iat);
        Self {
            estimate: Duration::from_secs(*range.start()).max(iat),
            proven: self.at(now.steady).proven.max(iat),
            read_at: now.steady,
        }
    }
}

/// The key set that was fetched for one rule.
#[derive(Clone, Debug)]
struct Fetched {
    /// Index of the rule in the policy.
    rule: usize,
    set: KeySet,
    /// Time of the last successful fetch, on a monotonic clock.
    confirmed: Duration,
    /// True if the set is older than its rule's `staleness` allows.
    stale: bool,
}

/// Key sets by issuer, searched linearly: a proxy trusts a handful of issuers.
#[derive(Clone, Debug, Default)]
struct KeySets(Vec<(Box<str>, KeySet)>);

impl KeySets {
    fn get(&self, issuer: &str) -> Option<&KeySet> {
        self.0
            .iter()
            .find(|(of, _)| **of == *issuer)
            .map(|(_, set)| set)
    }

    fn sets(&self) -> impl Iterator<Item = &KeySet> {
        self.0.iter().map(|(_, set)| set)
    }
}

/// A bundle in force.
#[derive(Clone, Debug)]
struct Bundle {
    snapshot: Snapshot,
    issued_at: u64,
    not_after: u64,
    /// Acknowledgement value of the snapshot's version.
    ack: Option<Box<str>>,
    keys: KeySets,
    /// Pinned key that signed the last payload.
    pin: Key,
    /// Terms of a bundle that was taken over from another configuration; `None` if this
    /// configuration received it. The issuer counts on the other one, because it does not know this
    /// configuration yet.
    lent: Option<Lent>,
}

/// Terms on which a configuration uses the bundle of another one.
#[derive(Clone, Copy, Debug)]
enum Lent {
    /// No longer than the bound that the other one stated.
    Until(StalenessBound),
    /// No more: the other one may have confirmed a newer bundle, which is not pinned here.
    Withdrawn,
}

/// Change made by an accepted bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Keys or revocations changed.
    NewVersion,
    /// The issuer confirmed the same version again.
    Refreshed,
}

impl Trust {
    /// Creates a trust without keys. The first bundle is judged by the time of day alone.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a trust without keys. Steps of the wall clock after `start` do not change how
    /// bundles are judged.
    #[must_use]
    pub fn since(start: Moment) -> Self {
        Self {
            time: Some(CarriedTime::start(start)),
            ..Self::default()
        }
    }

    /// Returns a number that changes with every change of keys or revocations. A verdict reached
    /// under one generation is not valid under another.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    fn next_generation(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    /// Returns the version of the bundle in force.
    #[must_use]
    pub fn bundle_version(&self) -> Option<u64> {
        self.bundle.as_ref().map(|bundle| bundle.snapshot.version)
    }

    /// Returns the time at which the issuer last confirmed the bundle in force, in Unix seconds.
    #[must_use]
    pub fn bundle_issued_at(&self) -> Option<u64> {
        self.bundle.as_ref().map(|bundle| bundle.issued_at)
    }

    /// Returns the acknowledgement value of the bundle in force; `None` for a bundle issued to a
    /// reader of an older protocol.
    #[must_use]
    pub fn bundle_ack(&self) -> Option<&str> {
        self.bundle
            .as_ref()
            .and_then(|bundle| bundle.ack.as_deref())
    }

    /// Returns the keys that can currently verify tokens, from the bundle and from fetched sets.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        let bundled = self.bundle.iter().flat_map(|bundle| bundle.keys.sets());
        let fetched = self
            .fetched
            .iter()
            .filter(|fetched| !fetched.stale)
            .map(|fetched| &fetched.set);
        bundled.chain(fetched).flat_map(KeySet::iter)
    }

    /// Returns the age of the bundle in force: its age when it was accepted plus the monotonic time
    /// since then.
    #[must_use]
    pub fn freshness(&self, now: impl Into<Moment>) -> Freshness {
        let (Some(bundle), Some(time)) = (&self.bundle, self.time) else {
            return Freshness::default();
        };
        let now = time.at(now.into().steady).estimate.as_secs();
        let (age, expired) = (
            now.saturating_sub(bundle.issued_at),
            now >= bundle.not_after,
        );
        // A bundle taken over from another configuration is also bound by that configuration.
        let overdue = match bundle.lent {
            Some(Lent::Until(StalenessBound::Seconds(seconds))) => expired || age > seconds,
            Some(Lent::Until(StalenessBound::NotAfter)) => expired,
            Some(Lent::Until(StalenessBound::Unbounded)) | None => false,
            Some(Lent::Withdrawn) => true,
        };
        Freshness {
            age: Some(age),
            expired,
            overdue,
        }
    }

    /// Accepts a bundle after verifying its signature under `pins`, its times and its version
    /// (V17). A delta applies to its base version only.
    ///
    /// # Errors
    /// [`BundleError`]; the bundle in force stays in force.
    pub fn accept_bundle(
        &mut self,
        jws: &str,
        pins: &KeySet,
        now: impl Into<Moment>,
    ) -> Result<Accepted, BundleError> {
        // Signature and times are verified before the content is interpreted.
        let now = now.into();
        let time = self.time.unwrap_or(CarriedTime::start(now));
        let range = time.range(now);
        let (payload, pin) = bundle::open(jws, pins, &range)?;
        let nothing = Snapshot::default();
        let before = self
            .bundle
            .as_ref()
            .map_or(&nothing, |bundle| &bundle.snapshot);
        // The payload is applied to the bundle in force; a full bundle replaces it.
        let snapshot = before.apply(&payload)?;
        let same_version = self.bundle_version() == Some(snapshot.version);
        // One version has one content, and confirmations do not go back in time. Anything else is a
        // replay of an older bundle.
        if same_version
            && (snapshot != *before || self.bundle_issued_at().is_some_and(|iat| payload.iat < iat))
        {
            return Err(BundleError::Rollback);
        }
        // INVARIANT: nothing is changed before this point, so an error leaves the trust as it was.
        let keys = usable_keys(&snapshot)?;
        let (issued_at, not_after) = (payload.iat, payload.exp);
        self.time = Some(time.confirmed(now, &range, issued_at));
        let ack = payload.ack.map(String::into_boxed_str);
        self.bundle = Some(Bundle {
            snapshot,
            issued_at,
            not_after,
            ack,
            keys,
            pin: pin.clone(),
            lent: None,
        });
        if same_version {
            return Ok(Accepted::Refreshed);
        }
        self.next_generation();
        Ok(Accepted::NewVersion)
    }

    /// Accepts a key set fetched for the rule with this index, at `now` on a monotonic clock.
    /// Returns the set in force.
    ///
    /// # Errors
    /// [`KeyProblem`] if the text is not a key set or has no key for the rule. The last good set
    /// stays in force until it is stale.
    pub fn accept_jwks(
        &mut self,
        rule: usize,
        jwks: &str,
        authn: &RequestAuthentication,
        now: Duration,
    ) -> Result<&KeySet, KeyProblem> {
        let config = authn.jwt_rules().get(rule).ok_or_else(no_such_rule)?;
        let set = KeySet::from_provider(jwks, &config.algorithms)?;
        if set.is_empty() {
            return Err(no_usable_key(&set));
        }
        let known = self.fetched.iter().position(|fetched| fetched.rule == rule);
        let old = known.map(|at| self.fetched.swap_remove(at));
        // An unchanged set keeps the generation, so cached verdicts stay valid.
        if old.is_none_or(|old| old.stale || old.set != set) {
            self.next_generation();
        }
        self.fetched.push(Fetched {
            rule,
            set,
            confirmed: now,
            stale: false,
        });
        self.fetched
            .last()
            .map(|fetched| &fetched.set)
            .ok_or_else(no_such_rule)
    }

    /// Withdraws trust from the fetched sets that are older at `now` (monotonic clock) than their
    /// rules allow. Returns the rules whose keys became stale.
    pub fn age_jwks(&mut self, authn: &RequestAuthentication, now: Duration) -> Vec<usize> {
        let mut changed = false;
        let mut aged = Vec::new();
        for fetched in &mut self.fetched {
            let keys = authn.jwt_rules().get(fetched.rule).map(|rule| &rule.keys);
            let max_age = if let Some(KeySource::Remote(remote)) = keys {
                remote.max_age_s
            } else {
                None
            };
            // The clock is monotonic: a step of the wall clock makes no key stale.
            let age = now.saturating_sub(fetched.confirmed);
            let stale = max_age.is_some_and(|max_age| age > Duration::from_secs(max_age));
            if stale && !fetched.stale {
                aged.push(fetched.rule);
            }
            changed |= core::mem::replace(&mut fetched.stale, stale) != stale;
        }
        if changed {
            self.next_generation();
        }
        aged
    }

    /// Takes over the bundle of another configuration of the same proxy, if it is newer and its
    /// signing key is pinned here too.
    ///
    /// Until the issuer responds to this configuration, the bundle is used no longer than the other
    /// configuration would use it. A bundle taken over earlier is not used beside a newer one that
    /// is not pinned here: the issuer may count the newer one for every configuration (ADR 23).
    pub fn adopt(
        &mut self,
        authn: &RequestAuthentication,
        other: &Self,
        other_bound: StalenessBound,
    ) {
        let (Some(ours), Some(theirs)) = (authn.trust_bundle(), &other.bundle) else {
            return;
        };
        if self.bundle_version() >= Some(theirs.snapshot.version) {
            return;
        }
        // The pin check matters: the other configuration may trust a key that this one does not.
        if !ours.pins.iter().any(|pin| *pin == theirs.pin) {
            if let Some(lent) = self.bundle.as_mut().and_then(|held| held.lent.as_mut()) {
                *lent = Lent::Withdrawn;
            }
            return;
        }
        self.bundle = Some(Bundle {
            lent: Some(theirs.lent.unwrap_or(Lent::Until(other_bound))),
            ..theirs.clone()
        });
        self.time = match (self.time, other.time) {
            (Some(ours), Some(theirs)) => Some(ours.joined(theirs)),
            (ours, theirs) => theirs.or(ours),
        };
        self.next_generation();
    }

    /// Takes over the keys of an older configuration of the same proxy that this one may trust: its
    /// bundle, and key sets fetched from the same place for the same algorithms.
    pub fn inherit(
        &mut self,
        authn: &RequestAuthentication,
        older: &Self,
        older_authn: &RequestAuthentication,
        older_bound: StalenessBound,
    ) {
        // Rule indices belong to a configuration, so verdicts of the older one are not valid here.
        self.next_generation();
        self.adopt(authn, older, older_bound);
        for (at, rule) in authn
            .jwt_rules()
            .iter()
            .enumerate()
            .filter(|(at, _)| !self.has_jwks(*at))
            .collect::<Vec<_>>()
        {
            let known = older.fetched.iter().find(|fetched| {
                older_authn
                    .jwt_rules()
                    .get(fetched.rule)
                    .is_some_and(|other: &JwtRule| rule.fetches_like(other))
            });
            self.fetched.extend(known.map(|known| Fetched {
                rule: at,
                ..known.clone()
            }));
        }
    }

    /// Returns whether a set was ever fetched for the rule with this index.
    #[must_use]
    pub fn has_jwks(&self, rule: usize) -> bool {
        self.fetched.iter().any(|fetched| fetched.rule == rule)
    }

    /// Returns the key that the rule with this index has for a token.
    pub(crate) fn key<'t>(
        &'t self,
        at: usize,
        rule: &'t JwtRule,
        kid: Option<&str>,
        alg: Alg,
    ) -> Result<&'t Key, Rejection> {
        let set = match &rule.keys {
            KeySource::Inline(set) => set,
            KeySource::Remote(_) => {
                let fetched = self
                    .fetched
                    .iter()
                    .find(|fetched| fetched.rule == at)
                    .ok_or(Rejection::KeysUnavailable)?;
                if fetched.stale {
                    return Err(Rejection::KeysStale);
                }
                &fetched.set
            }
            KeySource::Bundle => {
                return self.bundle.as_ref().ok_or(Rejection::KeysUnavailable)?.key(
                    &rule.issuer,
                    kid,
                    alg,
                );
            }
        };
        set.find(kid, alg)
    }

    /// Returns the revocations of an issuer whose keys come from the bundle.
    pub(crate) fn revocations(&self, source: &KeySource, issuer: &str) -> Option<Revocations<'_>> {
        let KeySource::Bundle = source else {
            return None;
        };
        let trust = self.bundle.as_ref()?.snapshot.issuers.get(issuer)?;
        Some(Revocations {
            revoked: &trust.revoked,
            epochs: &trust.epochs,
        })
    }
}

impl Bundle {
    /// Returns the key of an issuer for a token.
    ///
    /// A revoked key is rejected by its own `kid`, whether or not the token names that `kid`.
    fn key(&self, issuer: &str, kid: Option<&str>, alg: Alg) -> Result<&Key, Rejection> {
        let trust = self
            .snapshot
            .issuers
            .get(issuer)
            .ok_or(Rejection::IssuerUnknown)?;
        let revoked = |kid: Option<&str>| kid.is_some_and(|kid| trust.epochs.revokes_key(kid));
        // Checked before the lookup: a revoked key may already be gone from the bundle.
        if revoked(kid) {
            return Err(Rejection::KeyRevoked);
        }
        let key = self
            .keys
            .get(issuer)
            .ok_or(Rejection::IssuerUnknown)?
            .find(kid, alg)?;
        // A token without `kid` selects a key by its algorithm alone.
        if revoked(key.kid()) {
            Err(Rejection::KeyRevoked)
        } else {
            Ok(key)
        }
    }
}

/// Borrowed revocations of one issuer.
#[derive(Clone, Copy)]
pub(crate) struct Revocations<'t> {
    revoked: &'t IndexSet,
    epochs: &'t Epochs,
}

impl Revocations<'_> {
    /// Rejects a revoked token (V15). A token without an index cannot be looked up, so it is
    /// rejected: an issuer in the bundle gives an index to every token.
    pub(crate) fn check(self, claims: &Claims) -> Result<(), Rejection> {
        let index = claims
            .jti()
            .and_then(revocation::index_of)
            .ok_or(Rejection::ClaimMissing)?;
        if self.revoked.contains(index) {
            return Err(Rejection::TokenRevoked);
        }
        self.epochs.revokes(claims).map_or(Ok(()), Err)
    }
}

/// Algorithms that the keys of a bundle may have; never a shared secret.
const BUNDLE_ALGORITHMS: [Alg; 10] = [
    Alg::Rs256,
    Alg::Rs384,
    Alg::Rs512,
    Alg::Ps256,
    Alg::Ps384,
    Alg::Ps512,
    Alg::Es256,
    Alg::Es384,
    Alg::Es512,
    Alg::EdDsa,
];

/// Maximum number of reasons listed in the error for a set without a usable key.
const MAX_REASONS: usize = 4;

/// Returns the error for an index without a rule.
fn no_such_rule() -> KeyProblem {
    KeyProblem {
        path: String::new(),
        message: "the configuration has no jwtRules entry at this index".into(),
    }
}

/// Returns the error for a set without a usable key, with the first reasons.
fn no_usable_key(set: &KeySet) -> KeyProblem {
    let reasons = set
        .passed_over()
        .iter()
        .take(MAX_REASONS)
        .map(|passed| passed.problem.to_string());
    let mut message = String::from("no usable key for an allowed algorithm");
    for (at, reason) in reasons.enumerate() {
        message.push_str(if at == 0 { ": " } else { "; " });
        message.push_str(&reason);
    }
    if set.skipped() > MAX_REASONS {
        message.push_str("; …");
    }
    KeyProblem {
        path: "keys".into(),
        message,
    }
}

/// Reads the keys of each issuer in a bundle.
///
/// Bundles come from our own issuer, so an unusable key or a repeated `kid` is an error, not
/// something to skip.
fn usable_keys(snapshot: &Snapshot) -> Result<KeySets, BundleError> {
    // The number of keys is bounded before any key is parsed.
    if snapshot
        .issuers
        .values()
        .any(|trust| trust.keys.len() > limits::MAX_KEYS)
    {
        return Err(BundleError::TooLarge);
    }
    snapshot
        .issuers
        .iter()
        .map(|(issuer, trust)| Ok((issuer.as_str().into(), usable_key_set(trust)?)))
        .collect::<Result<_, BundleError>>()
        .map(KeySets)
}

/// Reads the keys of one issuer in a bundle.
fn usable_key_set(trust: &IssuerTrust) -> Result<KeySet, BundleError> {
    if trust.keys.is_empty() {
        return Ok(KeySet::empty());
    }
    let text = bundle::jwks_text(&trust.keys);
    let set = KeySet::from_config(&text, &BUNDLE_ALGORITHMS, false)
        .map_err(|_: Vec<KeyProblem>| BundleError::BadKey)?;
    // INVARIANT: every key of a bundle has its own `kid`, so that tokens and epochs can name it.
    let unique = set
        .kids()
        .enumerate()
        .all(|(at, kid)| kid.is_some() && set.kids().take(at).all(|other| other != kid));
    if unique && set.len() == trust.keys.len() && set.skipped() == 0 {
        Ok(set)
    } else {
        Err(BundleError::BadKey)
    }
}
