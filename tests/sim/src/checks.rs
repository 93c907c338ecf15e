//! The invariants of a history.
//!
//! 1. After a complete receipt no worker accepts the token, and each worker that may still accept
//!    it is listed until it cannot.
//! 2. An acknowledged revocation stays in force until the last affected token has expired, in each
//!    later bundle and in each worker that has heard of it.
//! 3. A worker with a current bundle rejects no good token, unless a declared incident covers the
//!    token.
//! 4. No token index, `jti` or key id is used twice.
//! 5. No unforced signature by a key that a counted worker, or a reader of `/jwks` within
//!    `max-age`, does not hold.
//! 6. No worker's version falls, and what one replica acknowledged no other contradicts.

use anyhow::{Result, bail};
use meshseal_issuer::keys::{KeyRecord, KeyState, Purpose};
use serde_json::Value;

use super::steps::field;
use super::truth::{LEEWAY_S, says_revoked};
use super::worker::{NOT_AFTER_S, Worker};
use super::world::World;

/// Longest time for which a worker acts on a bundle: its not-after, and both leeways.
pub(super) const LONGEST_BUNDLE_S: u64 = NOT_AFTER_S + 2 * LEEWAY_S;

/// Seconds by which the clock of a worker may be behind the issuer's: `clockSkew` by default.
const SKEW_S: u64 = 30;

/// Seconds after which a replica that may mint has followed: past the five for which it vouches
/// alone.
const FOLLOWS_AFTER_S: u64 = 6;

impl World {
    /// Returns the highest version that a running replica publishes.
    pub(super) fn newest_version(&self) -> Option<u64> {
        let issuers = self.replicas.iter().filter_map(|replica| replica.issuer());
        issuers
            .map(|issuer| issuer.publisher.current().version())
            .max()
    }

    /// Invariants 4 and 5 for a token that replica `at` has just issued.
    pub(super) fn check_new_token(
        &mut self,
        at: usize,
        kid: &str,
        jti: String,
        index: u64,
    ) -> Result<()> {
        if !self.truth.indices.insert(index) {
            bail!("invariant 4: index {index} is used twice");
        }
        if !self.truth.jtis.insert(jti) {
            bail!("invariant 4: a jti is used twice");
        }
        // Who has not followed yet signs with it for a moment, and the token is revoked, too.
        let has_followed = self.now >= self.acknowledged_at.saturating_add(FOLLOWS_AFTER_S);
        if self.truth.acknowledged_keys.contains(kid) && has_followed && !self.truth.is_unsure() {
            bail!("invariant 2: revoked key {kid} signs");
        }
        let published = self
            .replicas
            .get(at)
            .and_then(|replica| replica.issuer())
            .map(|issuer| issuer.publisher.current());
        let is_new = !self.truth.keys.contains_key(kid);
        let record = published
            .as_ref()
            .and_then(|published| published.keys.iter().find(|key| key.kid == kid));
        if let Some(record) = record
            && let Some(known) = self
                .truth
                .keys
                .insert(kid.to_owned(), record.public_jwk.clone())
            && known != record.public_jwk
        {
            bail!("invariant 4: key id {kid} names two keys");
        }
        if is_new && std::mem::take(&mut self.truth.unknown_rotation) {
            self.truth.forced.insert(kid.to_owned());
        }
        let now = self.now;
        if self.truth.blind || now < self.truth.unlisted_until || self.truth.forced.contains(kid) {
            return Ok(());
        }
        for reader in self
            .truth
            .readers
            .iter()
            .filter(|reader| reader.until > now)
        {
            if !reader.kids.contains(kid) {
                bail!(
                    "invariant 5: {kid} signs unforced, and a reader of /jwks keeps a set without it until {}",
                    reader.until
                );
            }
        }
        for (position, worker) in
            self.workers.iter().enumerate().filter(|(_, worker)| {
                worker.may_accept(now) && !self.is_forgotten(worker.counted_as())
            })
        {
            let holds = worker.trust().keys().any(|key| key.kid() == Some(kid));
            if !holds {
                bail!("invariant 5: {kid} signs unforced, and worker {position} does not hold it");
            }
        }
        Ok(())
    }

