//! Keeps the published state in step with the database, and wakes polls that wait for a newer
//! version.

mod lost_state;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use meshseal_core::bundle::Times;
use tokio::sync::{Mutex as AsyncMutex, watch};

use super::acknowledgement::Acknowledgements;
use super::answers::Answers;
use super::group::{self, Revocations};
use super::pace::Pace;
use super::published::{Opened, Published};
use super::worker::Validity;
use crate::clock::Clock;
use crate::group::Group;
use crate::keys::{MasterKey, SignerError};
use crate::store::{Change, Head, Incident, Store, StoreError};

/// Milliseconds for which the published state counts as current after the database confirmed it.
/// After that, another replica may have revoked a key or token without this replica knowing. Then
/// the replica mints no tokens, and the issue time of its bundles stands still.
pub const FRESH_MS: u64 = 5_000;

/// Milliseconds between two checks of all row MACs while the version does not change.
const PROVE_EVERY_MS: u64 = 60_000;

/// Error returned when no bundle can be given out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SyncError {
    /// The database does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The bundle key cannot be used.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// The state that the database last confirmed is past its not-after.
    #[error("the state is past its not-after")]
    Expired,
    /// The proxy states a newer version than was ever published.
    #[error("the proxy is ahead of this issuer")]
    Ahead,
}

/// The starting point of a bundle: the version and protocol of the proxy that receives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Base {
    /// Version that the proxy holds; `None` requests a full bundle.
    pub version: Option<u64>,
    /// Newest poll protocol that the proxy reads.
    pub protocol: u32,
}

/// A signed bundle.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Compact JWS.
    pub bundle: Bytes,
    /// Version after the bundle is applied.
    pub version: u64,
    /// Issue time and not-after.
    pub validity: Validity,
}

/// The published state of one replica.
pub struct Publisher {
    issuer: String,
    not_after_s: u64,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    master: Arc<MasterKey>,
    acknowledgements: Acknowledgements,
    current: ArcSwap<Published>,
    versions: watch::Sender<u64>,
    answers: Mutex<Answers>,
    refreshing: AsyncMutex<Refreshing>,
    group: Group<Change, group::Answer>,
    /// Held by the caller that publishes revocations.
    publishing: AsyncMutex<()>,
    /// Held by the caller that queries the database about an unknown token.
    looking: AsyncMutex<()>,
    pace: Pace,
    /// Number of database queries begun.
    asked: AtomicU64,
    /// Time of the last confirmation by the database (steady milliseconds).
    confirmed_ms: AtomicU64,
    /// Issue time (Unix seconds) of bundles while the database is unavailable: the last issue time
    /// that was given out or confirmed before.
    vouched: AtomicU64,
    /// Time of the last check of all row MACs (steady milliseconds).
    proven_ms: AtomicU64,
    /// Earliest time at which the next proved version may be declared lost (steady milliseconds).
    catch_up_ms: AtomicU64,
    /// Held while a version is examined and declared lost.
    catching_up: AsyncMutex<()>,
    /// Names of rows whose MAC is wrong.
    tampered: ArcSwapOption<String>,
    /// Present incident, until an operator ends it.
    incident: ArcSwapOption<Incident>,
    /// [`Head::latest_loss`].
    latest_loss: ArcSwapOption<u64>,
}

/// State guarded by the refresh lock.
struct Refreshing {
    opened: Opened,
    /// Number and result of the last query.
    last: (u64, Result<Head, StoreError>),
}

