//! Steps of workers, clients and services.

use std::time::Duration;

use anyhow::{Result, anyhow};
use axum::body::Body;
use axum::http::Request;
use meshseal_core::base64url;
use meshseal_core::bundle::BundleError;
use meshseal_core::revocation::index_of;
use serde_json::Value;

use super::{field, nothing};
use crate::checks::LONGEST_BUNDLE_S;
use crate::replica::Answer;
use crate::truth::{Reader, Token};
use crate::world::{CLIENTS, Kind, Message, World, secret};

/// Longest time on a worker's monotonic clock from a poll to its answer: the wait of 25 s, the 5 s
/// that the filter adds to the timeout of its call, and 5 s after which it expects no answer.
const PATIENCE: Duration = Duration::from_secs(35);

/// Maximum number of tokens in a history. More would only cost time.
const MAX_TOKENS: usize = 24;

impl World {
    /// Lets a worker poll. Returns the number of the message; `None` while its link is cut.
    pub(super) fn ask(&mut self) -> Option<u64> {
        let worker = self.any_worker();
        self.ask_as(worker)
    }

    /// Lets this worker poll; see [`Self::ask`].
    pub(super) fn ask_as(&mut self, worker: usize) -> Option<u64> {
        let (id, replica) = (self.new_id(), self.any_replica());
        let asking = self
            .workers
            .get_mut(worker)
            .filter(|asking| !asking.cut && !asking.is_mute)?;
        asking.asked = Some((id, asking.clock.steady()));
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

    /// Lets a worker poll and receive the answer.
    pub(super) async fn exchange(&mut self) -> Result<String> {
        let worker = self.any_worker();
        let Some(id) = self.ask_as(worker) else {
            return Ok(nothing());
        };
        let mut told = Vec::new();

        // Delivers the poll, and then the bundle.
        while let Some(at) = self.under_way.iter().position(|message| message.id == id) {
            told.push(self.deliver(at).await?);
        }
        Ok(told.join(", "))
    }

    /// Delivers or loses any message in transit.
    pub(super) async fn deliver_any(&mut self) -> Result<String> {
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

    /// Delivers the message at this position.
    pub(super) async fn deliver(&mut self, at: usize) -> Result<String> {
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
            // The answer becomes another message, which may be lost, too.
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
                self.note_poll(process, replica, answer.status == 200);
                if answer.status == 200 {
                    self.under_way.push(Message {
                        id,
                        worker,
                        process,
                        kind: Kind::Bundle(answer.text, self.now),
                    });
                }
                Ok(told)
            }
            Kind::Bundle(text, given_at) => self.receive(worker, process, (id, given_at), &text),
        }
    }