    /// Invariants 1 to 3 for one worker and one token.
    pub(super) fn check_pair(&mut self, at: usize, position: usize) -> Result<()> {
        let (now, newest) = (self.now, self.newest_version());
        let (Some(worker), Some(token)) = (self.workers.get(at), self.truth.tokens.get(position))
        else {
            return Ok(());
        };
        if !token.is_alive(now) || !worker.may_accept(now) {
            return Ok(());
        }
        let heard = (worker.id, position);
        match worker.decide(&token.text, now) {
            Ok(())
                if token.complete && !self.truth.is_unsure() && !self.may_be_unlisted(worker) =>
            {
                bail!("invariant 1: worker {at} accepts token {position} after a complete receipt")
            }
            Ok(()) if self.truth.heard.contains(&heard) => {
                bail!(
                    "invariant 2: worker {at} accepts token {position} again, which it has rejected as revoked"
                )
            }
            Ok(()) => {}
            Err(rejection) => {
                let current = worker.trust().bundle_version() >= newest && newest.is_some();
                let good = token.revoked_at.is_none() && !token.covered && now < token.expires_at;
                let time = worker.time(now);
                let in_time =
                    time < token.expires_at && time.saturating_add(SKEW_S) >= token.issued_at;
                if current && good && in_time {
                    bail!(
                        "invariant 3: worker {at} has a current bundle and rejects token {position}: {rejection}"
                    );
                }
                if says_revoked(rejection) {
                    self.truth.heard.insert(heard);
                }
            }
        }
        Ok(())
    }

    /// Invariants 1, 2, 3 and 6 for a worker that took over a bundle.
    pub(super) fn check_worker(&mut self, at: usize, before: Option<u64>) -> Result<()> {
        if self
            .workers
            .get(at)
            .is_some_and(|worker| worker.trust().bundle_version() < before)
        {
            bail!("invariant 6: the version of worker {at} falls");
        }
        for position in 0..self.truth.tokens.len() {
            self.check_pair(at, position)?;
        }
        Ok(())
    }

    /// Notes which workers have heard of revocations, after one was acknowledged.
    pub(super) fn check_revoked(&mut self) -> Result<()> {
        for position in 0..self.truth.tokens.len() {
            if self
                .truth
                .tokens
                .get(position)
                .is_some_and(|token| token.revoked_at.is_some())
            {
                for at in 0..self.workers.len() {
                    self.check_pair(at, position)?;
                }
            }
        }
        Ok(())
    }

    /// Invariant 1 for a receipt: what it says about workers is true now.
    pub(super) fn check_receipt(&mut self, position: usize, receipt: &Value) -> Result<()> {
        let now = self.now;
        let complete = *field(receipt, "complete") == Value::Bool(true);
        if complete {
            self.complete += 1;
        }
        let can_know = !self.truth.is_unsure() && now >= self.truth.unlisted_until;
        let Some(token) = self.truth.tokens.get_mut(position) else {
            return Ok(());
        };
        token.complete |= complete && can_know;
        let Some(token) = self.truth.tokens.get(position) else {
            return Ok(());
        };
        let listed = |worker: &Worker| {
            let id = format!("{:016x}", worker.counted_as());
            field(receipt, "waiting_for")
                .as_array()
                .into_iter()
                .flatten()
                .any(|entry| *field(entry, "worker") == *id)
        };
        let knows = *field(receipt, "state") != *"unknown" && can_know;
        for (at, worker) in self.workers.iter().enumerate() {
            let counts =
                token.is_alive(now) && worker.may_accept(now) && !self.may_be_unlisted(worker);
            let accepts = counts && worker.decide(&token.text, now).is_ok();
            if accepts && complete && can_know {
                bail!(
                    "invariant 1: the receipt is complete, and worker {at} accepts token {position}"
                );
            }
            if accepts && knows && !listed(worker) {
                bail!(
                    "invariant 1: worker {at} accepts token {position}, and the receipt does not list it: {receipt}"
                );
            }
        }
        Ok(())
    }

