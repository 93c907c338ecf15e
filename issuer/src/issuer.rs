//! The running issuer: what endpoints and background work share.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::bundle::{Elsewhere, FRESH_MS, Live, Proxies, Publisher};
use crate::clients::{Failures, Registry, Replays, SecretHasher};
use crate::clock::Clock;
use crate::config::Config;
use crate::error::{OAuthError, OAuthErrorKind};
use crate::keys::{Keeper, KeeperError, MasterKey, MasterKeyError, bootstrap, policies};
use crate::store::{self, OpenError, Store, StoreError};
use crate::telemetry::Metrics;
use crate::tokens::Indices;

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
    /// The clients.
    pub registry: Registry,
    /// The assertions used lately.
    pub replays: Replays,
    /// Hashes presented secrets.
    pub secrets: SecretHasher,
    /// Failed authentications.
    pub failures: Failures,
    /// Token indices.
    pub indices: Indices,
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
        let policies = policies(&config, FRESH_MS.div_ceil(1_000));
        bootstrap(&*store, &master, &*clock, &policies).await?;
        let secrets = SecretHasher::new(&master);
        let publisher =
            Publisher::start(&config.issuer, config.bundle.not_after_s, store.clone(), clock.clone(), master).await?;
        require_signers(&publisher)?;
        let heard_of_proxies = !store.proxies(0).await?.is_empty();
        let keeper = Keeper::new(replica_name(), policies, clock.steady(), heard_of_proxies);
        Ok(Self {
            registry: Registry::new(config.clients.clone(), config.limits.requests_per_second),
            secrets,
            failures: Failures::new(config.limits.failures_per_second),
            proxies: Arc::new(Proxies::new(clock.clone())),
            elsewhere: Elsewhere::new(store.clone(), clock.clone()),
            replays: Replays::default(),
            indices: Indices::default(),
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

    /// The proxies that are live now, those of other replicas too.
    pub async fn live_proxies(&self) -> Live {
        let elsewhere = self.elsewhere.sightings(self.proxies.relevant_since()).await;
        self.proxies.live(elsewhere.as_deref())
    }

    /// Refuses while this replica cannot know what is revoked.
    pub(crate) fn require_fresh(&self) -> Result<(), OAuthError> {
        if self.publisher.is_fresh() {
            return Ok(());
        }
        Err(OAuthErrorKind::Unavailable.because("the issuer's database does not answer; try again"))
    }

    /// Refuses while the machine's clock is behind what it said before (I38): a token would be dated wrongly.
    pub(crate) fn require_clock(&self) -> Result<(), OAuthError> {
        if self.clock.read().is_sound() {
            return Ok(());
        }
        Err(OAuthErrorKind::Unavailable.because("the issuer's clock went back; try again later"))
    }
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
