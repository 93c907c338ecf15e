//! The running issuer: what endpoints and background work share.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::bundle::{Elsewhere, FRESH_MS, Live, Proxies, Publisher};
use crate::clients::{Failures, Registry, SecretHasher, SingleUse};
use crate::clock::Clock;
use crate::config::{Config, MAX_CLOCK_SKEW_S};
use crate::error::{OAuthError, OAuthErrorKind};
use crate::keys::{
    JwksPromises, Keeper, KeeperError, MasterKey, MasterKeyError, bootstrap, policies, stored_mark,
};
use crate::revocation::MAX_WAITING;
use crate::store::{self, OpenError, Store, StoreError};
use crate::telemetry::Metrics;
use crate::tokens::Indices;

/// Most token requests that wait at a time after a revocation of their group.
const MAX_DATED_LATER: usize = 1_000;

/// Why the issuer does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database.
    #[error("{0}")]
    Open(#[from] OpenError),
    /// The master key.
    #[error("{0}")]
    Master(#[from] MasterKeyError),
    /// The signing keys.
    #[error("signing keys: {0}")]
    Keys(#[from] KeeperError),
    /// The database, later.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The signing key cannot be used: see the log.
    #[error(
        "the active {0} key cannot be used; the log says why. Give back the master key it was made with, or restore the database"
    )]
    Unusable(&'static str),
}

/// One replica.
pub struct Issuer {
    /// How it is configured.
    pub config: Config,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The database.
    pub store: Arc<dyn Store>,
    /// Keys and revocations as they are now.
    pub publisher: Publisher,
    /// Who has confirmed what.
    pub proxies: Arc<Proxies>,
    /// What other replicas say about that.
    pub(crate) elsewhere: Elsewhere,
    /// Receipts that may wait.
    pub(crate) receipts: Semaphore,
    /// The clients.
    pub registry: Registry,
    /// Uses of client assertions.
    pub assertions: SingleUse,
    /// Hashes presented secrets.
    pub secrets: SecretHasher,
    /// Failed authentications.
    pub failures: Failures,
    /// Token indices.
    pub indices: Indices,
    /// Permits for token requests that wait until they may be dated.
    pub(crate) dated_later: Semaphore,
    /// Scheduled key work.
    pub keeper: Keeper,
    /// Wakes the keeper before its time.
    pub keeper_wanted: Notify,
    /// Counters.
    pub metrics: Metrics,
    /// Cancelled when the end has come: whoever waits is answered at once.
    pub ending: CancellationToken,
}

impl Issuer {
    /// Opens the database named in the configuration, and starts.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn open(config: Config, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let life = Duration::from_secs(config.database_connection_life_s);
        let store = store::open_for(&config.database, life).await?;
        let master = MasterKey::obtain(&config.master_key, &config.database, &*store).await?;
        Self::start(config, clock, store, Arc::new(master)).await
    }

    /// Removes the rows that do not carry their MAC, and declares an incident; returns their names.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn repair(config: &Config, clock: &dyn Clock) -> Result<Vec<String>, StartError> {
        let store = store::open(&config.database).await?;
        let master = MasterKey::obtain(&config.master_key, &config.database, &*store).await?;
        store.unlock(&master).await?;
        Ok(store.repair(clock.now_ms()).await?)
    }

    /// Starts on a database: makes keys if there are none, and publishes.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(
        config: Config,
        clock: Arc<dyn Clock>,
        store: Arc<dyn Store>,
        master: Arc<MasterKey>,
    ) -> Result<Self, StartError> {
        consult(&*store, &*clock).await?;
        store.unlock(&master).await?;
        let mark = stored_mark(&*store, &*clock, &master).await?;
        clock.resume(&mark);
        if let Some(fault) = clock.read().fault() {
            tracing::error!("{fault}; no tokens are issued until then");
        }
        let policies = policies(&config, FRESH_MS.div_ceil(1_000));
        let certain = mark.certain_ms() / 1_000;
        let max_age_s = config.keys.jwks_max_age_s;
        let promises = JwksPromises::begin(max_age_s, &*store, &*clock, &master, certain).await?;
        let in_effect = policies.map(|policy| promises.in_effect(&policy, certain));
        bootstrap(&*store, &master, &*clock, &in_effect).await?;
        let secrets = SecretHasher::new(&master);
        let publisher = Publisher::start(
            &config.issuer,
            config.bundle.not_after_s,
            store.clone(),
            clock.clone(),
            master,
        )
        .await?;
        require_signers(&publisher)?;
        let replica = replica_name();
        let proxies = Arc::new(Proxies::new(
            clock.clone(),
            replica.clone(),
            config.bundle.not_after_s,
        ));
        // Those of earlier runs count until their bundles have expired.
        proxies.learn(&store.proxies(&replica).await?);
        let keeper = Keeper::new(
            replica,
            policies,
            promises,
            clock.steady(),
            proxies.count() > 0,
        );
        Ok(Self {
            registry: Registry::new(config.clients.clone(), config.limits.requests_per_second),
            secrets,
            failures: Failures::new(config.limits.failures_per_second),
            proxies,
            receipts: Semaphore::new(MAX_WAITING),
            elsewhere: Elsewhere::new(store.clone(), clock.clone()),
            assertions: SingleUse::new(config.clients.len()),
            indices: Indices::default(),
            dated_later: Semaphore::new(MAX_DATED_LATER),
            keeper_wanted: Notify::new(),
            metrics: Metrics::default(),
            ending: CancellationToken::new(),
            config,
            clock,
            store,
            publisher,
            keeper,
        })
    }

    /// The key under which the others are sealed.
    pub(crate) const fn master(&self) -> &Arc<MasterKey> {
        self.publisher.master()
    }

    /// How many receipts wait.
    #[must_use]
    pub fn receipts_waiting(&self) -> usize {
        MAX_WAITING.saturating_sub(self.receipts.available_permits())
    }

    /// The proxies that count now, those of other replicas too.
    pub async fn live_proxies(&self) -> Live {
        let all_known = self.elsewhere.look(&self.proxies).await && !self.may_lack_workers();
        self.proxies.live(all_known)
    }

    /// Returns whether the records of workers may be among what the database lost. Such a worker
    /// acts on its bundle until the not-after, also if the operator ends the incident before, or
    /// polls and is recorded again. Where rules say `action: SERVE` it may act for longer: until the
    /// operator ends the incident.
    pub(crate) fn may_lack_workers(&self) -> bool {
        let longest_s = self
            .config
            .bundle
            .not_after_s
            .saturating_add(MAX_CLOCK_SKEW_S);
        let acts = |lost_at: u64| self.clock.now() < lost_at.saturating_add(longest_s);
        self.publisher.latest_loss().is_some_and(acts)
            || (self.publisher.incident().is_some() && self.proxies.has_unbounded())
    }

    /// Refuses while this replica cannot know what is revoked.
    pub(crate) fn require_fresh(&self) -> Result<(), OAuthError> {
        if self.publisher.is_fresh() {
            return Ok(());
        }
        Err(OAuthErrorKind::Unavailable.because("the issuer's database does not answer; try again"))
    }

    /// Refuses while database rows are tampered with: a row of keys or revocations may be missing.
    pub(crate) fn require_authentic(&self) -> Result<(), OAuthError> {
        if self.publisher.tampered().is_none() {
            return Ok(());
        }
        Err(OAuthErrorKind::Unavailable
            .because("the issuer's database was tampered with; see its log"))
    }

    /// Rejects while the machine's clock has stepped in either direction (I38): a token would be
    /// dated wrongly.
    pub(crate) fn require_clock(&self) -> Result<(), OAuthError> {
        match self.clock.read().fault() {
            None => Ok(()),
            Some(fault) => Err(OAuthErrorKind::Unavailable.because(fault)),
        }
    }

    /// Compares the machine's clock with the database server's.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn consult_database_clock(&self) -> Result<(), StoreError> {
        consult(&*self.store, &*self.clock).await
    }
}

async fn consult(store: &dyn Store, clock: &dyn Clock) -> Result<(), StoreError> {
    let asked_ms = clock.steady_ms();
    let database_ms = store.clock_ms().await?;
    clock.heard(database_ms, asked_ms, clock.steady_ms());
    Ok(())
}

/// I27: a key that cannot sign is found now, not at the first token.
fn require_signers(publisher: &Publisher) -> Result<(), StartError> {
    let published = publisher.current();
    match (&published.token_signer, &published.bundle_signer) {
        (None, _) => Err(StartError::Unusable("signing")),
        (_, None) => Err(StartError::Unusable("bundle")),
        (Some(_), Some(_)) => Ok(()),
    }
}

/// A name that no other replica has.
fn replica_name() -> String {
    let mut random = [0; 8];
    let _ = aws_lc_rs::rand::fill(&mut random);
    format!("{:016x}-{}", u64::from_le_bytes(random), std::process::id())
}
