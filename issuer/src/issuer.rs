//! State of the running issuer that endpoints and background tasks share.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::bundle::{Elsewhere, FRESH_MS, Live, Proxies, Publisher};
use crate::clients::{Failures, Registry, SecretHasher, SingleUse};
use crate::clock::{Clock, ClockMark};
use crate::config::{Config, MAX_CLOCK_SKEW_S};
use crate::error::{OAuthError, OAuthErrorKind};
use crate::keys::{
    JwksPromises, Keeper, KeeperError, MasterKey, MasterKeyError, bootstrap, policies, stored_mark,
};
use crate::revocation::MAX_WAITING;
use crate::store::{self, Location, OpenError, Store, StoreError};
use crate::telemetry::Metrics;
use crate::tokens::Indices;

/// Most token requests that wait at the same time after a revocation of their group.
const MAX_DATED_LATER: usize = 1_000;

/// Error that prevents the issuer from starting.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database cannot be opened.
    #[error("{0}")]
    Open(#[from] OpenError),
    /// The master key cannot be read or does not fit.
    #[error("{0}")]
    Master(#[from] MasterKeyError),
    /// Signing keys cannot be created.
    #[error("signing keys: {0}")]
    Keys(#[from] KeeperError),
    /// The database failed after it was opened.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The active key cannot be opened; the log has the reason.
    #[error(
        "the active {0} key cannot be used (see the log); \
         restore the master key that it was made with, or the database"
    )]
    Unusable(&'static str),
}

/// One replica of the issuer.
pub struct Issuer {
    /// Configuration.
    pub config: Config,
    /// Clock.
    pub clock: Arc<dyn Clock>,
    /// Database.
    pub store: Arc<dyn Store>,
    /// Publisher of keys and revocations.
    pub publisher: Publisher,
    /// Records of the workers that poll this replica.
    pub proxies: Arc<Proxies>,
    /// Records of other replicas' proxies.
    pub(crate) elsewhere: Elsewhere,
    /// Permits for receipts that wait.
    pub(crate) receipts: Semaphore,
    /// Clients.
    pub registry: Registry,
    /// Uses of client assertions.
    pub assertions: SingleUse,
    /// Hashes presented client secrets.
    pub secrets: SecretHasher,
    /// Limiter of failed authentications.
    pub failures: Failures,
    /// Leased token indices.
    pub indices: Indices,
    /// Permits for token requests that wait until they may be dated.
    pub(crate) dated_later: Semaphore,
    /// Scheduled key work.
    pub keeper: Keeper,
    /// Wakes the key manager before its next tick.
    pub keeper_wanted: Notify,
    /// Counters.
    pub metrics: Metrics,
    /// Cancelled when the process ends, so that waiting requests are answered at once.
    pub ending: CancellationToken,
}

impl Issuer {
    /// Opens the configured database and starts.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn open(config: Config, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let life = Duration::from_secs(config.database_connection_life_s);
        let store = store::open_for(&config.database, life).await?;
        let master = MasterKey::obtain(&config.master_key, &config.database, &*store).await?;
        Self::start(config, clock, store, Arc::new(master)).await
    }

    /// Removes the rows without a valid MAC and declares an incident. Returns their names.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn repair(config: &Config, clock: &dyn Clock) -> Result<Vec<String>, StartError> {
        let store = store::open(&config.database).await?;
        let master = MasterKey::obtain(&config.master_key, &config.database, &*store).await?;
        store.unlock(&master).await?;
        Ok(store.repair(clock.now_ms()).await?)
    }

    /// Starts on a database: creates missing keys and publishes.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(
        config: Config,
        clock: Arc<dyn Clock>,
        store: Arc<dyn Store>,
        master: Arc<MasterKey>,
    ) -> Result<Self, StartError> {
        // Establish the time before anything depends on it.
        consult(&*store, &*clock).await?;
        store.unlock(&master).await?;
        let mark = stored_mark(&*store, &*clock, &master).await?;
        clock.resume(&mark);
        let uses_lost_before = uses_lost_before(&config.database, &*clock, &mark);
        if let Some(fault) = clock.read().fault() {
            tracing::error!("{fault}; no tokens are issued until then");
        }
        let policies = policies(&config, FRESH_MS.div_ceil(1_000));
        let certain = mark.certain_ms() / 1_000;
        // Register the `max-age` of /jwks first: a new key is ready only once it has passed.
        let max_age_s = config.keys.jwks_max_age_s;
        let promises = JwksPromises::begin(max_age_s, &*store, &*clock, &master, certain).await?;
        let in_effect = policies.map(|policy| promises.in_effect(&policy, certain));
        bootstrap(&*store, &master, &*clock, &in_effect).await?;
        // Publish, and verify that both active keys can sign.
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
        // Workers of earlier runs count until their bundles have expired.
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
            assertions: SingleUse::new(config.clients.len(), uses_lost_before),
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

    /// Returns the master key.
    pub(crate) const fn master(&self) -> &Arc<MasterKey> {
        self.publisher.master()
    }

    /// Returns the number of receipts that wait.
    #[must_use]
    pub fn receipts_waiting(&self) -> usize {
        MAX_WAITING.saturating_sub(self.receipts.available_permits())
    }

    /// Returns the proxies that count now, including those of other replicas.
    pub async fn live_proxies(&self) -> Live {
        // A worker that is not known must not count as confirmed.
        let all_known = self.elsewhere.look(&self.proxies).await && !self.may_lack_workers();
        self.proxies.live(all_known)
    }

    /// Returns whether the database may have lost worker records. Such a worker acts on its bundle
    /// until the not-after, even if the operator ends the incident earlier, unless it polls and is
    /// recorded again. Where rules set `action: SERVE` it may act longer, so it counts until the
    /// operator ends the incident.
    pub(crate) fn may_lack_workers(&self) -> bool {
        let longest_s = self
            .config
            .bundle
            .not_after_s
            .saturating_add(MAX_CLOCK_SKEW_S);
        self.publisher
            .latest_loss()
            .is_some_and(|lost_at| self.clock.now() < lost_at.saturating_add(longest_s))
            || (self.publisher.incident().is_some() && self.proxies.has_unbounded())
    }

    /// Returns an error while this replica cannot know the current revocations.
    pub(crate) fn require_fresh(&self) -> Result<(), OAuthError> {
        if self.publisher.is_fresh() {
            return Ok(());
        }
        Err(OAuthErrorKind::Unavailable.because("the issuer's database does not answer; try again"))
    }

    /// Returns an error while rows lack a valid MAC, because keys or revocations may be missing.
    pub(crate) fn require_authentic(&self) -> Result<(), OAuthError> {
        if self.publisher.tampered().is_none() {
            return Ok(());
        }
        Err(OAuthErrorKind::Unavailable
            .because("the issuer's database was tampered with; see its log"))
    }

    /// Returns an error after the machine's clock has stepped in either direction (I38), because
    /// tokens would get a wrong date.
    pub(crate) fn require_clock(&self) -> Result<(), OAuthError> {
        match self.clock.read().fault() {
            None => Ok(()),
            Some(fault) => Err(OAuthErrorKind::Unavailable.because(fault)),
        }
    }

    /// Compares the machine's clock with that of the database server.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn consult_database_clock(&self) -> Result<(), StoreError> {
        consult(&*self.store, &*self.clock).await
    }
}

