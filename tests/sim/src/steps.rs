//! What can happen in one step of a history.

use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result, anyhow};
use axum::body::Body;
use axum::http::Request;
use meshseal_core::base64url;
use meshseal_core::bundle::{PINS_HEADER, PROTOCOL_HEADER, STALENESS_HEADER};
use meshseal_core::revocation::index_of;
use meshseal_issuer::keys::{KeyState, Purpose};
use serde_json::Value;

use super::checks::LONGEST_BUNDLE_S;
use super::dice::Dice;
use super::replica::Answer;
use super::truth::{Lost, Reader, Token};
use super::worker::Worker;
use super::world::{CLIENTS, Kind, Message, OPERATOR, World, config, secret};

/// Most tokens that one history issues: more only cost time.
const MAX_TOKENS: usize = 24;

/// Seconds after the revocation of a group in which a replica may issue tokens that it covers:
/// those of clocks that are ahead, and of replicas that have not followed.
const GROUP_REACH_S: u64 = 12;

/// Seconds of true time between two rounds of background work while time passes.
const ROUND_S: u64 = 20;

/// One step.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// Time passes; replicas that run do their background work.
    Pass,
    /// More time passes than any back-off takes.
    PassLong,
    /// Background work of one replica.
    Background,
    /// A worker polls, and the answer arrives.
    Exchange,
    /// A worker polls; the message is under way.
    Poll,
    /// A message arrives, or is lost.
    Deliver,
    /// A client asks for a token.
    Mint,
    /// A client revokes one of its tokens, and wants a receipt.
    RevokeToken,
    /// An operator revokes all tokens of a client.
    RevokeClient,
    /// An operator revokes a signing key.
    RevokeKey,
    /// An operator asks for a rotation.
    Rotate,
    /// An operator asks for a rotation of the bundle key.
    RotateBundle,
    /// A worker starts again with the pins of the present bundle keys.
    Repin,
    /// A service reads `/jwks`.
    ReadKeys,
    /// Somebody who has a poll token polls in the name of a worker.
    Intrude,
    /// A worker's link breaks or heals.
    Cut,
    /// A worker's process ends and another begins.
    RestartWorker,
    /// Everything works again: database and links, and replicas that are down start.
    Heal,
    /// A replica crashes, or starts again.
    Crash,
    /// All replicas crash and start again.
    CrashAll,
    /// The database goes away or comes back.
    Away,
    /// The database takes no writes, or takes them again.
    Full,
    /// A replica's link to the database breaks or heals.
    Partition,
    /// Of the next change that a replica makes the answer is lost.
    LoseAnswer,
    /// A backup is taken.
    BackUp,
    /// A backup is restored.
    Restore,
    /// A replica's clock drifts by less than what replicas may differ.
    Drift,
    /// A replica's clock steps far away, or returns.
    JumpClock,
    /// A replica restarts with a shorter `tokens.maxLifetime`.
    LowerLifetime,
}

/// Steps that make a history go on, and faults.
const ORDINARY: [(Step, u32); 11] = [
    (Step::Pass, 20),
    (Step::PassLong, 2),
    (Step::Background, 10),
    (Step::Exchange, 30),
    (Step::Poll, 6),
    (Step::Deliver, 12),
    (Step::Mint, 12),
    (Step::RevokeToken, 6),
    (Step::Rotate, 2),
    (Step::ReadKeys, 2),
    (Step::Heal, 4),
];

const FAULTS: [(Step, u32); 18] = [
    (Step::Intrude, 4),
    (Step::RevokeClient, 3),
    (Step::RevokeKey, 1),
    (Step::Cut, 4),
    (Step::RestartWorker, 2),
    (Step::Crash, 3),
    (Step::CrashAll, 1),
    (Step::Away, 3),
    (Step::Full, 3),
    (Step::RotateBundle, 2),
    (Step::Repin, 6),
    (Step::Partition, 3),
    (Step::LoseAnswer, 3),
    (Step::BackUp, 3),
    (Step::Restore, 1),
    (Step::Drift, 2),
    (Step::JumpClock, 2),
    (Step::LowerLifetime, 1),
];

