//! Keeps what is published in step with the database, and wakes whoever waits for a newer version.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use meshseal_core::bundle::Times;
use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::time::timeout;

use super::acknowledgement::Acknowledgements;
use super::answers::Answers;
use super::group::{self, Revocations};
use super::loss::{Loss, WORKERS, epoch_of_all, is_harmless, lost_records, unproven};
use super::pace::Pace;
use super::published::{Opened, Published};
use super::worker::Validity;
use crate::clock::Clock;
use crate::group::Group;
use crate::keys::{MasterKey, SignerError};
use crate::store::{Change, Head, Incident, Persisted, Store, StoreError};

/// Milliseconds for which what is published counts as current after the database last confirmed it.
/// Past that, this replica may not know of a revoked key or token, so it neither mints nor vouches
/// for anything.
pub const FRESH_MS: u64 = 5_000;

/// Milliseconds between two proofs of all rows while the version stands still.
const PROVE_EVERY_MS: u64 = 60_000;

/// Most changes that restore state before the database counts as away.
const MAX_RESTORATIONS: usize = 32;

/// Milliseconds between two lost versions that proxies prove.
const CATCH_UP_EVERY_MS: u64 = 60_000;

/// Time for another replica to restore a version that it remembers, before a proved one counts as
/// lost.
const EXPLAIN_PATIENCE: Duration = Duration::from_secs(1);

/// Milliseconds by which another replica's clock may be ahead of ours.
const CLOCK_SPREAD_MS: u64 = 60_000;

/// Why a bundle cannot be given.
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
    /// The proxy has a newer version than was ever published.
    #[error("the proxy is ahead of this issuer")]
    Ahead,
}

/// What a bundle is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Base {
    /// The version that the proxy holds; `None` to start from nothing.
    pub version: Option<u64>,
    /// The newest poll protocol that it reads.
    pub protocol: u32,
}

/// A signed bundle.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Compact JWS.
    pub bundle: Bytes,
    /// The version it leads to.
    pub version: u64,
    /// Until when it may be used.
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
    /// Held by who publishes revocations.
    publishing: AsyncMutex<()>,
    /// Held by the caller that asks the database about an unknown token.
    looking: AsyncMutex<()>,
    pace: Pace,
    /// How many times the database was begun to be asked.
    asked: AtomicU64,
    /// Steady milliseconds, as the next.
    confirmed_ms: AtomicU64,
    /// Issue time (Unix seconds) of bundles while the database is away: the last one that was given
    /// before.
    vouched: AtomicU64,
    /// When all rows were last proven.
    proven_ms: AtomicU64,
    /// When a proxy may prove the next lost version.
    catch_up_ms: AtomicU64,
    /// Held while a version counts as lost.
    catching_up: AsyncMutex<()>,
    /// Rows that do not carry their MAC.
    tampered: ArcSwapOption<String>,
    /// Lost state, until an operator ends the incident.
    incident: ArcSwapOption<Incident>,
    /// [`Head::latest_loss`].
    latest_loss: ArcSwapOption<u64>,
}

/// What whoever asks the database holds meanwhile.
struct Refreshing {
    opened: Opened,
    /// Which time it was asked last, and what it said.
    last: (u64, Result<Head, StoreError>),
}

impl Publisher {
    /// Publishes what the database holds.
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
        let (asked_ms, asked) = (clock.steady_ms(), clock.now());
        let head = store.head().await?;
        let published = Published::build(issuer, store.load().await?, &master, &mut opened);
        let mut answers = Answers::default();
        answers.remember(published.snapshot.clone());
        let nothing = Err(StoreError::Unavailable("was not asked yet".into()));
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

    /// What the keys are sealed under.
    pub(crate) const fn master(&self) -> &Arc<MasterKey> {
        &self.master
    }

    /// What is published.
    #[must_use]
    pub fn current(&self) -> Arc<Published> {
        self.current.load_full()
    }

    /// The version, now and whenever it changes.
    #[must_use]
    pub fn versions(&self) -> watch::Receiver<u64> {
        self.versions.subscribe()
    }