    /// Sends a worker's poll with its proof to replica `at`.
    pub(super) async fn poll(
        &mut self,
        at: usize,
        headers: &[(&'static str, String)],
        have: Option<u64>,
    ) -> Result<Option<Answer>> {
        let Some(replica) = self.replicas.get(at) else {
            return Ok(None);
        };
        let before = replica.version().unwrap_or(0);
        // A replica that does not remember a lost version may declare an incident for its proof.
        let is_lost = self.truth.is_unsure()
            && have.is_some_and(|have| {
                let issuer = replica.issuer();
                issuer.is_some_and(|issuer| !issuer.publisher.accounts_for(have))
            });
        let answer = self.ask_for_bundle(at, headers, have).await?;
        if is_lost {
            self.truth.may_cover(|_, _| true);
        }
        // The worker has proved a version that the database has lost, and the issuer has acted on
        // the proof.
        let after = replica.version().unwrap_or(0);
        if self.truth.blind && have.is_some_and(|have| have > before && have < after) {
            self.truth.blind = false;
            // The other replicas have yet to follow the incident.
            self.acknowledged_at = self.now;
            self.truth.unlisted_until = self.now.saturating_add(LONGEST_BUNDLE_S);
        }
        Ok(answer)
    }

    /// Sends a poll with these headers to replica `at`, without bookkeeping.
    pub(super) async fn ask_for_bundle(
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

    /// Delivers a bundle to a worker, which drops answers that it no longer waits for.
    pub(super) fn receive(
        &mut self,
        worker: usize,
        process: u64,
        (id, given_at): (u64, u64),
        text: &str,
    ) -> Result<String> {
        let now = self.now;
        let Some(receiver) = self.workers.get_mut(worker) else {
            return Ok(nothing());
        };

        // The filter drops answers to other processes, to earlier polls, and late ones.
        let asked = receiver.asked.filter(|(asked, _)| *asked == id);
        let (true, Some((_, asked_at))) = (receiver.id == process, asked) else {
            return Ok(format!("worker {worker} no longer waits for message {id}"));
        };
        receiver.asked = None;
        if receiver.clock.steady().saturating_sub(asked_at) > PATIENCE {
            return Ok(format!("message {id} is too late for worker {worker}"));
        }
        let before = receiver.trust().bundle_version();
        let answer = receiver.accept_bundle(text, now);
        if answer.is_ok() {
            receiver.given_at = given_at;
        }

        // Check the worker with its new bundle, or its refusal.
        let told = match answer {
            Ok(_) => format!(
                "worker {worker} has {:?}",
                receiver.trust().bundle_version()
            ),
            Err(error) => format!("worker {worker} refuses the bundle: {error}"),
        };
        if answer == Err(BundleError::OutOfDate) {
            self.check_refusal(worker, &part(text, 1)?)?;
        }
        self.check_worker(worker, before)?;
        if let Ok(accepted) = answer {
            self.share(worker, accepted)?;
        }
        Ok(told)
    }

    /// Lets a client request a token, and checks the token.
    pub(super) async fn mint(&mut self) -> Result<String> {
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
        // Read the header and the claims.
        let text = field(&answer.json(), "access_token")
            .as_str()
            .ok_or_else(|| anyhow!("no access_token"))?
            .to_owned();
        let (header, claims) = (part(&text, 0)?, part(&text, 1)?);
        let (kid, jti) = (text_of(&header, "kid")?, text_of(&claims, "jti")?);
        let expires_at = field(&claims, "exp")
            .as_u64()
            .ok_or_else(|| anyhow!("no exp"))?;
        let issued_at = field(&claims, "iat")
            .as_u64()
            .ok_or_else(|| anyhow!("no iat"))?;
        let index = index_of(&jti).ok_or_else(|| anyhow!("jti without an index"))?;
        let (position, key) = (self.truth.tokens.len(), self.truth.key_place(&kid));
        let told =
            format!("replica {at} issues token {position} for {client}, index {index}, key {key}");
        self.check_new_token(at, &kid, jti, index)?;
        // Without a database clock, a replica accepts a lasting clock step in the end, and dates
        // tokens by it.
        let misdated = !self.has_server
            && self
                .replicas
                .get(at)
                .is_some_and(|replica| replica.step_s != 0);
        // A later incident covers the tokens issued until then.
        let before_incident = self.truth.is_unsure();
        let in_group = self.truth.revoked_keys.contains(&kid) || now <= self.truth.groups_until;
        let covered = in_group || misdated || before_incident;
        let token = Token {
            text,
            kid,
            client: client.to_owned(),
            issued_at,
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

    /// Lets a service read and cache `/jwks`.
    pub(super) async fn read_keys(&mut self) -> Result<String> {
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
        // The trace omits `max-age`, because the issuer draws it without the seed.
        Ok(format!(
            "replica {at}, {} keys",
            field(&keys, "keys").as_array().map_or(0, Vec::len)
        ))
    }
}

/// Returns a member of an object, which must be a string.
fn text_of(object: &Value, name: &str) -> Result<String> {
    let text = field(object, name).as_str().map(ToOwned::to_owned);
    text.ok_or_else(|| anyhow!("{name} is missing"))
}

/// Decodes a part of a compact JWS as JSON.
fn part(token: &str, at: usize) -> Result<Value> {
    let encoded = token
        .split('.')
        .nth(at)
        .ok_or_else(|| anyhow!("a token has three parts"))?;
    let bytes = base64url::decode(encoded).ok_or_else(|| anyhow!("a token is base64url"))?;
    Ok(serde_json::from_slice(&bytes)?)
}
