//! Does what [`next_step`] says is due: at the start for a database without keys, then on schedule
//! by the one replica that leads, and at once when a key is revoked. Every step is a
//! compare-and-swap on the version, so that two can never do it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::lifecycle::is_wanted;
use super::pins::{BundleRequest, is_pinned, standby};
use super::promises::JwksPromises;
use super::timekeeper::{Timekeeper, stored_mark};
use super::{
    Facts, GenerateError, KeyChange, KeyPolicy, KeyRecord, KeyState, MasterKey, Purpose, Step,
    generate, next_step,
};
use crate::bundle::{PRUNE_SPREAD_S, SETTLE_S};
use crate::clock::Clock;
use crate::config::Config;
use crate::issuer::Issuer;
use crate::store::{Change, Head, Store, StoreError};

/// Seconds for which one replica leads before another may.
const LEAD_S: u64 = 15;

/// Most steps of one round; a rotation takes two.
const STEPS_A_ROUND: usize = 8;

/// Seconds between two looks for revocations to forget.
const PRUNE_EVERY_S: u64 = 60;

/// Seconds from the reading of the clock until a new key is published: an RSA key takes up to two
/// to make, and its commit up to five. A reader may keep what it read just before that.
const PUBLISHED_WITHIN_S: u64 = 8;

/// Why keys could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No key could be made.
    #[error(transparent)]
    Generate(#[from] GenerateError),
}

/// How the keys of both purposes live, by configuration. `grace_s` is how long another replica may
/// go on signing with a key after this one put it out of use.
#[must_use]
pub fn policies(config: &Config, grace_s: u64) -> [KeyPolicy; 2] {
    let token = KeyPolicy {
        purpose: Purpose::Token,
        algorithm: config.keys.algorithm,
        rotate_every_s: config.keys.rotate_every_s,
        ack_timeout_s: config.keys.ack_timeout_s,
        drain_s: config.tokens.longest_life_s().saturating_add(grace_s),
        cached_s: config.keys.jwks_max_age_s,
    };
    // The filter pins Ed25519 bundle keys. They change on request only, for each change needs new
    // pins.
    let bundle = KeyPolicy {
        purpose: Purpose::Bundle,
        algorithm: super::Algorithm::EdDsa,
        rotate_every_s: None,
        cached_s: 0,
        ..token
    };
    [token, bundle]
}