/// Draws the weights of a history: each fault is absent in every second one.
pub(super) fn weights(dice: &mut Dice) -> Vec<(u32, Step)> {
    let mut weights: Vec<(u32, Step)> = ORDINARY
        .iter()
        .map(|(step, weight)| (*weight, *step))
        .collect();
    for (step, weight) in FAULTS {
        if dice.chance(50) {
            let times = u32::try_from(dice.between(1, 4)).unwrap_or(1);
            weights.push((weight.saturating_mul(times), step));
        }
    }
    weights
}

impl World {
    /// Does a step and returns what came of it.
    pub(super) async fn take(&mut self, step: Step) -> Result<String> {
        match step {
            Step::Pass => self.pass_time(1, 6).await,
            Step::PassLong => self.pass_time(60, 900).await,
            Step::Background => self.background_of_one().await,
            Step::Exchange => self.exchange().await,
            Step::Poll => Ok(self
                .ask()
                .map_or_else(nothing, |at| format!("message {at}"))),
            Step::Deliver => self.deliver_any().await,
            Step::Mint => self.mint().await,
            Step::RevokeToken => self.revoke_token().await,
            Step::RevokeClient => self.revoke_client().await,
            Step::RevokeKey => self.revoke_key().await,
            Step::Rotate => self.rotate("token").await,
            Step::RotateBundle => self.rotate("bundle").await,
            Step::ReadKeys => self.read_keys().await,
            Step::Intrude => self.intrude().await,
            Step::Cut | Step::RestartWorker | Step::Repin => self.disturb_worker(step),
            Step::Heal => self.heal().await,
            Step::Crash => self.crash_or_start().await,
            Step::CrashAll => self.crash_all().await,
            Step::Away => self.toggle_away(),
            Step::Full => self.toggle_full(),
            Step::Partition | Step::LoseAnswer => Ok(self.disturb_link(step)),
            Step::BackUp => self.back_up().await,
            Step::Restore => self.restore().await,
            Step::Drift | Step::JumpClock => self.move_clock(step),
            Step::LowerLifetime => self.lower_lifetime().await,
        }
    }

    fn any_replica(&mut self) -> usize {
        self.dice.below(self.replicas.len())
    }

    fn any_worker(&mut self) -> usize {
        self.dice.below(self.workers.len())
    }

    async fn pass_time(&mut self, low: u64, high: u64) -> Result<String> {
        let seconds = self.dice.between(low, high);
        let mut left = seconds;
        while left > 0 {
            let part = left.min(ROUND_S);
            left -= part;
            self.pass(part);
            for replica in 0..self.replicas.len() {
                self.background(replica).await?;
                // Replicas look at each other's records twice a second.
                self.check_listing(replica).await?;
            }
        }
        Ok(format!("{seconds} s"))
    }

    async fn background_of_one(&mut self) -> Result<String> {
        let replica = self.any_replica();
        self.background(replica).await?;
        Ok(format!("replica {replica}"))
    }

    /// Background work of one replica; notes a key that began to sign without all confirmations and
    /// was counted so.
    async fn background(&mut self, at: usize) -> Result<()> {
        let Some(replica) = self.replicas.get(at) else {
            return Ok(());
        };
        let forced = |replica: &super::replica::Replica| {
            replica
                .issuer()
                .map_or(0, |issuer| issuer.metrics.forced_rotations.get())
        };
        let (before, loses_answer) = (
            forced(replica),
            replica.link.lose_answers.load(Ordering::SeqCst) > 0,
        );
        replica.follow().await;
        replica.work().await;
        if forced(replica) > before {
            self.note_forced(at, |state| state == KeyState::Active);
        }
        // A change that was made and not answered was not counted either.
        if loses_answer {
            self.note_forced(at, KeyState::may_sign);
        }
        Ok(())
    }

    /// Keys of replica `at` in these states may sign without all confirmations.
    fn note_forced(&mut self, at: usize, states: impl Fn(KeyState) -> bool) {
        let Some(issuer) = self.replicas.get(at).and_then(|replica| replica.issuer()) else {
            return;
        };
        let published = issuer.publisher.current();
        let may_sign = published
            .keys
            .iter()
            .filter(|key| key.purpose == Purpose::Token && states(key.state));
        self.truth
            .forced
            .extend(may_sign.map(|key| key.kid.clone()));
    }