    /// Invariant 1 for what replica `at` knows of workers: each that goes on by a bundle is listed,
    /// with no more than it has.
    pub(super) async fn check_listing(&self, at: usize) -> Result<()> {
        let Some(issuer) = self.replicas.get(at).and_then(|replica| replica.issuer()) else {
            return Ok(());
        };
        if self.truth.is_unsure() || self.now < self.truth.unlisted_until {
            return Ok(());
        }
        let live = issuer.live_proxies().await;
        if !live.all_known {
            return Ok(());
        }
        for (position, worker) in self
            .workers
            .iter()
            .enumerate()
            .filter(|(_, worker)| worker.may_accept(self.now))
        {
            if self.may_be_unlisted(worker) {
                continue;
            }
            let id = format!("{:016x}", worker.counted_as());
            let Some(listed) = live
                .proxies
                .iter()
                .find(|counted| counted.record.worker == id)
            else {
                bail!(
                    "invariant 1: worker {position} goes on by a bundle, and replica {at} does not list it"
                );
            };
            if Some(listed.record.version) > worker.trust().bundle_version() {
                bail!(
                    "invariant 1: replica {at} lists worker {position} with version {}, which it does not have",
                    listed.record.version
                );
            }
        }
        Ok(())
    }

    /// Invariant 5 for bundle keys: one that begins to sign is pinned by each worker that goes on
    /// by a bundle.
    fn check_bundle_key(&mut self) -> Result<()> {
        if self.truth.is_unsure() || self.now < self.truth.unlisted_until {
            return Ok(());
        }
        let signer =
            |key: &KeyRecord| key.purpose == Purpose::Bundle && key.state == KeyState::Active;
        let newest = self
            .replicas
            .iter()
            .filter_map(|replica| replica.issuer())
            .map(|issuer| issuer.publisher.current());
        // A replica that does not follow may be the only one that runs.
        let seen = self.truth.newest;
        let newest = newest
            .max_by_key(|published| published.version())
            .filter(|newest| newest.version() >= seen);
        let Some(kid) = newest.and_then(|newest| {
            newest
                .keys
                .iter()
                .find(|key| signer(key))
                .map(|key| key.kid.clone())
        }) else {
            return Ok(());
        };
        let before = self.bundle_kid.replace(kid.clone());
        if before.is_none_or(|before| before == kid) {
            return Ok(());
        }
        let now = self.now;
        // One that acts on the bundle of another one is not known yet, and neither are its pins.
        let lacks = |worker: &Worker| {
            worker.may_accept(now)
                && worker.counted_as() == worker.id
                && !worker.pins(&kid)
                && !self.is_forgotten(worker.counted_as())
        };
        match self.workers.iter().position(lacks) {
            Some(position) => {
                bail!("invariant 5: bundle key {kid} signs, and worker {position} does not pin it")
            }
            None => Ok(()),
        }
    }

    /// Returns whether no replica may count a worker: the record of one that serves stale may be
    /// lost for good, and an operator may have declared it gone.
    fn may_be_unlisted(&self, worker: &Worker) -> bool {
        let is_lost = worker.serves_stale() && worker.given_at <= self.truth.restored_at;
        is_lost || self.is_forgotten(worker.counted_as())
    }