/// Makes the keys that a new database lacks.
///
/// # Errors
/// [`KeeperError`].
pub async fn bootstrap(
    store: &dyn Store,
    master: &Arc<MasterKey>,
    clock: &dyn Clock,
    policies: &[KeyPolicy],
) -> Result<(), KeeperError> {
    let observed_s = stored_mark(store, clock, master).await?.certain_ms() / 1_000;
    loop {
        let persisted = store.load().await?;
        let now = clock.now();
        // Nothing has passed for certain yet.
        let facts = Facts {
            now,
            certain: 0,
            keys: &persisted.keys,
            rotation_requested: None,
            settled: false,
            confirmed: 0,
            pinned: false,
        };
        let due = policies
            .iter()
            .find_map(|policy| next_step(policy, &facts).map(|step| (policy, step)));
        let Some((policy, step)) = due else {
            return Ok(());
        };
        let is_first_start = persisted
            .keys
            .iter()
            .all(|key| key.is_first() && now <= key.since.saturating_add(60));
        let mut change = perform(
            policy,
            step,
            persisted.version,
            &Facts {
                certain: observed_s.min(now),
                ..facts
            },
            master,
        )
        .await?;
        if is_first_start {
            change.keys.iter_mut().for_each(mark_first);
        }
        match store.commit(&change, clock.now_ms()).await {
            Ok(_) | Err(StoreError::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Marks a key of the first start: every key set and every set of pins carries it.
fn mark_first(change: &mut KeyChange) {
    if let KeyChange::Insert(key) = change {
        key.ready_at = 0;
    }
}

/// The change that a step makes.
async fn perform(
    policy: &KeyPolicy,
    step: Step,
    version: u64,
    facts: &Facts<'_>,
    master: &Arc<MasterKey>,
) -> Result<Change, GenerateError> {
    let enter = |kid: String, state: KeyState| KeyChange::Enter {
        kid,
        state,
        since: facts.now,
    };
    let (keys, rotation_done) = match step {
        Step::Generate(state) => (
            vec![KeyChange::Insert(
                make(
                    policy,
                    state,
                    facts.now,
                    if facts.certain == 0 {
                        facts.now
                    } else {
                        facts.certain
                    },
                    master,
                )
                .await?,
            )],
            false,
        ),
        Step::Promote { kid, from, .. } => {
            let old = from.map(|from| enter(from, KeyState::Draining));
            (
                old.into_iter()
                    .chain([enter(kid, KeyState::Active)])
                    .collect(),
                policy.purpose == Purpose::Token,
            )
        }
        Step::Extend(kid) => (
            vec![KeyChange::Extend {
                kid,
                drain_s: policy.drain_s,
            }],
            false,
        ),
        Step::Retire(kid) => (vec![enter(kid, KeyState::Retired)], false),
        Step::Delete(kid) => (vec![KeyChange::Delete { kid }], false),
        Step::Full => (Vec::new(), false),
    };
    Ok(Change {
        expected_version: Some(version),
        keys,
        rotation_done,
        ..Change::default()
    })
}

/// Makes a key on a thread of its own: RSA takes up to a second. Readers of `/jwks` have it once
/// the longest `max-age` has passed for certain: a clock that steps over a restart makes no key
/// sign early.
pub(super) async fn make(
    policy: &KeyPolicy,
    state: KeyState,
    now: u64,
    certain: u64,
    master: &Arc<MasterKey>,
) -> Result<KeyRecord, GenerateError> {
    let (purpose, algorithm, master) = (policy.purpose, policy.algorithm, Arc::clone(master));
    let made =
        tokio::task::spawn_blocking(move || generate(purpose, algorithm, state, now, &master))
            .await;
    let key = made.map_err(|_| GenerateError)??;
    // Without caches nobody keeps a set without the key.
    let cached_s = if policy.cached_s == 0 {
        0
    } else {
        policy.cached_s.saturating_add(PUBLISHED_WITHIN_S)
    };
    Ok(KeyRecord {
        ready_at: certain.saturating_add(cached_s).max(1),
        drain_s: policy.drain_s,
        ..key
    })
}

/// The scheduled work of one replica.
pub struct Keeper {
    replica: String,
    policies: [KeyPolicy; 2],
    timekeeper: Timekeeper,
    bundle_request: BundleRequest,
    promises: JwksPromises,
    leads_until: AtomicU64,
    /// Steady seconds, as the two below.
    settled_at: u64,
    prune_at: AtomicU64,
    warn_at: AtomicU64,
}

impl Keeper {
    /// Of a replica with this name that starts now (steady seconds). Without `heard_of_proxies`
    /// there is nobody to wait for.
    #[must_use]
    pub fn new(
        replica: String,
        policies: [KeyPolicy; 2],
        promises: JwksPromises,
        now: u64,
        heard_of_proxies: bool,
    ) -> Self {
        let settled_at = if heard_of_proxies {
            now.saturating_add(SETTLE_S)
        } else {
            now
        };
        let zero = || AtomicU64::new(0);
        let (timekeeper, bundle_request) = (Timekeeper::default(), BundleRequest::default());
        Self {
            replica,
            policies,
            timekeeper,
            bundle_request,
            promises,
            settled_at,
            leads_until: zero(),
            prune_at: zero(),
            warn_at: zero(),
        }
    }

    /// Does what is due, if this replica leads.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub async fn round(&self, issuer: &Issuer) -> Result<(), KeeperError> {
        let head = issuer.publisher.refresh().await?;
        self.round_from(issuer, head).await
    }

    /// The same, by what the database has just told.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub async fn round_from(&self, issuer: &Issuer, mut head: Head) -> Result<(), KeeperError> {
        if self.promises.is_due(issuer.clock.steady()) {
            self.renew_promises(issuer).await?;
        }
        if !self.leads(issuer).await? {
            self.timekeeper.leave();
            // Each replica may sign tokens that live longer than those of the leader, while
            // configurations differ.
            self.extend(issuer).await?;
            return Ok(());
        }
        self.timekeeper
            .mark(&*issuer.store, &*issuer.clock, issuer.master(), false)
            .await?;
        for _ in 0..STEPS_A_ROUND {
            if !self.step(issuer, head).await? {
                break;
            }
            head = issuer.publisher.refresh().await?;
        }
        Ok(self.prune(issuer).await?)
    }

    /// Returns the time that has passed for certain (Unix seconds); 0 unless this replica leads.
    /// Nothing may be forgotten by any other clock.
    #[must_use]
    pub fn certain(&self, issuer: &Issuer) -> u64 {
        self.timekeeper.certain(&issuer.clock.read())
    }

    /// Copies of `/jwks` that readers may keep.
    #[must_use]
    pub const fn promises(&self) -> &JwksPromises {
        &self.promises
    }

    async fn renew_promises(&self, issuer: &Issuer) -> Result<(), StoreError> {
        let certain = self.certain(issuer);
        self.promises
            .renew(&*issuer.store, &*issuer.clock, issuer.master(), certain)
            .await
    }

    /// Returns the seconds for which entries are kept longer than their expiry.
    #[must_use]
    pub fn kept_longer_s(&self) -> u64 {
        self.timekeeper.lag_ms() / 1_000
    }

    /// Lets another replica lead at once.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn resign(&self, issuer: &Issuer) -> Result<(), StoreError> {
        if self.leads_until.swap(0, Ordering::Relaxed) > 0 {
            self.timekeeper
                .mark(&*issuer.store, &*issuer.clock, issuer.master(), true)
                .await?;
            self.timekeeper.leave();
            issuer
                .store
                .lead(&self.replica, issuer.clock.now(), 0)
                .await?;
        }
        Ok(())
    }

    async fn leads(&self, issuer: &Issuer) -> Result<bool, StoreError> {
        let now = issuer.clock.now();
        if now.saturating_add(LEAD_S * 2 / 3) <= self.leads_until.load(Ordering::Relaxed) {
            return Ok(true);
        }
        let until = now.saturating_add(LEAD_S);
        let leads = issuer.store.lead(&self.replica, now, until).await?;
        self.leads_until
            .store(if leads { until } else { 0 }, Ordering::Relaxed);
        Ok(leads)
    }

    /// One step, if one is due.
    async fn step(&self, issuer: &Issuer, head: Head) -> Result<bool, KeeperError> {
        let published = issuer.publisher.current();
        let now = issuer.clock.now();
        let settled = issuer.clock.steady() >= self.settled_at;
        let rotation_requested = head.rotation_requested;
        let certain = self.certain(issuer);
        let mut facts = Facts {
            now,
            certain,
            keys: &published.keys,
            rotation_requested,
            settled,
            confirmed: 0,
            pinned: false,
        };
        for policy in &self.policies {
            facts.rotation_requested = match policy.purpose {
                Purpose::Token => rotation_requested,
                Purpose::Bundle => {
                    self.bundle_request
                        .read(&*issuer.store, issuer.clock.steady_ms())
                        .await?
                }
            };
            // Looking up proxies may cost a query: only when the answer matters.
            if is_wanted(policy, &facts) {
                let live = issuer.live_proxies().await;
                facts.confirmed = live.confirmed();
                facts.pinned = standby(&published.keys, policy.purpose)
                    .is_some_and(|key| is_pinned(key, &live));
            }
            match next_step(&self.promises.in_effect(policy, certain), &facts) {
                None => continue,
                Some(Step::Full) => {
                    self.warn_full(issuer.clock.steady());
                    continue;
                }
                // Another replica may have begun to serve with a longer `max-age`.
                Some(_) => self.renew_promises(issuer).await?,
            }
            let policy = &self.promises.in_effect(policy, certain);
            let Some(step) = next_step(policy, &facts) else {
                continue;
            };
            let change = perform(
                policy,
                step.clone(),
                published.version(),
                &facts,
                issuer.master(),
            )
            .await?;
            return match issuer.publisher.commit(&change).await {
                Ok(version) => {
                    if policy.purpose == Purpose::Bundle && matches!(step, Step::Promote { .. }) {
                        self.bundle_request.done(&*issuer.store).await?;
                    }
                    report(issuer, policy, &step, version);
                    Ok(true)
                }
                Err(StoreError::Conflict) => Ok(true),
                Err(error) => Err(error.into()),
            };
        }
        Ok(false)
    }

    /// Records that the active key signs tokens that live as long as this replica's configuration
    /// allows.
    async fn extend(&self, issuer: &Issuer) -> Result<(), KeeperError> {
        let published = issuer.publisher.current();
        let [policy, _] = &self.policies;
        let is_shorter = |key: &&KeyRecord| {
            key.purpose == policy.purpose
                && key.state == KeyState::Active
                && key.drain_s < policy.drain_s
        };
        let Some(key) = published.keys.iter().find(is_shorter) else {
            return Ok(());
        };
        let keys = vec![KeyChange::Extend {
            kid: key.kid.clone(),
            drain_s: policy.drain_s,
        }];
        let change = Change {
            expected_version: Some(published.version()),
            keys,
            ..Change::default()
        };
        match issuer.publisher.commit(&change).await {
            Ok(_) | Err(StoreError::Conflict) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Requests an acknowledged rotation of the bundle key.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn request_bundle_rotation(&self, issuer: &Issuer) -> Result<(), StoreError> {
        self.bundle_request
            .set(&*issuer.store, issuer.clock.now())
            .await
    }

    /// Returns when a rotation of the bundle key was requested, if it is not done.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn bundle_rotation_requested(
        &self,
        issuer: &Issuer,
    ) -> Result<Option<u64>, StoreError> {
        self.bundle_request.read(&*issuer.store, u64::MAX).await
    }

    fn warn_full(&self, now: u64) {
        if now >= self.warn_at.load(Ordering::Relaxed) {
            self.warn_at
                .store(now.saturating_add(PRUNE_EVERY_S), Ordering::Relaxed);
            tracing::warn!("a rotation waits: too many old keys still have living tokens");
        }
    }

    async fn prune(&self, issuer: &Issuer) -> Result<(), StoreError> {
        let steady = issuer.clock.steady();
        if steady < self.prune_at.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.prune_at
            .store(steady.saturating_add(PRUNE_EVERY_S), Ordering::Relaxed);
        let certain = self.certain(issuer);
        issuer
            .store
            .forget_proxies(certain.saturating_sub(60 * PRUNE_EVERY_S))
            .await?;
        let expired = certain.saturating_sub(PRUNE_SPREAD_S);
        issuer.store.forget_assertions(expired).await?;
        if issuer
            .publisher
            .current()
            .prune_due
            .is_some_and(|due| due < expired)
        {
            issuer
                .publisher
                .commit(&Change {
                    prune_before: Some(expired),
                    ..Change::default()
                })
                .await?;
        }
        Ok(())
    }
}

fn report(issuer: &Issuer, policy: &KeyPolicy, step: &Step, version: u64) {
    let purpose = policy.purpose.name();
    match step {
        Step::Generate(KeyState::Active) => {
            issuer.metrics.forced_rotations.increment();
            tracing::error!(
                purpose,
                version,
                "no key signs any more: made one, which no verifier has confirmed"
            );
        }
        Step::Generate(state) => {
            tracing::info!(purpose, state = state.name(), version, "made a key");
        }
        Step::Promote { kid, forced, .. } => {
            issuer.metrics.rotations.increment();
            if *forced {
                issuer.metrics.forced_rotations.increment();
                tracing::error!(
                    purpose,
                    kid,
                    version,
                    "rotated WITHOUT the confirmation of every live proxy: keys.ackTimeout is over"
                );
            } else {
                tracing::info!(
                    purpose,
                    kid,
                    version,
                    "rotated: every live proxy has the key that signs now"
                );
            }
        }
        Step::Extend(kid) => {
            tracing::info!(
                purpose,
                kid,
                version,
                "the key drains for longer: tokens.maxLifetime was raised"
            );
        }
        Step::Retire(kid) => tracing::info!(
            purpose,
            kid,
            version,
            "retired a key: nothing it signed is alive"
        ),
        Step::Delete(kid) => tracing::info!(purpose, kid, version, "deleted a key"),
        Step::Full => {}
    }
}