    /// Whether the database has lately confirmed that this is current.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.clock.steady_ms()
            <= self
                .confirmed_ms
                .load(Ordering::Relaxed)
                .saturating_add(FRESH_MS)
    }

    /// Returns for how long the database has not confirmed that this is current, in seconds.
    #[must_use]
    pub fn unconfirmed_s(&self) -> u64 {
        self.clock
            .steady_ms()
            .saturating_sub(self.confirmed_ms.load(Ordering::Relaxed))
            / 1_000
    }

    /// Returns the rows that a program without the master key changed, while the database holds
    /// them.
    #[must_use]
    pub fn tampered(&self) -> Option<Arc<String>> {
        self.tampered.load_full()
    }

    /// Returns the present incident, as the database last told.
    #[must_use]
    pub fn incident(&self) -> Option<Arc<Incident>> {
        self.incident.load_full()
    }

    /// Returns the time at which the latest incident was found (Unix seconds), ended or not.
    #[must_use]
    pub fn latest_loss(&self) -> Option<u64> {
        self.latest_loss.load().as_deref().copied()
    }

    /// Returns whether bundles can be given out: current ones, or, while rows are tampered with,
    /// what was in force before.
    #[must_use]
    pub fn can_answer(&self) -> bool {
        self.is_fresh() || self.tampered.load().is_some()
    }

    /// Asks the database, and publishes what is new. Of all who call meanwhile one asks again; the
    /// others take what it hears.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn refresh(&self) -> Result<Head, StoreError> {
        let before = self.asked.load(Ordering::SeqCst);
        let mut refreshing = self.refreshing.lock().await;
        // Begun after this call, so it says what this one would.
        if refreshing.last.0 > before {
            return refreshing.last.1.clone();
        }
        let this = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let said = self.ask_twice(&mut refreshing.opened).await;
        self.note_tampering(&said);
        refreshing.last = (this, said.clone());
        said
    }

    /// The same when the next publication is due: whatever revocations it finds have waited for
    /// that.
    ///
    /// # Errors
    /// As [`Publisher::refresh`].
    pub async fn follow(&self) -> Result<Head, StoreError> {
        // One at a time, or each would publish a little more than the one before.
        let _turn = self.publishing.lock().await;
        self.pace().await;
        self.refresh().await
    }

    /// Asks the database for a caller that presents an unknown token, and publishes what is new.
    /// Callers may present such tokens at will, so all of them together cause one query in 20 ms,
    /// and no publication before the next one is due.
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

    /// Asks the database. Once it has lost records of workers, an incident tells every replica that
    /// receipts may lack some.
    async fn ask_twice(&self, opened: &mut Opened) -> Result<Head, StoreError> {
        let head = self.ask(opened).await?;
        // What was asked first may have been restored meanwhile, and an incident with it.
        if !head.lost_records {
            return Ok(head);
        }
        let present = self.store.head().await?;
        if !present.lost_records {
            return Ok(head);
        }
        let now_ms = self.clock.now_ms();
        tracing::error!(
            "incident: the database lost records of workers; receipts are unknown for a while"
        );
        self.store
            .commit(
                &lost_records(WORKERS, present.incident.as_ref(), now_ms),
                self.unused_version(now_ms),
            )
            .await?;
        self.ask(opened).await
    }

    /// Returns the version of a change made at this time. After a restored backup none comes back
    /// that this replica has published with other content.
    fn unused_version(&self, now_ms: u64) -> u64 {
        now_ms.max(self.current.load().version().saturating_add(1))
    }

    async fn ask(&self, opened: &mut Opened) -> Result<Head, StoreError> {
        let (asked_ms, asked) = (self.clock.steady_ms(), self.clock.now());
        let mut head = match self.store.head().await {
            // The state row is wrong: a look at all rows names the others, once.
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
                // What was lost may have been restored, which is an incident: no receipt may miss
                // it.
                head = self.store.head().await?;
                self.note_incident(&head);
            }
            if persisted.version == self.current.load().version() {
                self.confirmed_ms.store(asked_ms, Ordering::Relaxed);
                self.vouched.store(asked, Ordering::Relaxed);
                return Ok(head);
            }
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

    /// Loads what the database holds; `is_due` to read and prove every row. Whatever it lost and
    /// this replica remembers is restored first.
    async fn load_whole(&self, is_due: bool) -> Result<Persisted, StoreError> {
        let memory = self.current.load().memory.clone();
        for _ in 0..MAX_RESTORATIONS {
            let loaded = if is_due {
                self.store.load().await?
            } else {
                self.store.load_changes().await?
            };
            let now_ms = self.clock.now_ms();
            let Some(loss) = Loss::between(&memory, &loaded, now_ms / 1_000) else {
                return Ok(loaded);
            };
            tracing::error!(
                reason = loss.reason(&memory, &loaded),
                "incident: the database lost state"
            );
            let mut change = loss.restoration(&memory, &loaded, now_ms);
            match self.store.commit(&change, now_ms).await {
                Ok(_) | Err(StoreError::Conflict) => {}
                Err(StoreError::Full(full)) => {
                    tracing::error!(%full, "incident: every token issued so far is revoked, since the lost ones do not fit");
                    (change.revoke, change.epochs) =
                        (Vec::new(), vec![epoch_of_all(now_ms / 1_000)]);
                    self.store.commit(&change, now_ms).await?;
                    return self.store.load().await;
                }
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Unavailable("keeps losing state".into()))
    }

    /// Declares an incident: state was lost that no replica remembers. Every token issued so far is
    /// revoked, token indices jump past all that may have been leased, and the version rises past
    /// the lost ones.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn declare_incident(&self, reason: String, lost: &[u64]) -> Result<u64, StoreError> {
        let now_ms = self.clock.now_ms();
        tracing::error!(
            reason,
            "incident: every token issued so far is revoked, and every key that signed them"
        );
        for _ in 0..MAX_RESTORATIONS {
            let published = self.current();
            let change = unproven(reason.clone(), lost, now_ms, &published.keys);
            match self
                .commit(&Change {
                    expected_version: Some(published.version()),
                    ..change
                })
                .await
            {
                Err(StoreError::Conflict) => self.refresh().await?,
                declared => return declared,
            };
        }
        Err(StoreError::Conflict)
    }

    fn note_tampering(&self, said: &Result<Head, StoreError>) {
        match said {
            Err(StoreError::Tampered(rows)) => {
                // The first finding names most; later looks end at the state row.
                if self.tampered.load().is_none() {
                    tracing::error!(
                        rows,
                        "database rows were changed without the master key; publishing and minting stopped"
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

    /// Makes a change and publishes it.
    ///
    /// # Errors
    /// [`StoreError`]; when it is [`StoreError::Unavailable`] the change may or may not have been
    /// made.
    pub async fn commit(&self, change: &Change) -> Result<u64, StoreError> {
        let now_ms = || self.unused_version(self.clock.now_ms());
        let version = if change.only_revokes() {
            let revocations = Revocations {
                store: &*self.store,
                now_ms,
            };
            self.group.join(&revocations, change.clone()).await?
        } else {
            self.store.commit(change, now_ms()).await?
        };
        if !change.keys.is_empty() {
            self.refresh().await?;
            return Ok(version);
        }
        // Whoever publishes next may take this change along.
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

    /// Returns whether the state is too old for any proxy to use.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        !self.is_fresh()
            && self.clock.now()
                >= self
                    .vouched
                    .load(Ordering::Relaxed)
                    .saturating_add(self.not_after_s)
    }

    /// Issue time of a bundle given now. While the database is away or rows are tampered with, it
    /// stands still, so that no bundle vouches for more than the database confirmed.
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

    /// Returns the bundle that leads from this base to what is published.
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

    /// Returns whether a version needs no action: what is published includes it, or has replaced it
    /// and its loss un-revokes no token.
    #[must_use]
    pub fn accounts_for(&self, version: u64) -> bool {
        let published = self.current.load();
        let is_past = || {
            version < published.version()
                && is_harmless(&published.memory, version, self.clock.now_ms())
        };
        published.memory.follows(version) || is_past()
    }

    /// Accounts for a version that a proxy has proved and that this replica does not know. Another
    /// replica may have published it, or may remember and restore it. Otherwise the database lost
    /// it, and this replica declares an incident, at most once a minute. Returns whether it did.
    ///
    /// # Errors
    /// [`SyncError::Ahead`] for a version that cannot have been published yet, and for lost ones
    /// more often than once a minute; [`SyncError::Store`].
    pub async fn catch_up(&self, have: u64) -> Result<bool, SyncError> {
        // No replica can have published that, so the database need not be asked.
        if have > self.clock.now_ms().saturating_add(CLOCK_SPREAD_MS) {
            return Err(SyncError::Ahead);
        }
        self.refresh().await?;
        if self.accounts_for(have) {
            return Ok(false);
        }
        if have >= self.clock.now_ms()
            || self.clock.steady_ms() < self.catch_up_ms.load(Ordering::Relaxed)
        {
            return Err(SyncError::Ahead);
        }
        let mut versions = self.versions();
        let _explained = timeout(
            EXPLAIN_PATIENCE,
            versions.wait_for(|_| self.accounts_for(have)),
        )
        .await
        .is_ok();
        let _one = self.catching_up.lock().await;
        self.refresh().await?;
        if self.accounts_for(have) {
            return Ok(false);
        }
        let (now_ms, steady_ms) = (self.clock.now_ms(), self.clock.steady_ms());
        if steady_ms < self.catch_up_ms.load(Ordering::Relaxed) {
            return Err(SyncError::Ahead);
        }
        let published = self.current();
        let covered = is_harmless(&published.memory, have, now_ms);
        if covered {
            tracing::warn!(
                have,
                "the database lost a version; no token of that time is accepted"
            );
            self.commit(&Change {
                above: have,
                ..Change::default()
            })
            .await?;
        } else {
            let reason = format!(
                "a proxy proved version {have}, which the database lost (it holds {}); every token issued before is revoked, and \
                 every key that signed them; \
                 a bundle key that was revoked in the lost state must be revoked again",
                published.version()
            );
            self.declare_incident(reason, &[have]).await?;
        }
        self.catch_up_ms.store(
            steady_ms.saturating_add(CATCH_UP_EVERY_MS),
            Ordering::Relaxed,
        );
        Ok(!covered)
    }

    fn lock_answers(&self) -> std::sync::MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