    /// Invariants 2 and 6 for what replicas publish: a worker that starts now and gets a full
    /// bundle rejects each token whose revocation was acknowledged.
    pub(super) async fn check_replicas(&mut self) -> Result<()> {
        self.truth.newest = self.truth.newest.max(self.newest_version().unwrap_or(0));
        self.look_at_loss();
        self.check_bundle_key()?;
        self.check_staleness()?;
        for at in 0..self.replicas.len() {
            let Some(issuer) = self.replicas.get(at).and_then(|replica| replica.issuer()) else {
                continue;
            };
            let seen = (issuer.publisher.current().version(), self.acknowledged);
            let remembers = self
                .truth
                .lost
                .iter()
                .all(|lost| lost.provers.iter().any(|(prover, _)| *prover == at));
            if self.truth.blind
                || !remembers
                || self.observed.get(at) == Some(&seen)
                || !self.database.is_well()
            {
                continue;
            }
            // In every second history each replica follows at once, so that what the database holds
            // is seen; in the others it must have followed by itself.
            if self.follows_at_once {
                if issuer.publisher.refresh().await.is_err() {
                    continue;
                }
            } else if !issuer.publisher.is_fresh()
                || self.now < self.acknowledged_at.saturating_add(FOLLOWS_AFTER_S)
            {
                continue;
            }
            let Ok(Some(text)) = self.full_bundle(at).await else {
                continue;
            };
            self.check_bundle(at, &text)?;
            if let Some(observed) = self.observed.get_mut(at) {
                *observed = seen;
            }
        }
        Ok(())
    }

    /// Whether replicas that remember what restored backups lack have looked, or have all ended
    /// before.
    fn look_at_loss(&mut self) {
        let version = |(at, start): &(usize, usize)| {
            let replica = self
                .replicas
                .get(*at)
                .filter(|replica| replica.starts == *start);
            replica
                .and_then(|replica| replica.issuer())
                .map(|issuer| issuer.publisher.current().version())
        };
        let (mut unproven, mut has_ended) = (false, false);
        for lost in &mut self.truth.lost {
            let before = lost.provers.len();
            lost.provers.retain(|prover| version(prover).is_some());
            has_ended |= lost.provers.len() < before;
            // Each may be the only one that knows of a worker's record.
            lost.is_proven = lost
                .provers
                .iter()
                .all(|prover| version(prover) > Some(lost.version));
            unproven |= lost.provers.is_empty();
        }
        let outstanding = self.truth.lost.len();
        self.truth
            .lost
            .retain(|lost| !lost.is_proven && !lost.provers.is_empty());
        if self.truth.lost.len() < outstanding {
            // What was restored has yet to be followed.
            self.acknowledged_at = self.now;
            // So has an incident that tells the other replicas of lost records.
            let followed_at = self.now.saturating_add(FOLLOWS_AFTER_S);
            self.truth.unlisted_until = self.truth.unlisted_until.max(followed_at);
        }
        if has_ended {
            self.truth.unlisted_until = self.now.saturating_add(LONGEST_BUNDLE_S);
        }
        if unproven {
            self.truth.blind = true;
            // Keys may be lost for good, too.
            self.truth.may_cover(|_, _| true);
            self.truth.unlisted_until = self.now.saturating_add(LONGEST_BUNDLE_S);
        }
    }

    pub(super) async fn full_bundle(&self, at: usize) -> Result<Option<String>> {
        let Some(replica) = self.replicas.get(at) else {
            return Ok(None);
        };
        let answer = replica.get("/bundle").await?;
        Ok(answer
            .filter(|answer| answer.status == 200)
            .map(|answer| answer.text))
    }

    fn check_bundle(&self, at: usize, text: &str) -> Result<()> {
        let Some(replica) = self.replicas.get(at) else {
            return Ok(());
        };
        let mut observer = self.new_worker(replica)?;
        if observer.accept_bundle(text, self.now).is_err() {
            return Ok(());
        }
        for (position, token) in self.truth.tokens.iter().enumerate() {
            if token.revoked_at.is_none() || !token.is_alive(self.now) {
                continue;
            }
            let verdict = observer.decide(&token.text, self.now);
            if verdict.is_ok() {
                bail!(
                    "invariant 2: a bundle of replica {at} lacks the revocation of token {position}"
                );
            }
        }
        Ok(())
    }
}
