//! What the filter trusts now: the bundle in force and the key sets fetched from providers. Changes
//! only through [`Trust::accept_bundle`] and [`Trust::accept_jwks`], which verify before they
//! believe.

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

/// Keys and revocations known now.
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

/// The moment of a caller that has one clock for both.
impl From<u64> for Moment {
    fn from(seconds: u64) -> Self {
        Self {
            wall_s: seconds,
            steady: Duration::from_secs(seconds),
        }
    }
}

/// The time by which bundles are judged: the time of day at the start, carried on by the monotonic
/// clock, so that a step of the wall clock changes nothing (ADR 16).
///
/// INVARIANT: `proven <= estimate`.
#[derive(Clone, Copy, Debug)]
struct CarriedTime {
    /// Time since the Unix epoch at `read_at`.
    estimate: Duration,
    /// Lower bound of the same, by the latest `iat` that a pinned key signed.
    proven: Duration,
    /// Time on the monotonic clock.
    read_at: Duration,
}

impl CarriedTime {
    const fn start(now: Moment) -> Self {
        Self {
            estimate: Duration::from_secs(now.wall_s),
            proven: Duration::ZERO,
            read_at: now.steady,
        }
    }

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

    /// Range in which the present time lies. Wall clock and carried time may differ: one of them
    /// was wrong, the wall clock now or the one at the start. The signatures of bundles prove the
    /// lower bound, whatever a wall clock says.
    fn range(self, now: Moment) -> RangeInclusive<u64> {
        let carried = self.at(now.steady);
        let [estimate, proven] = [carried.estimate, carried.proven].map(|time| time.as_secs());
        now.wall_s.min(estimate).max(proven)..=now.wall_s.max(estimate)
    }

    /// The time after a bundle of this `iat` was accepted, for which the present time was found in
    /// `range`.
    fn confirmed(self, now: Moment, range: &RangeInclusive<u64>, iat: u64) -> Self {
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
    /// Whether the set is older than its rule's `staleness` allows.
    stale: bool,
}

/// Key sets by issuer. A proxy trusts a handful.
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
    /// The pinned key that signed the last payload.
    pin: Key,
    /// Where another configuration was given the bundle: the bound that it stated. The issuer
    /// counts on that one, since it has not heard of this configuration yet.
    lent: Option<StalenessBound>,
}

/// What accepting a bundle changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Keys or revocations are new.
    NewVersion,
    /// The same version, confirmed anew.
    Refreshed,
}

impl Trust {
    /// Nothing known yet. The first bundle is judged by the time of day alone.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Nothing known yet. Steps of the wall clock after `start` change no verdict on a bundle.
    #[must_use]
    pub fn since(start: Moment) -> Self {
        Self {
            time: Some(CarriedTime::start(start)),
            ..Self::default()
        }
    }

    /// Changes whenever keys or revocations do: a verdict reached under one generation says nothing
    /// under another.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    fn next_generation(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    /// The version of the bundle in force.
    #[must_use]
    pub fn bundle_version(&self) -> Option<u64> {
        self.bundle.as_ref().map(|bundle| bundle.snapshot.version)
    }

    /// When the issuer last confirmed the bundle in force, in Unix seconds.
    #[must_use]
    pub fn bundle_issued_at(&self) -> Option<u64> {
        self.bundle.as_ref().map(|bundle| bundle.issued_at)
    }

    /// The acknowledgement value of the bundle in force; `None` for a bundle that was issued to an
    /// older reader.
    #[must_use]
    pub fn bundle_ack(&self) -> Option<&str> {
        self.bundle
            .as_ref()
            .and_then(|bundle| bundle.ack.as_deref())
    }

