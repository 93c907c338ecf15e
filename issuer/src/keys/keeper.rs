//! Performs the steps that [`next_step`] returns: at the start for a database without keys, and
//! then on schedule by the replica that holds the lead. A revocation of a key triggers it at once.
//! Every step is a compare-and-swap on the version, so that two replicas never both perform it.

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

/// Seconds after which an unrenewed lead may pass to another replica.
const LEAD_S: u64 = 15;

/// Most steps in one round; a rotation takes two.
const STEPS_A_ROUND: usize = 8;

/// Seconds between two deletions of expired entries.
const PRUNE_EVERY_S: u64 = 60;

/// Seconds from reading the clock until a new key is published: generating an RSA key takes up to
/// two, and committing it up to five. A reader may cache a key set from just before that.
const PUBLISHED_WITHIN_S: u64 = 8;

/// Error of scheduled key work.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A key could not be generated.
    #[error(transparent)]
    Generate(#[from] GenerateError),
}

/// Returns the configured policies for the keys of both purposes. `grace_s` is the time for which
/// another replica may still sign with a key after this one put it out of use.
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
    // The filter pins Ed25519 bundle keys. They rotate only on request, because each change needs
    // new pins.
    let bundle = KeyPolicy {
        purpose: Purpose::Bundle,
        algorithm: super::Algorithm::EdDsa,
        rotate_every_s: None,
        cached_s: 0,
        ..token
    };
    [token, bundle]
}