    /// A worker polls. Returns the number of the message; `None` while its link is cut.
    fn ask(&mut self) -> Option<u64> {
        let worker = self.any_worker();
        self.ask_as(worker)
    }

    fn ask_as(&mut self, worker: usize) -> Option<u64> {
        let (id, replica) = (self.new_id(), self.any_replica());
        let asking = self.workers.get_mut(worker).filter(|asking| !asking.cut)?;
        asking.asked = Some(id);
        let kind = Kind::Poll {
            replica,
            headers: asking.poll_headers(),
            have: asking.trust().bundle_version(),
        };
        self.under_way.push(Message {
            id,
            worker,
            process: asking.id,
            kind,
        });
        Some(id)
    }

    async fn exchange(&mut self) -> Result<String> {
        let worker = self.any_worker();
        let Some(id) = self.ask_as(worker) else {
            return Ok(nothing());
        };
        let mut told = Vec::new();
        while let Some(at) = self.under_way.iter().position(|message| message.id == id) {
            told.push(self.deliver(at).await?);
        }
        Ok(told.join(", "))
    }

    async fn deliver_any(&mut self) -> Result<String> {
        if self.under_way.is_empty() {
            return Ok(nothing());
        }
        let at = self.dice.below(self.under_way.len());
        if self.dice.chance(20) {
            let lost = self.under_way.swap_remove(at);
            return Ok(format!("message {} is lost", lost.id));
        }
        self.deliver(at).await
    }

    /// The message at this position arrives.
    async fn deliver(&mut self, at: usize) -> Result<String> {
        let Message {
            id,
            worker,
            process,
            kind,
        } = self.under_way.swap_remove(at);
        let cut = self.workers.get(worker).is_none_or(|known| known.cut);
        if cut {
            return Ok(format!(
                "message {id} is lost: the link of worker {worker} is cut"
            ));
        }
        match kind {
            Kind::Poll {
                replica,
                headers,
                have,
            } => {
                let Some(answer) = self.poll(replica, &headers, have).await? else {
                    return Ok(format!("worker {worker}: replica {replica} is down"));
                };
                let told = format!(
                    "worker {worker} has {have:?}, replica {replica} answers {}",
                    answer.status
                );
                if answer.status == 200 {
                    self.under_way.push(Message {
                        id,
                        worker,
                        process,
                        kind: Kind::Bundle(answer.text),
                    });
                }
                Ok(told)
            }
            Kind::Bundle(text) => self.receive(worker, process, id, &text),
        }
    }

    /// A poll without proof, in either protocol, by which a worker would hold all that is
    /// published.
    async fn intrude(&mut self) -> Result<String> {
        let (worker, at) = (self.any_worker(), self.any_replica());
        let has_second_protocol = self.dice.chance(50);
        // Who polls before the worker does, or after its record was lost, is taken for it.
        let is_known = |victim: &&Worker| {
            victim.trust().bundle_version().is_some() && victim.given_at > self.truth.restored_at
        };
        let Some(victim) = self.workers.get(worker).filter(is_known) else {
            return Ok(nothing());
        };
        let mut headers = vec![
            ("x-meshseal-worker", format!("{:016x}", victim.id)),
            ("x-meshseal-node", "x".to_owned()),
        ];
        if has_second_protocol {
            let stated = [
                (PROTOCOL_HEADER, "2"),
                (STALENESS_HEADER, "1"),
                (PINS_HEADER, "x"),
            ];
            headers.extend(stated.map(|(name, value)| (name, value.to_owned())));
        }
        let newest = self.newest_version();
        let status = self
            .ask_for_bundle(at, &headers, newest)
            .await?
            .map(|answer| answer.status);
        Ok(format!(
            "in the name of worker {worker}, replica {at} answers {status:?}"
        ))
    }