/// Reads the database server's clock and reports it to `clock`, with the time that reading took.
async fn consult(store: &dyn Store, clock: &dyn Clock) -> Result<(), StoreError> {
    let asked_ms = clock.steady_ms();
    let database_ms = store.clock_ms().await?;
    clock.heard(database_ms, asked_ms, clock.steady_ms());
    Ok(())
}

/// Returns an error if a key cannot sign: now, rather than at the first token (I27).
fn require_signers(publisher: &Publisher) -> Result<(), StartError> {
    let published = publisher.current();
    match (&published.token_signer, &published.bundle_signer) {
        (None, _) => Err(StartError::Unusable("signing")),
        (_, None) => Err(StartError::Unusable("bundle")),
        (Some(_), Some(_)) => Ok(()),
    }
}

/// Returns a name that no other replica has.
fn replica_name() -> String {
    let mut random = [0; 8];
    // Without random bytes the process id still distinguishes replicas on one machine.
    let _ = aws_lc_rs::rand::fill(&mut random);
    format!("{:016x}-{}", u64::from_le_bytes(random), std::process::id())
}

/// Returns the time (Unix seconds) before which uses of client assertions may be lost; 0 for none.
/// A power cut may undo the last ones in a SQLite file, so those before another boot are in doubt.
fn uses_lost_before(database: &Location, clock: &dyn Clock, mark: &ClockMark) -> u64 {
    let is_file = matches!(database, Location::Sqlite(_));
    if is_file && mark.boot != clock.boot() {
        clock.now()
    } else {
        0
    }
}