/// Creates the keys that a new database lacks.
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
        // No time counts as certain yet, so that nothing is retired or deleted here.
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
        // Only keys that are made within a minute of the first one belong to the first start.
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
        // After a conflict another replica made the key; look again.
        match store.commit(&change, clock.now_ms()).await {
            Ok(_) | Err(StoreError::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Marks a key of the first start, which every key set and every set of pins contains.
fn mark_first(change: &mut KeyChange) {
    if let KeyChange::Insert(key) = change {
        key.ready_at = 0;
    }
}

/// Returns the change for a step, and generates a key if the step needs one.
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

/// Generates a key on a thread of its own, because RSA takes up to a second. The key is ready once
/// the longest `max-age` of `/jwks` has certainly passed. By then every reader has it, and a clock
/// that jumps during a restart cannot make the key sign early.
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
    // Without caching, no reader holds a key set without this key.
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

/// Scheduled key work of one replica.
pub struct Keeper {
    replica: String,
    policies: [KeyPolicy; 2],
    timekeeper: Timekeeper,
    bundle_request: BundleRequest,
    promises: JwksPromises,
    leads_until: AtomicU64,
    /// Monotonic seconds, like the next two fields.
    settled_at: u64,
    prune_at: AtomicU64,
    warn_at: AtomicU64,
}

impl Keeper {
    /// Creates the key manager of a replica that starts now (monotonic seconds). With
    /// `heard_of_proxies`, rotations wait until every live proxy can have polled.
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
        let (timekeeper, bundle_request) = (Timekeeper::default(), BundleRequest::default());
        Self {
            replica,
            policies,
            timekeeper,
            bundle_request,
            promises,
            settled_at,
            leads_until: AtomicU64::new(0),
            prune_at: AtomicU64::new(0),
            warn_at: AtomicU64::new(0),
        }
    }

    /// Performs the steps that are due, if this replica holds the lead.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub async fn round(&self, issuer: &Issuer) -> Result<(), KeeperError> {
        let head = issuer.publisher.refresh().await?;
        self.round_from(issuer, head).await
    }

    /// Performs the steps that are due, starting from a head that was just read.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub async fn round_from(&self, issuer: &Issuer, mut head: Head) -> Result<(), KeeperError> {
        if self.promises.is_due(issuer.clock.steady()) {
            self.renew_promises(issuer).await?;
        }
        if !self.leads(issuer).await? {
            self.timekeeper.leave();
            // While configurations differ, this replica may sign tokens that live longer than those
            // of the leader.
            self.extend(issuer).await?;
            return Ok(());
        }
        self.timekeeper
            .mark(&*issuer.store, &*issuer.clock, issuer.master(), false)
            .await?;
        // A conflict means that another replica changed the state: read it and decide again.
        for _ in 0..STEPS_A_ROUND {
            if !self.step(issuer, head).await? {
                break;
            }
            head = issuer.publisher.refresh().await?;
        }
        Ok(self.prune(issuer).await?)
    }

    /// Returns the certain time (Unix seconds), or 0 unless this replica holds the lead. Entries
    /// must not be deleted by any other clock.
    #[must_use]
    pub fn certain(&self, issuer: &Issuer) -> u64 {
        self.timekeeper.certain(&issuer.clock.read())
    }

    /// Returns the record of how long readers may cache `/jwks`.
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

    /// Gives the lead up, so that another replica can take it at once.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn resign(&self, issuer: &Issuer) -> Result<(), StoreError> {
        if self.leads_until.swap(0, Ordering::Relaxed) > 0 {
            // The mark goes first: the next leader continues from it.
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

    /// Returns whether this replica holds the lead. Renews it after a third of its duration.
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

    /// Performs one step if one is due. Returns whether to look for another one.
    async fn step(&self, issuer: &Issuer, head: Head) -> Result<bool, KeeperError> {
        // Collect the facts that hold for both purposes.
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
        // Add the facts of this purpose.
        for policy in &self.policies {
            facts.rotation_requested = match policy.purpose {
                Purpose::Token => rotation_requested,
                Purpose::Bundle => {
                    self.bundle_request
                        .read(&*issuer.store, issuer.clock.steady_ms())
                        .await?
                }
            };
            // Looking up proxies may cost a query, so it is done only if the answer matters.
            if is_wanted(policy, &facts) {
                let live = issuer.live_proxies().await;
                facts.confirmed = live.confirmed();
                facts.pinned = standby(&published.keys, policy.purpose)
                    .is_some_and(|key| is_pinned(key, &live));
            }
            // Decide, and decide again with the longest promise about /jwks.
            match next_step(&self.promises.in_effect(policy, certain), &facts) {
                None => continue,
                Some(Step::Full) => {
                    self.warn_full(issuer.clock.steady());
                    continue;
                }
                // Another replica may have started to serve a longer `max-age`.
                Some(_) => self.renew_promises(issuer).await?,
            }
            let policy = &self.promises.in_effect(policy, certain);
            let Some(step) = next_step(policy, &facts) else {
                continue;
            };
            // Perform the step, unless another replica changed the state first.
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

    /// Records that the active key signs tokens with the lifetime that this replica's configuration
    /// allows.
    async fn extend(&self, issuer: &Issuer) -> Result<(), KeeperError> {
        let published = issuer.publisher.current();
        let [policy, _] = &self.policies;
        let Some(key) = published.keys.iter().find(|key| {
            key.purpose == policy.purpose
                && key.state == KeyState::Active
                && key.drain_s < policy.drain_s
        }) else {
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
        // After a conflict the next round tries again.
        match issuer.publisher.commit(&change).await {
            Ok(_) | Err(StoreError::Conflict) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Requests a rotation of the bundle key that waits for pins.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn request_bundle_rotation(&self, issuer: &Issuer) -> Result<(), StoreError> {
        self.bundle_request
            .set(&*issuer.store, issuer.clock.now())
            .await
    }

    /// Returns the time of a pending request to rotate the bundle key.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn bundle_rotation_requested(
        &self,
        issuer: &Issuer,
    ) -> Result<Option<u64>, StoreError> {
        self.bundle_request.read(&*issuer.store, u64::MAX).await
    }

    /// Logs at most once a minute that a rotation waits for draining keys.
    fn warn_full(&self, now: u64) {
        if now >= self.warn_at.load(Ordering::Relaxed) {
            self.warn_at
                .store(now.saturating_add(PRUNE_EVERY_S), Ordering::Relaxed);
            tracing::warn!("rotation waits: too many draining keys still have valid tokens");
        }
    }

    /// Deletes expired entries, at most once a minute.
    async fn prune(&self, issuer: &Issuer) -> Result<(), StoreError> {
        let steady = issuer.clock.steady();
        if steady < self.prune_at.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.prune_at
            .store(steady.saturating_add(PRUNE_EVERY_S), Ordering::Relaxed);
        // Worker records are kept for an hour after the last contact.
        let certain = self.certain(issuer);
        issuer
            .store
            .forget_proxies(certain.saturating_sub(60 * PRUNE_EVERY_S))
            .await?;
        let expired = certain.saturating_sub(PRUNE_SPREAD_S);
        issuer.store.forget_assertions(expired).await?;
        // A commit raises the version, so it happens only if a revocation has expired.
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

/// Logs and counts a step.
fn report(issuer: &Issuer, policy: &KeyPolicy, step: &Step, version: u64) {
    let purpose = policy.purpose.name();
    match step {
        Step::Generate(KeyState::Active) => {
            issuer.metrics.forced_rotations.increment();
            tracing::error!(
                purpose,
                version,
                "no signing key was left: generated one that no verifier has confirmed"
            );
        }
        Step::Generate(state) => {
            tracing::info!(purpose, state = state.name(), version, "generated a key");
        }
        Step::Promote { kid, forced, .. } => {
            issuer.metrics.rotations.increment();
            if *forced {
                issuer.metrics.forced_rotations.increment();
                tracing::error!(
                    purpose,
                    kid,
                    version,
                    "rotated without the confirmation of every live proxy: keys.ackTimeout expired"
                );
            } else {
                tracing::info!(
                    purpose,
                    kid,
                    version,
                    "rotated to a key that every live proxy has confirmed"
                );
            }
        }
        Step::Extend(kid) => {
            tracing::info!(
                purpose,
                kid,
                version,
                "key drains for longer: tokens.maxLifetime was raised"
            );
        }
        Step::Retire(kid) => tracing::info!(
            purpose,
            kid,
            version,
            "retired a key: everything that it signed has expired"
        ),
        Step::Delete(kid) => tracing::info!(purpose, kid, version, "deleted a key"),
        Step::Full => {}
    }
}