impl Publisher {
    /// Creates a publisher of the state that the database holds.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn start(
        issuer: &str,
        not_after_s: u64,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        master: Arc<MasterKey>,
    ) -> Result<Self, StoreError> {
        let mut opened = Opened::default();
        // The times before the query are the ones that its answer confirms.
        let (asked_ms, asked) = (clock.steady_ms(), clock.now());
        let head = store.head().await?;
        let published = Published::build(issuer, store.load().await?, &master, &mut opened);
        // The first version is a base for deltas, too.
        let mut answers = Answers::default();
        answers.remember(published.snapshot.clone());
        let nothing = Err(StoreError::Unavailable("was not queried yet".into()));
        Ok(Self {
            issuer: issuer.to_owned(),
            not_after_s,
            store,
            clock,
            acknowledgements: Acknowledgements::new(&master),
            master,
            versions: watch::Sender::new(published.version()),
            current: ArcSwap::from_pointee(published),
            answers: Mutex::new(answers),
            refreshing: AsyncMutex::new(Refreshing {
                opened,
                last: (0, nothing),
            }),
            group: Group::default(),
            publishing: AsyncMutex::default(),
            looking: AsyncMutex::default(),
            pace: Pace::default(),
            asked: AtomicU64::new(0),
            confirmed_ms: AtomicU64::new(asked_ms),
            vouched: AtomicU64::new(asked),
            proven_ms: AtomicU64::new(asked_ms),
            tampered: ArcSwapOption::empty(),
            incident: ArcSwapOption::new(head.incident.map(Arc::new)),
            latest_loss: ArcSwapOption::new(head.latest_loss.map(Arc::new)),
            catch_up_ms: AtomicU64::new(0),
            catching_up: AsyncMutex::default(),
        })
    }

    /// Returns the key that encrypts the private keys.
    pub(crate) const fn master(&self) -> &Arc<MasterKey> {
        &self.master
    }

    /// Returns the published state.
    #[must_use]
    pub fn current(&self) -> Arc<Published> {
        self.current.load_full()
    }

    /// Subscribes to the published version.
    #[must_use]
    pub fn versions(&self) -> watch::Receiver<u64> {
        self.versions.subscribe()
    }

    /// Returns whether the database has confirmed the published state within [`FRESH_MS`].
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.clock.steady_ms()
            <= self
                .confirmed_ms
                .load(Ordering::Relaxed)
                .saturating_add(FRESH_MS)
    }

    /// Returns the time since the database last confirmed the published state, in seconds.
    #[must_use]
    pub fn unconfirmed_s(&self) -> u64 {
        self.clock
            .steady_ms()
            .saturating_sub(self.confirmed_ms.load(Ordering::Relaxed))
            / 1_000
    }

    /// Returns the names of the rows that were changed without the master key, while the database
    /// holds such rows.
    #[must_use]
    pub fn tampered(&self) -> Option<Arc<String>> {
        self.tampered.load_full()
    }

    /// Returns the present incident, as the database last reported it.
    #[must_use]
    pub fn incident(&self) -> Option<Arc<Incident>> {
        self.incident.load_full()
    }

    /// Returns the time at which the latest incident was found (Unix seconds), ended or not.
    #[must_use]
    pub fn latest_loss(&self) -> Option<u64> {
        self.latest_loss.load().as_deref().copied()
    }

    /// Returns whether bundles can be given out: bundles of the current state, or, while rows are
    /// tampered with, bundles of the last confirmed state.
    #[must_use]
    pub fn can_answer(&self) -> bool {
        self.is_fresh() || self.tampered.load().is_some()
    }

    /// Reloads the state from the database and publishes it. Concurrent callers share one query.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn refresh(&self) -> Result<Head, StoreError> {
        let before = self.asked.load(Ordering::SeqCst);
        let mut refreshing = self.refreshing.lock().await;
        // INVARIANT: only a query begun after this call is shared. An earlier one may have missed a
        // change that was committed before this call.
        if refreshing.last.0 > before {
            return refreshing.last.1.clone();
        }
        let this = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let outcome = self.query_and_report_losses(&mut refreshing.opened).await;
        self.note_tampering(&outcome);
        refreshing.last = (this, outcome.clone());
        outcome
    }

    /// Refreshes when the next publication is due, so that all revocations made until then are
    /// published together.
    ///
    /// # Errors
    /// As [`Publisher::refresh`].
    pub async fn follow(&self) -> Result<Head, StoreError> {
        // One caller at a time: otherwise each caller would publish a version of its own.
        let _turn = self.publishing.lock().await;
        self.pace().await;
        self.refresh().await
    }

    /// Refreshes for a caller that presents an unknown token. Callers can present such tokens at
    /// any rate, so all of them together cause at most one query in 20 ms, and no publication
    /// before the next one is due.
    ///
    /// # Errors
    /// As [`Publisher::refresh`].
    pub async fn look_again(&self) -> Result<(), StoreError> {
        let before = self.asked.load(Ordering::SeqCst);
        let _turn = self.looking.lock().await;
        let last = self.refreshing.lock().await.last.clone();
        if last.0 > before {
            return last.1.map(|_| ());
        }
        self.pace.next_look().await;
        self.follow().await.map(|_| ())
    }

    /// Returns a version for a change made at this time. After the database was restored from a
    /// backup, the version exceeds every version that this replica published, so no version is
    /// used for two contents.
    fn unused_version(&self, now_ms: u64) -> u64 {
        now_ms.max(self.current.load().version().saturating_add(1))
    }

    /// Queries the database once, and publishes a newer version if it has one.
    async fn query(&self, opened: &mut Opened) -> Result<Head, StoreError> {
        // INVARIANT: the state is confirmed as of the time before the query, never after it.
        let (asked_ms, asked) = (self.clock.steady_ms(), self.clock.now());
        let mut head = match self.store.head().await {
            // The MAC of the state row is wrong. `load` checks all rows and names every wrong one
            // in its error. The first finding suffices, so later queries skip this.
            Err(StoreError::Tampered(rows)) if self.tampered.load().is_none() => {
                self.store.load().await?;
                return Err(StoreError::Tampered(rows));
            }
            head => head?,
        };
        self.note_incident(&head);
        let is_new = head.version != self.current.load().version();
        let is_due = asked_ms
            >= self
                .proven_ms
                .load(Ordering::Relaxed)
                .saturating_add(PROVE_EVERY_MS);
        if is_new || is_due {
            let persisted = self.load_whole(is_due).await?;
            if is_due {
                self.proven_ms.store(asked_ms, Ordering::Relaxed);
            }
            if persisted.version != head.version {
                // `load_whole` may have restored lost state, which is an incident. A receipt must
                // not be complete without knowing of it, so the head is read again.
                head = self.store.head().await?;
                self.note_incident(&head);
            }
            if persisted.version == self.current.load().version() {
                self.confirmed_ms.store(asked_ms, Ordering::Relaxed);
                self.vouched.store(asked, Ordering::Relaxed);
                return Ok(head);
            }
            // Publish the new version, and wake the polls that wait for it.
            let published = Arc::new(Published::build(
                &self.issuer,
                persisted,
                &self.master,
                opened,
            ));
            self.lock_answers().remember(published.snapshot.clone());
            let version = published.version();
            self.current.store(published);
            self.pace.published();
            self.versions.send_replace(version);
        }
        self.confirmed_ms.store(asked_ms, Ordering::Relaxed);
        self.vouched.store(asked, Ordering::Relaxed);
        Ok(head)
    }

    fn note_incident(&self, head: &Head) {
        if self.incident.load().as_deref() != head.incident.as_ref() {
            self.incident.store(head.incident.clone().map(Arc::new));
        }
        if self.latest_loss() != head.latest_loss {
            self.latest_loss.store(head.latest_loss.map(Arc::new));
        }
    }

    fn note_tampering(&self, outcome: &Result<Head, StoreError>) {
        match outcome {
            Err(StoreError::Tampered(rows)) => {
                // The first finding names every wrong row; later queries stop at the state row.
                if self.tampered.load().is_none() {
                    tracing::error!(
                        rows,
                        "database rows were changed without the master key; publishing and \
                         minting stopped"
                    );
                    self.tampered.store(Some(Arc::new(rows.clone())));
                }
            }
            Ok(_) if self.tampered.load().is_some() => {
                tracing::info!("all database rows carry their MACs again");
                self.tampered.store(None);
            }
            Ok(_)
            | Err(StoreError::Conflict | StoreError::Full(_) | StoreError::Unavailable(_)) => {}
        }
    }

    /// Commits a change and publishes it. Returns the version of the change.
    ///
    /// # Errors
    /// [`StoreError`]; after [`StoreError::Unavailable`] the change may or may not be committed.
    pub async fn commit(&self, change: &Change) -> Result<u64, StoreError> {
        let version = if change.only_revokes() {
            let revocations = Revocations {
                store: &*self.store,
                now_ms: || self.unused_version(self.clock.now_ms()),
            };
            self.group.join(&revocations, change.clone()).await?
        } else {
            let now_ms = self.unused_version(self.clock.now_ms());
            self.store.commit(change, now_ms).await?
        };
        // Changes of keys are rare and urgent, so they are published without a delay.
        if !change.keys.is_empty() {
            self.refresh().await?;
            return Ok(version);
        }
        // Another caller may publish this change together with its own.
        let mut versions = self.versions();
        let turn = tokio::select! {
            biased;
            _published = versions.wait_for(|published| *published >= version) => return Ok(version),
            turn = self.publishing.lock() => turn,
        };
        if self.current.load().version() < version {
            self.pace().await;
            self.refresh().await?;
        }
        drop(turn);
        Ok(version)
    }

    /// Waits until the next publication of revocations is due.
    async fn pace(&self) {
        self.pace.next(self.versions.receiver_count()).await;
    }

    /// Waits until a poll that a publication woke may be answered.
    pub(super) async fn stagger(&self) {
        self.pace.answer().await;
    }

    /// Returns whether the last confirmed state is past its not-after, so that a bundle of it would
    /// be expired when issued.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        !self.is_fresh()
            && self.clock.now()
                >= self
                    .vouched
                    .load(Ordering::Relaxed)
                    .saturating_add(self.not_after_s)
    }

    /// Returns the issue time of a bundle given out now. While the database is unavailable or rows
    /// are tampered with, the time stands still, so that proxies do not take unconfirmed state for
    /// fresh.
    fn issue_time(&self) -> u64 {
        if !self.is_fresh() || self.tampered.load().is_some() {
            return self.vouched.load(Ordering::Relaxed);
        }
        let now = self.clock.now();
        self.vouched.store(now, Ordering::Relaxed);
        now
    }

    /// Returns the times of a bundle that is given out now.
    #[must_use]
    pub fn validity(&self) -> Validity {
        let issued_at = self.issue_time();
        Validity {
            issued_at,
            not_after: issued_at.saturating_add(self.not_after_s),
        }
    }

    /// Returns the bundle that leads from this base to the published version.
    ///
    /// # Errors
    /// [`SyncError::Signer`], [`SyncError::Expired`].
    pub fn answer(&self, base: Base) -> Result<Answer, SyncError> {
        if self.is_expired() {
            return Err(SyncError::Expired);
        }
        let published = self.current();
        let validity = self.validity();
        let Validity {
            issued_at,
            not_after,
        } = validity;
        let times = Times {
            issuer: self.issuer.clone(),
            issued_at,
            not_after,
        };
        let bundle = self
            .lock_answers()
            .answer(&published, base, times, &self.acknowledgements)?;
        Ok(Answer {
            bundle,
            version: published.version(),
            validity,
        })
    }

    /// Returns the acknowledgement value of a version.
    #[must_use]
    pub fn proof(&self, version: u64) -> String {
        self.acknowledgements.value(version)
    }

    /// Returns whether `proof` is the acknowledgement value of a version.
    #[must_use]
    pub fn proves(&self, version: u64, proof: &str) -> bool {
        self.acknowledgements.proves(version, proof)
    }

    fn lock_answers(&self) -> std::sync::MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