    /// The keys that can verify tokens now, of bundle and fetched sets.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        let bundled = self.bundle.iter().flat_map(|bundle| bundle.keys.sets());
        let fetched = self
            .fetched
            .iter()
            .filter(|fetched| !fetched.stale)
            .map(|fetched| &fetched.set);
        bundled.chain(fetched).flat_map(KeySet::iter)
    }

    /// How old the bundle in force is: its age when it was accepted and the monotonic time since
    /// then.
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
        let overdue = match bundle.lent {
            Some(StalenessBound::Seconds(seconds)) => expired || age > seconds,
            Some(StalenessBound::NotAfter) => expired,
            Some(StalenessBound::Unbounded) | None => false,
        };
        Freshness {
            age: Some(age),
            expired,
            overdue,
        }
    }

    /// Takes over a bundle: signature under `pins`, times, version (V17); a delta only onto its
    /// base.
    ///
    /// # Errors
    /// [`BundleError`]; what is in force stays in force.
    pub fn accept_bundle(
        &mut self,
        jws: &str,
        pins: &KeySet,
        now: impl Into<Moment>,
    ) -> Result<Accepted, BundleError> {
        let now = now.into();
        let time = self.time.unwrap_or(CarriedTime::start(now));
        let range = time.range(now);
        let (payload, pin) = bundle::open(jws, pins, &range)?;
        let nothing = Snapshot::default();
        let before = self
            .bundle
            .as_ref()
            .map_or(&nothing, |bundle| &bundle.snapshot);
        let snapshot = before.apply(&payload)?;
        let same_version = self.bundle_version() == Some(snapshot.version);
        if same_version
            && (snapshot != *before || self.bundle_issued_at().is_some_and(|iat| payload.iat < iat))
        {
            return Err(BundleError::Rollback);
        }
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

    /// Takes over a key set fetched for the rule with this index, at `now` on a monotonic clock.
    /// Returns the set in force.
    ///
    /// # Errors
    /// A set that is none, or has no key for the rule; the last good one stays in force until it is
    /// stale.
    pub fn accept_jwks(
        &mut self,
        rule: usize,
        jwks: &str,
        authn: &RequestAuthentication,
        now: Duration,
    ) -> Result<&KeySet, KeyProblem> {
        let missing = || KeyProblem {
            path: String::new(),
            message: "no such rule".into(),
        };
        let config = authn.jwt_rules().get(rule).ok_or_else(missing)?;
        let set = KeySet::from_provider(jwks, &config.algorithms)?;
        if set.is_empty() {
            return Err(no_usable_key(&set));
        }
        let known = self.fetched.iter().position(|fetched| fetched.rule == rule);
        let old = known.map(|at| self.fetched.swap_remove(at));
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
            .ok_or_else(missing)
    }

    /// Withdraws trust from the fetched sets that are older at `now`, on a monotonic clock, than
    /// their rules allow. Returns the rules whose keys became stale.
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

    /// Takes over the bundle of another configuration of the same proxy, if it is newer and its key
    /// is pinned here too. Until the issuer answers this configuration, it acts on the bundle no
    /// longer than the other one would (ADR 23).
    pub fn adopt(
        &mut self,
        authn: &RequestAuthentication,
        other: &Self,
        other_bound: StalenessBound,
    ) {
        let (Some(ours), Some(theirs)) = (authn.trust_bundle(), &other.bundle) else {
            return;
        };
        let pinned = ours.pins.iter().any(|pin| *pin == theirs.pin);
        if pinned && self.bundle_version() < Some(theirs.snapshot.version) {
            let lent = Some(theirs.lent.unwrap_or(other_bound));
            self.bundle = Some(Bundle {
                lent,
                ..theirs.clone()
            });
            self.time = other.time;
            self.next_generation();
        }
    }

    /// Takes over what an older configuration of the same proxy knows and this one may believe: its
    /// bundle, and key sets fetched from the same place for the same algorithms.
    pub fn inherit(
        &mut self,
        authn: &RequestAuthentication,
        older: &Self,
        older_authn: &RequestAuthentication,
        older_bound: StalenessBound,
    ) {
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

    /// Whether a set was ever fetched for the rule with this index.
    #[must_use]
    pub fn has_jwks(&self, rule: usize) -> bool {
        self.fetched.iter().any(|fetched| fetched.rule == rule)
    }

    /// The key that the rule with this index has for a token.
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

    /// Revocations of an issuer whose keys come from the bundle.
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
    /// A revoked key is revoked by its own name, whether the token gives that name or leaves the
    /// choice to us.
    fn key(&self, issuer: &str, kid: Option<&str>, alg: Alg) -> Result<&Key, Rejection> {
        let trust = self
            .snapshot
            .issuers
            .get(issuer)
            .ok_or(Rejection::IssuerUnknown)?;
        let revoked = |kid: Option<&str>| kid.is_some_and(|kid| trust.epochs.revokes_key(kid));
        if revoked(kid) {
            return Err(Rejection::KeyRevoked);
        }
        let key = self
            .keys
            .get(issuer)
            .ok_or(Rejection::IssuerUnknown)?
            .find(kid, alg)?;
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
    /// V15. A token without an index cannot be looked up, so it cannot be accepted from an issuer
    /// that gives one to each.
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

/// The algorithms that a bundle's keys may have; never a shared secret.
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

/// Most reasons that the error for a set without a usable key repeats.
const MAX_REASONS: usize = 4;

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

/// Bundles come from our own issuer, so an unusable key or a repeated `kid` is an error, not
/// something to pass over.
fn usable_keys(snapshot: &Snapshot) -> Result<KeySets, BundleError> {
    let read = |(issuer, trust): (&String, &IssuerTrust)| {
        if trust.keys.is_empty() {
            return Ok((issuer.as_str().into(), KeySet::empty()));
        }
        let text = bundle::jwks_text(&trust.keys);
        let set = KeySet::from_config(&text, &BUNDLE_ALGORITHMS, false)
            .map_err(|_: Vec<KeyProblem>| BundleError::BadKey)?;
        let unique = |(at, kid): (usize, Option<&str>)| {
            kid.is_some() && set.kids().take(at).all(|other| other != kid)
        };
        let all_named = set.kids().enumerate().all(unique) && set.len() == trust.keys.len();
        if all_named && set.skipped() == 0 {
            Ok((issuer.as_str().into(), set))
        } else {
            Err(BundleError::BadKey)
        }
    };
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
        .map(read)
        .collect::<Result<_, _>>()
        .map(KeySets)
}
