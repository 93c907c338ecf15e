//! The invariants of a history.
//!
//! 1. After a complete receipt no worker accepts the token. Until then, receipts list each worker
//!    that may still accept it.
//! 2. An acknowledged revocation stays in effect until the last affected token has expired, in each
//!    later bundle and in each worker that has received it.
//! 3. A worker with a current bundle rejects no valid token, unless a declared incident covers the
//!    token.
//! 4. No token index, `jti` or key id is used twice.
//! 5. A key signs only if each counted worker, and each reader of `/jwks` within `max-age`, holds
//!    it, unless the rotation was forced.
//! 6. No worker's version falls, and no replica contradicts an acknowledgement of another one.

use anyhow::{Result, bail};
use meshseal_issuer::keys::{KeyState, Purpose};
use serde_json::Value;

use super::replica::Replica;
use super::steps::field;
use super::truth::{LEEWAY_S, says_revoked};
use super::worker::{NOT_AFTER_S, Worker};
use super::world::World;

/// Longest time for which a worker uses a bundle: its not-after, and the clock skew of both sides.
pub(super) const LONGEST_BUNDLE_S: u64 = NOT_AFTER_S + 2 * LEEWAY_S;

/// Seconds by which the clock of a worker may be behind the issuer's: `clockSkew` by default.
const SKEW_S: u64 = 30;

/// Seconds after which a replica that may mint has followed the database: more than the five
/// seconds for which its state counts as fresh.
const FOLLOWS_AFTER_S: u64 = 6;

/// Returns whether a receipt lists a worker.
fn lists(receipt: &Value, worker: &Worker) -> bool {
    let id = format!("{:016x}", worker.counted_as());
    let listed = field(receipt, "waiting_for").as_array();
    listed
        .into_iter()
        .flatten()
        .any(|entry| *field(entry, "worker") == *id)
}

impl World {
    /// Returns the highest version that a running replica publishes.
    pub(super) fn newest_version(&self) -> Option<u64> {
        self.replicas.iter().filter_map(Replica::version).max()
    }