    /// A worker polls replica `at`, and proves what it has.
    async fn poll(
        &mut self,
        at: usize,
        headers: &[(&'static str, String)],
        have: Option<u64>,
    ) -> Result<Option<Answer>> {
        let Some(replica) = self.replicas.get(at) else {
            return Ok(None);
        };
        let known = || {
            replica
                .issuer()
                .map_or(0, |issuer| issuer.publisher.current().version())
        };
        let before = known();
        // A replica that does not remember a lost version may declare an incident for its proof.
        let accounts = |have| {
            replica
                .issuer()
                .is_none_or(|issuer| issuer.publisher.accounts_for(have))
        };
        let is_lost = self.truth.is_unsure() && have.is_some_and(|have| !accounts(have));
        let answer = self.ask_for_bundle(at, headers, have).await?;
        if is_lost {
            self.truth.may_cover(|_, _| true);
        }
        // A worker has shown a version that the database has lost, and the issuer has acted on it.
        if self.truth.blind && have.is_some_and(|have| have > before && have < known()) {
            self.truth.blind = false;
            self.truth.unlisted_until = self.now.saturating_add(LONGEST_BUNDLE_S);
        }
        Ok(answer)
    }

    async fn ask_for_bundle(
        &self,
        at: usize,
        headers: &[(&'static str, String)],
        have: Option<u64>,
    ) -> Result<Option<Answer>> {
        let Some(replica) = self.replicas.get(at) else {
            return Ok(None);
        };
        let query = have.map_or(String::new(), |have| format!("?have={have}"));
        let mut request = Request::get(format!("/bundle{query}")).header("host", "issuer.example");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        replica.send(request.body(Body::empty())?).await
    }

    /// A bundle arrives at a worker, which drops what it does not wait for any more.
    fn receive(&mut self, worker: usize, process: u64, id: u64, text: &str) -> Result<String> {
        let now = self.now;
        let Some(receiver) = self.workers.get_mut(worker) else {
            return Ok(nothing());
        };
        if receiver.id != process || receiver.asked != Some(id) {
            return Ok(format!("worker {worker} no longer waits for message {id}"));
        }
        receiver.asked = None;
        let before = receiver.trust().bundle_version();
        let told = match receiver.accept_bundle(text, now) {
            Ok(_) => format!(
                "worker {worker} has {:?}",
                receiver.trust().bundle_version()
            ),
            Err(error) => format!("worker {worker} refuses the bundle: {error}"),
        };
        self.check_worker(worker, before)?;
        Ok(told)
    }

    async fn mint(&mut self) -> Result<String> {
        let (at, now) = (self.any_replica(), self.now);
        let client = CLIENTS
            .get(self.dice.below(CLIENTS.len()))
            .copied()
            .unwrap_or_default();
        if self.truth.tokens.len() >= MAX_TOKENS {
            return Ok(nothing());
        }
        let Some(replica) = self.replicas.get(at) else {
            return Ok(nothing());
        };
        let form = "grant_type=client_credentials&resource=orders".to_owned();
        let secret = secret(client);
        let Some(answer) = replica.post(client, &secret, "/token", form).await? else {
            return Ok(nothing());
        };
        if answer.status != 200 {
            return Ok(format!("replica {at} answers {}", answer.status));
        }
        let text = field(&answer.json(), "access_token")
            .as_str()
            .ok_or_else(|| anyhow!("no access_token"))?
            .to_owned();
        let (header, claims) = (part(&text, 0)?, part(&text, 1)?);
        let word = |value: &Value| {
            value
                .as_str()
                .map(ToOwned::to_owned)
                .ok_or_else(|| anyhow!("a claim is missing"))
        };
        let (kid, jti) = (word(field(&header, "kid"))?, word(field(&claims, "jti"))?);
        let expires_at = field(&claims, "exp")
            .as_u64()
            .ok_or_else(|| anyhow!("no exp"))?;
        let index = index_of(&jti).ok_or_else(|| anyhow!("jti without an index"))?;
        let (position, key) = (self.truth.tokens.len(), self.truth.key_place(&kid));
        let told =
            format!("replica {at} issues token {position} for {client}, index {index}, key {key}");
        self.check_new_token(at, &kid, jti, index)?;
        // Without a second clock a step that lasts is believed in the end, and a token is dated by
        // it.
        let misdated = !self.has_server
            && self
                .replicas
                .get(at)
                .is_some_and(|replica| replica.step_s != 0);
        // An incident that is declared later covers what was issued until then.
        let before_incident = self.truth.is_unsure();
        let in_group = self.truth.revoked_keys.contains(&kid) || now <= self.truth.groups_until;
        let covered = in_group || misdated || before_incident;
        let token = Token {
            text,
            kid,
            client: client.to_owned(),
            expires_at,
            revoked_at: None,
            complete: false,
            covered,
        };
        self.truth.tokens.push(token);
        let newest = self.truth.tokens.len().saturating_sub(1);
        for worker in 0..self.workers.len() {
            self.check_pair(worker, newest)?;
        }
        Ok(told)
    }

    async fn as_operator(&self, at: usize, path: &str, form: String) -> Result<Option<Answer>> {
        let Some(replica) = self.replicas.get(at) else {
            return Ok(None);
        };
        replica.post(OPERATOR, &secret(OPERATOR), path, form).await
    }

    async fn revoke_token(&mut self) -> Result<String> {
        let now = self.now;
        let living: Vec<usize> = self
            .truth
            .tokens
            .iter()
            .enumerate()
            .filter(|(_, token)| token.is_alive(now))
            .map(|(at, _)| at)
            .collect();
        let Some(token) = living.get(self.dice.below(living.len())).copied() else {
            return Ok(nothing());
        };
        let at = self.any_replica();
        let text = self
            .truth
            .tokens
            .get(token)
            .map(|token| token.text.clone())
            .unwrap_or_default();
        let Some(answer) = self
            .as_operator(at, "/revoke", format!("token={text}&wait=0"))
            .await?
        else {
            return Ok(nothing());
        };
        let receipt = answer.json();
        if answer.status != 200 || field(&receipt, "version").is_null() {
            self.truth.may_cover(|position, _| position == token);
            return Ok(format!(
                "replica {at} answers {} {}",
                answer.status, answer.text
            ));
        }
        self.truth.acknowledge(now, |position, _| position == token);
        self.acknowledged += 1;
        self.acknowledged_at = self.now;
        self.check_receipt(token, &receipt)?;
        self.check_revoked()?;
        Ok(format!(
            "replica {at}, token {token}: {} {}",
            field(&receipt, "state"),
            field(&receipt, "waiting_for")
        ))
    }

    async fn revoke_client(&mut self) -> Result<String> {
        let (at, now) = (self.any_replica(), self.now);
        let client = CLIENTS
            .get(self.dice.below(CLIENTS.len()))
            .copied()
            .unwrap_or_default();
        let form = if self.dice.chance(20) {
            "all=true".to_owned()
        } else {
            format!("client={client}")
        };
        let all = form.starts_with("all");
        self.truth.groups_until = now.saturating_add(GROUP_REACH_S);
        let Some(answer) = self.as_operator(at, "/revoke", form).await? else {
            return Ok(nothing());
        };
        if answer.status != 200 {
            self.truth
                .may_cover(|_, token| all || token.client == client);
            return Ok(format!("replica {at} answers {}", answer.status));
        }
        let count = self
            .truth
            .acknowledge(now, |_, token| all || token.client == client);
        self.acknowledged += 1;
        self.acknowledged_at = self.now;
        self.check_revoked()?;
        Ok(format!(
            "replica {at}, {}: {count} tokens",
            if all { "all" } else { client }
        ))
    }

    async fn revoke_key(&mut self) -> Result<String> {
        let (at, now) = (self.any_replica(), self.now);
        let Some(issuer) = self.replicas.get(at).and_then(|replica| replica.issuer()) else {
            return Ok(nothing());
        };
        let published = issuer.publisher.current();
        let keys: Vec<String> = published
            .keys
            .iter()
            .filter(|key| key.purpose == Purpose::Token && key.state != KeyState::Retired)
            .map(|key| key.kid.clone())
            .collect();
        let Some(kid) = keys.get(self.dice.below(keys.len())).cloned() else {
            return Ok(nothing());
        };
        // The standby takes over at once, confirmed or not: that is what an emergency means.
        self.note_forced(at, KeyState::may_sign);
        // A replica that has not followed yet signs with it for a moment, and its tokens are
        // revoked too.
        self.truth.revoked_keys.insert(kid.clone());
        let Some(answer) = self
            .as_operator(at, "/admin/keys/revoke", format!("kid={kid}"))
            .await?
        else {
            return Ok(nothing());
        };
        if answer.status != 200 {
            self.truth.may_cover(|_, token| token.kid == kid);
            self.truth.unknown_rotation = true;
            return Ok(format!("replica {at} answers {}", answer.status));
        }
        self.note_forced(at, KeyState::may_sign);
        self.truth.acknowledged_keys.insert(kid.clone());
        let count = self.truth.acknowledge(now, |_, token| token.kid == kid);
        self.acknowledged += 1;
        self.acknowledged_at = self.now;
        self.check_revoked()?;
        Ok(format!(
            "replica {at}, key {}: {count} tokens",
            self.truth.key_place(&kid)
        ))
    }

    async fn rotate(&mut self, purpose: &str) -> Result<String> {
        let at = self.any_replica();
        let answer = self
            .as_operator(at, "/admin/keys/rotate", format!("purpose={purpose}"))
            .await?;
        Ok(answer.map_or_else(nothing, |answer| {
            format!("replica {at} answers {}", answer.status)
        }))
    }

    async fn read_keys(&mut self) -> Result<String> {
        let at = self.any_replica();
        let Some(replica) = self.replicas.get(at) else {
            return Ok(nothing());
        };
        let Some(answer) = replica.get("/jwks").await? else {
            return Ok(nothing());
        };
        if answer.status != 200 {
            return Ok(format!("replica {at} answers {}", answer.status));
        }
        let keys = answer.json();
        let kids = field(&keys, "keys").as_array().into_iter().flatten();
        let kids = kids
            .filter_map(|key| field(key, "kid").as_str().map(ToOwned::to_owned))
            .collect();
        let until = self.now.saturating_add(answer.max_age_s.unwrap_or(0));
        self.truth.readers.push(Reader { kids, until });
        // For how long is drawn by the issuer, outside the seed.
        Ok(format!(
            "replica {at}, {} keys",
            field(&keys, "keys").as_array().map_or(0, Vec::len)
        ))
    }

    fn disturb_worker(&mut self, step: Step) -> Result<String> {
        let (at, id) = (self.any_worker(), self.new_id());
        let repinned = if matches!(step, Step::Repin) {
            self.draw_policy()?
        } else {
            None
        };
        let Some(worker) = self.workers.get_mut(at) else {
            return Ok(nothing());
        };
        if matches!(step, Step::Cut) {
            worker.cut = !worker.cut;
            return Ok(format!(
                "worker {at} {}",
                if worker.cut {
                    "is cut off"
                } else {
                    "is reachable"
                }
            ));
        }
        let policy = repinned.unwrap_or_else(|| worker.policy());
        worker.restart(id, policy);
        Ok(format!("worker {at} is process {id}"))
    }

    async fn start_replica(&mut self, at: usize) -> String {
        // A missing file would be made anew, which no server that is away does.
        if self.database.is_away() {
            return format!("replica {at} does not start: the database is away");
        }
        let Some(replica) = self.replicas.get_mut(at) else {
            return nothing();
        };
        match replica.start(&self.setting, &self.database).await {
            Ok(()) => format!("replica {at} starts"),
            Err(error) => format!("replica {at} does not start: {error}"),
        }
    }

    async fn crash_or_start(&mut self) -> Result<String> {
        let at = self.any_replica();
        let running = self
            .replicas
            .get(at)
            .is_some_and(super::replica::Replica::is_running);
        if !running {
            return Ok(self.start_replica(at).await);
        }
        if let Some(replica) = self.replicas.get_mut(at) {
            replica.crash();
        }
        Ok(format!("replica {at} crashes"))
    }

    async fn heal(&mut self) -> Result<String> {
        self.database.set_away(false)?;
        self.database.set_full(false)?;
        let mut told = Vec::new();
        for at in 0..self.replicas.len() {
            let Some(replica) = self.replicas.get(at) else {
                break;
            };
            replica.link.cut.store(false, Ordering::SeqCst);
            if !replica.is_running() {
                told.push(self.start_replica(at).await);
            }
        }
        Ok(told.join(", "))
    }

    async fn crash_all(&mut self) -> Result<String> {
        for replica in &mut self.replicas {
            replica.crash();
        }
        let mut told = Vec::new();
        for at in 0..self.replicas.len() {
            told.push(self.start_replica(at).await);
        }
        Ok(told.join(", "))
    }

    fn toggle_away(&mut self) -> Result<String> {
        let away = self.database.is_well();
        self.database.set_away(away)?;
        Ok(if away {
            "the database is away"
        } else {
            "the database is back"
        }
        .to_owned())
    }

    fn disturb_link(&mut self, step: Step) -> String {
        let at = self.any_replica();
        let Some(replica) = self.replicas.get(at) else {
            return nothing();
        };
        if matches!(step, Step::LoseAnswer) {
            replica.link.lose_answers.store(1, Ordering::SeqCst);
            return format!("the answer to the next change of replica {at} is lost");
        }
        let was_cut = replica.link.cut.fetch_xor(true, Ordering::SeqCst);
        format!(
            "replica {at} {} the database",
            if was_cut { "reaches" } else { "does not reach" }
        )
    }

    fn toggle_full(&mut self) -> Result<String> {
        let full = self.database.is_well();
        self.database.set_full(full)?;
        Ok(if full {
            "writes fail"
        } else {
            "writes succeed"
        }
        .to_owned())
    }

    async fn back_up(&mut self) -> Result<String> {
        if !self.database.is_well() {
            return Ok(nothing());
        }
        let _open = self.pace.call();
        let number = self.database.back_up().await?;
        self.backups.push(number);
        Ok(format!("backup {number}"))
    }

    async fn restore(&mut self) -> Result<String> {
        let Some(number) = self
            .backups
            .get(self.dice.below(self.backups.len()))
            .copied()
        else {
            return Ok(nothing());
        };
        if !self.database.is_well() {
            return Ok(nothing());
        }
        // A replica that runs and holds the newest state in memory proves what the database has
        // lost.
        let newest = self.truth.newest;
        let version = |replica: &super::replica::Replica| {
            replica
                .issuer()
                .map(|issuer| issuer.publisher.current().version())
        };
        let provers = self
            .replicas
            .iter()
            .enumerate()
            .filter(|(_, replica)| version(replica) >= Some(newest));
        let provers = provers.map(|(at, replica)| (at, replica.starts)).collect();
        let open = self.pace.call();
        self.database.restore(number).await?;
        drop(open);
        self.truth.restored_at = self.now;
        self.truth.lost.push(Lost {
            version: newest,
            provers,
            is_proven: false,
        });
        Ok(format!("backup {number}, newest version before: {newest}"))
    }

    fn move_clock(&mut self, step: Step) -> Result<String> {
        let at = self.any_replica();
        let drift = i64::try_from(self.dice.between(0, 4))?.saturating_sub(2);
        let size = i64::try_from(self.dice.between(60, 200_000))?;
        let size = if self.dice.chance(50) {
            size
        } else {
            size.saturating_neg()
        };
        let replica = self.replicas.get_mut(at).context("a replica")?;
        let before = replica.skew_s.saturating_add(replica.step_s);
        if matches!(step, Step::Drift) {
            replica.skew_s = drift;
        } else if replica.step_s == 0 {
            replica.step_s = size;
        } else {
            replica.step_s = 0;
        }
        let after = replica.skew_s.saturating_add(replica.step_s);
        replica.clock.put_back(before.saturating_sub(after));
        Ok(format!("replica {at} is {after} s ahead"))
    }

    async fn lower_lifetime(&mut self) -> Result<String> {
        let at = self.any_replica();
        self.setting.config = config(if self.dice.chance(50) { "5m" } else { "1h" })?;
        if let Some(replica) = self.replicas.get_mut(at) {
            replica.crash();
        }
        Ok(self.start_replica(at).await)
    }
}

/// Returns a member of an object; null if it has none of this name.
pub(super) fn field<'v>(value: &'v Value, name: &str) -> &'v Value {
    value.get(name).unwrap_or(&Value::Null)
}

fn nothing() -> String {
    "nothing".to_owned()
}

fn part(token: &str, at: usize) -> Result<Value> {
    let encoded = token
        .split('.')
        .nth(at)
        .ok_or_else(|| anyhow!("a token has three parts"))?;
    let bytes = base64url::decode(encoded).ok_or_else(|| anyhow!("a token is base64url"))?;
    Ok(serde_json::from_slice(&bytes)?)
}