    /// Checks invariants 4 and 5 for a token that replica `at` has just issued.
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
        // A replica that has not followed yet may sign with the revoked key. Its tokens are revoked
        // with the key.
        let has_followed = self.now >= self.acknowledged_at.saturating_add(FOLLOWS_AFTER_S);
        if self.truth.acknowledged_keys.contains(kid) && has_followed && !self.truth.is_unsure() {
            bail!("invariant 2: revoked key {kid} signs");
        }
        // Invariant 4 for key ids.
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
        // Invariant 5: each reader of `/jwks` and each counted worker holds the key.
        for reader in self
            .truth
            .readers
            .iter()
            .filter(|reader| reader.until > now)
        {
            if !reader.kids.contains(kid) {
                bail!(
                    "invariant 5: {kid} signs unforced, and a reader of /jwks keeps a set \
                     without it until {}",
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

    /// Checks invariants 1 to 3 for one worker and one token.
    pub(super) fn check_pair(&mut self, at: usize, position: usize) -> Result<()> {
        let (now, newest) = (self.now, self.newest_version());
        let (Some(worker), Some(token)) = (self.workers.get(at), self.truth.tokens.get(position))
        else {
            return Ok(());
        };
        if !token.is_alive(now) || !worker.may_accept(now) {
            return Ok(());
        }

        // INVARIANT: a worker that has rejected a token as revoked never accepts it again.
        let heard = (worker.id, position);
        match worker.decide(&token.text, now) {
            Ok(())
                if token.complete && !self.truth.is_unsure() && !self.may_be_unlisted(worker) =>
            {
                bail!("invariant 1: worker {at} accepts token {position} after a complete receipt")
            }
            Ok(()) if self.truth.heard.contains(&heard) => {
                bail!(
                    "invariant 2: worker {at} accepts token {position} again, \
                     which it has rejected as revoked"
                )
            }
            Ok(()) => {}
            Err(rejection) => {
                // Only a worker with a current bundle and a right clock must accept the token.
                let current = worker.trust().bundle_version() >= newest && newest.is_some();
                let good = token.revoked_at.is_none() && !token.covered && now < token.expires_at;
                let time = worker.time(now);
                let in_time =
                    time < token.expires_at && time.saturating_add(SKEW_S) >= token.issued_at;
                // A replica that starts on a restored backup serves its content until one that
                // remembers more has looked at the database, within the next second.
                let settled = now > self.truth.restored_at;
                if current && good && in_time && settled {
                    bail!(
                        "invariant 3: worker {at} has a current bundle and \
                         rejects token {position}: {rejection}"
                    );
                }
                if says_revoked(rejection) {
                    self.truth.heard.insert(heard);
                }
            }
        }
        Ok(())
    }

    /// Checks invariants 1, 2, 3 and 6 for a worker that accepted a bundle.
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

    /// Checks invariants 1 to 3 for all revoked tokens, after an acknowledgement.
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

    /// Checks invariant 1 for a receipt: its statements about workers are true now.
    pub(super) fn check_receipt(&mut self, position: usize, receipt: &Value) -> Result<()> {
        let now = self.now;
        let complete = *field(receipt, "complete") == Value::Bool(true);
        if complete {
            self.complete += 1;
        }

        // A replica cannot know workers whose records were lost.
        let can_know = !self.truth.is_unsure() && now >= self.truth.unlisted_until;
        let Some(token) = self.truth.tokens.get_mut(position) else {
            return Ok(());
        };
        token.complete |= complete && can_know;
        let Some(token) = self.truth.tokens.get(position) else {
            return Ok(());
        };

        // A receipt of unknown completeness may omit workers.
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
            if accepts && knows && !lists(receipt, worker) {
                bail!(
                    "invariant 1: worker {at} accepts token {position}, and \
                     the receipt does not list it: {receipt}"
                );
            }
        }
        Ok(())
    }

    /// Checks invariant 1 for the worker list of replica `at`: it contains each worker that uses a
    /// bundle, with a version that the worker has.
    pub(super) async fn check_listing(&self, at: usize) -> Result<()> {
        let Some(issuer) = self.replicas.get(at).and_then(|replica| replica.issuer()) else {
            return Ok(());
        };
        if self.truth.is_unsure() || self.now < self.truth.unlisted_until {
            return Ok(());
        }

        // A replica that cannot read all records says so, and is not checked.
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
                    "invariant 1: worker {position} uses a bundle, and \
                     replica {at} does not list it"
                );
            };
            if Some(listed.record.version) > worker.trust().bundle_version() {
                bail!(
                    "invariant 1: replica {at} lists worker {position} with version {}, \
                     which it does not have",
                    listed.record.version
                );
            }
        }
        Ok(())
    }

    /// Checks invariant 5 for bundle keys: each worker that uses a bundle pins a key that begins to
    /// sign.
    fn check_bundle_key(&mut self) -> Result<()> {
        if self.truth.is_unsure() || self.now < self.truth.unlisted_until {
            return Ok(());
        }
        let newest = self
            .replicas
            .iter()
            .filter_map(|replica| replica.issuer())
            .map(|issuer| issuer.publisher.current());
        // The only running replica may be one that does not follow: it proves nothing.
        let seen = self.truth.newest;
        let newest = newest
            .max_by_key(|published| published.version())
            .filter(|newest| newest.version() >= seen);
        let Some(kid) = newest.and_then(|newest| {
            newest
                .keys
                .iter()
                .find(|key| key.purpose == Purpose::Bundle && key.state == KeyState::Active)
                .map(|key| key.kid.clone())
        }) else {
            return Ok(());
        };
        let before = self.bundle_kid.replace(kid.clone());
        if before.is_none_or(|before| before == kid) {
            return Ok(());
        }
        let now = self.now;
        // The issuer does not know a worker that uses the bundle of another one, nor its pins.
        let position = self.workers.iter().position(|worker| {
            worker.may_accept(now)
                && worker.counted_as() == worker.id
                && !worker.pins(&kid)
                && !self.is_forgotten(worker.counted_as())
        });
        match position {
            Some(position) => {
                bail!("invariant 5: bundle key {kid} signs, and worker {position} does not pin it")
            }
            None => Ok(()),
        }
    }

    /// Returns whether replicas may miss a worker: the record of a worker that serves stale may be
    /// lost forever, and an operator may have declared the worker gone.
    fn may_be_unlisted(&self, worker: &Worker) -> bool {
        let is_lost = worker.serves_stale() && worker.given_at <= self.truth.restored_at;
        is_lost || self.is_forgotten(worker.counted_as())
    }

    /// Checks invariants 2 and 6 for the bundles of replicas: a worker that starts now with a full
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
            // In every second history each replica follows at once, so that this check covers the
            // content of the database. In the others the replica must have followed by itself.
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

    /// Settles the losses of restored backups: a loss is settled once all replicas that remember it
    /// have written it back, or have ended before.
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
            // Any of them may be the only one that knows the record of a worker.
            lost.is_proven = lost
                .provers
                .iter()
                .all(|prover| version(prover) > Some(lost.version));
            unproven |= lost.provers.is_empty();
        }

        // Drop the settled losses.
        let outstanding = self.truth.lost.len();
        self.truth
            .lost
            .retain(|lost| !lost.is_proven && !lost.provers.is_empty());
        if self.truth.lost.len() < outstanding {
            // The other replicas have yet to follow the restored state, and an incident that tells
            // them of lost records.
            self.acknowledged_at = self.now;
            let followed_at = self.now.saturating_add(FOLLOWS_AFTER_S);
            self.truth.unlisted_until = self.truth.unlisted_until.max(followed_at);
        }
        if has_ended {
            self.truth.unlisted_until = self.now.saturating_add(LONGEST_BUNDLE_S);
        }
        if unproven {
            self.truth.blind = true;
            // Keys may be lost forever, too.
            self.truth.may_cover(|_, _| true);
            self.truth.unlisted_until = self.now.saturating_add(LONGEST_BUNDLE_S);
        }
    }

    /// Returns the full bundle of replica `at`; `None` without an answer of 200.
    pub(super) async fn full_bundle(&self, at: usize) -> Result<Option<String>> {
        let Some(replica) = self.replicas.get(at) else {
            return Ok(None);
        };
        let answer = replica.get("/bundle").await?;
        Ok(answer
            .filter(|answer| answer.status == 200)
            .map(|answer| answer.text))
    }

    /// Checks invariant 2 for a full bundle of replica `at`.
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
