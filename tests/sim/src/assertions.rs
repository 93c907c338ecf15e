//! Client assertions of a history. All replicas together accept each one once (invariant 4), and no
//! replica takes an unused one for a used one.

use std::sync::OnceLock;

use anyhow::{Result, anyhow, bail};
use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use axum::body::Body;
use axum::http::Request;
use meshseal_core::base64url::encode;
use meshseal_issuer::background::follow_once;
use meshseal_issuer::clock::Clock as _;
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, Row as _, SqliteConnection};

use super::world::{ISSUER, World};

/// Client that authenticates by assertions.
pub(super) const SIGNER: &str = "signer";

/// Maximum number of assertions in a history. More would only cost time.
const MOST: usize = 60;

/// Maximum difference between the clocks of replicas in seconds, apart from steps.
const SPREAD_S: u64 = 5;

/// `tokens.clockSkew` in seconds.
const SKEW_S: u64 = 30;

/// Assertion that its client has used.
#[derive(Debug)]
pub(super) struct Assertion {
    text: String,
    /// Identifier of its row in the database.
    id: Vec<u8>,
    /// `exp` (Unix seconds).
    expires_at: u64,
    /// Number of answered requests with this assertion.
    answered: usize,
    /// Last accepted use.
    accepted: Option<Accepted>,
}

/// Accepted use of an assertion.
#[derive(Clone, Copy, Debug)]
struct Accepted {
    /// True time.
    at: u64,
    /// Position of the replica, and the number of its start.
    by: (usize, usize),
}

/// Content of the database that explains the answer to an assertion.
struct Held {
    /// Identifiers of the rows of uses.
    ids: Vec<Vec<u8>>,
    incident_since: Option<u64>,
    version: u64,
    recent: Vec<u64>,
}

impl Held {
    async fn read(mut connection: SqliteConnection) -> Result<Self> {
        let uses = sqlx::query("SELECT id FROM meshseal_assertions");
        let rows = uses.fetch_all(&mut connection).await?;
        let ids = rows.iter().map(|row| row.try_get(0));
        let ids = ids.collect::<Result<_, _>>()?;
        let state = sqlx::query("SELECT incident_since, version, recent FROM meshseal_state");
        let row = state.fetch_one(&mut connection).await?;
        connection.close().await?;
        let recent: String = row.try_get(2)?;
        Ok(Self {
            ids,
            incident_since: row
                .try_get::<Option<i64>, _>(0)?
                .map(u64::try_from)
                .transpose()?,
            version: u64::try_from(row.try_get::<i64, _>(1)?)?,
            recent: recent
                .split_ascii_whitespace()
                .map(str::parse)
                .collect::<Result<_, _>>()?,
        })
    }

    /// Returns whether the database contains a version of a replica.
    fn follows(&self, version: u64) -> bool {
        version == self.version
            || self.recent.contains(&version)
            || self.recent.first() > Some(&version)
    }
}

impl World {
    /// Lets a client create an assertion and use it.
    pub(super) async fn assert(&mut self) -> Result<String> {
        if self.assertions.len() >= MOST {
            return Ok("nothing".to_owned());
        }

        // `iat` is optional.
        let jti = self.new_id().to_string();
        let expires_at = self.now.saturating_add(self.dice.between(30, 290));
        let mut claims =
            json!({ "iss": SIGNER, "sub": SIGNER, "aud": ISSUER, "jti": jti, "exp": expires_at });
        if let (Some(claims), true) = (claims.as_object_mut(), self.dice.chance(80)) {
            claims.insert("iat".to_owned(), self.now.into());
        }
        self.assertions.push(Assertion {
            text: sign(&claims)?,
            id: id(&jti),
            expires_at,
            answered: 0,
            accepted: None,
        });
        self.use_assertion(self.assertions.len().saturating_sub(1))
            .await
    }

    /// Replays an assertion: an attacker uses a used one, or its client repeats an unanswered one.
    pub(super) async fn replay(&mut self) -> Result<String> {
        let living: Vec<usize> = (0..self.assertions.len())
            .filter(|at| {
                let known = self.assertions.get(*at);
                known.is_some_and(|known| self.now <= known.expires_at.saturating_add(60))
            })
            .collect();
        match living.get(self.dice.below(living.len())) {
            Some(position) => self.use_assertion(*position).await,
            None => Ok("nothing".to_owned()),
        }
    }

    async fn use_assertion(&mut self, position: usize) -> Result<String> {
        let at = self.dice.below(self.replicas.len());
        let has_restored = self.restore_by_recorder(position).await;
        let held = self.held().await?;
        let (Some(replica), Some(assertion)) =
            (self.replicas.get(at), self.assertions.get(position))
        else {
            return Ok("nothing".to_owned());
        };

        // `/introspect` authenticates clients without side effects on tokens.
        let kind = "urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer";
        let form = format!(
            "token=x&client_assertion_type={kind}&client_assertion={}",
            assertion.text
        );
        let request = Request::post("/introspect")
            .header("content-type", "application/x-www-form-urlencoded")
            .header("host", "issuer.example")
            .body(Body::from(form))?;

        // An unused assertion must pass until shortly before its expiry.
        let is_new =
            assertion.answered == 0 && self.now.saturating_add(SPREAD_S) < assertion.expires_at;
        let before = assertion.accepted;
        // The request may declare an incident, so this check comes first.
        let can_know = has_restored || held.is_none_or(|held| self.can_know(at, assertion, &held));
        let Some(answer) = replica.send(request).await? else {
            return Ok(format!("replica {at} is down"));
        };
        match (answer.status, before) {
            (200, Some(before)) if can_know => bail!(
                "invariant 4: replica {at} accepts assertion {position}, which replica {} accepted",
                before.by.0
            ),
            (401, None) if is_new && self.has_right_clock(at) => {
                bail!("replica {at} refuses assertion {position}, which was never used")
            }
            _ => {}
        }

        // Note the use.
        let by = (at, replica.starts);
        if let Some(assertion) = self.assertions.get_mut(position) {
            assertion.answered = assertion.answered.saturating_add(1);
            if answer.status == 200 {
                assertion.accepted = Some(Accepted { at: self.now, by });
            }
        }
        let blind = if can_know { "" } else { ", and cannot know" };
        Ok(format!(
            "replica {at} answers {} to assertion {position}{blind}",
            answer.status
        ))
    }

    /// Lets the process that recorded a use follow the database first, in every second history. It
    /// then writes back the uses that a restored backup lacks. Returns whether the process did so.
    async fn restore_by_recorder(&self, position: usize) -> bool {
        let accepted = self
            .assertions
            .get(position)
            .and_then(|known| known.accepted);
        let (
            true,
            Some(Accepted {
                by: (at, start), ..
            }),
        ) = (self.follows_at_once, accepted)
        else {
            return false;
        };
        let recorder = self.replicas.get(at).filter(|known| known.starts == start);
        match recorder.and_then(|recorder| recorder.issuer()) {
            Some(issuer) => follow_once(issuer).await.is_ok(),
            None => false,
        }
    }

    /// Reads the content of the database. Returns `None` while the database is away or full.
    async fn held(&self) -> Result<Option<Held>> {
        if !self.database.is_well() {
            return Ok(None);
        }
        let _open = self.pace.call();
        let options = SqliteConnectOptions::new().filename(self.database.file());
        Ok(Some(Held::read(options.connect().await?).await?))
    }

    /// Returns whether replica `at` can know that an assertion was accepted. It cannot if all of
    /// these hold: a restored backup lacks the use, the process that recorded it has not written it
    /// back, no incident was declared since, and the database contains the version and all uses of
    /// this replica.
    fn can_know(&self, at: usize, assertion: &Assertion, held: &Held) -> bool {
        let (Some(accepted), Some(replica)) = (assertion.accepted, self.replicas.get(at)) else {
            return true;
        };
        let restored_at = self.truth.restored_at;
        if held.ids.contains(&assertion.id) || accepted.at > restored_at {
            return true;
        }
        let declared_at = held.incident_since;
        if declared_at.is_some_and(|since| since.saturating_add(SPREAD_S) >= restored_at) {
            return true;
        }

        // A replica that misses one of its own uses, or its version, knows of the loss.
        let now = replica.clock.read().proof_s();
        let lacks_own_use = self.assertions.iter().any(|own| {
            let by_it = own
                .accepted
                .is_some_and(|own| own.by == (at, replica.starts));
            let is_valid = own.expires_at.saturating_add(SKEW_S) > now;
            by_it && is_valid && !held.ids.contains(&own.id)
        });
        lacks_own_use || !held.follows(replica.version().unwrap_or(0))
    }

    /// Returns whether the clock of a replica is right.
    fn has_right_clock(&self, at: usize) -> bool {
        self.replicas
            .get(at)
            .is_some_and(|replica| replica.clock.now().abs_diff(self.now) <= SPREAD_S)
    }
}

/// Returns the key that signs assertions.
fn key() -> Result<&'static Ed25519KeyPair> {
    static KEY: OnceLock<Ed25519KeyPair> = OnceLock::new();
    if let Some(key) = KEY.get() {
        return Ok(key);
    }
    let made = Ed25519KeyPair::generate().map_err(|_| anyhow!("no key could be made"))?;
    Ok(KEY.get_or_init(|| made))
}

/// Returns the JWK Set of the client.
pub(super) fn jwks() -> Result<Value> {
    let x = encode(key()?.public_key().as_ref());
    let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "one", "alg": "EdDSA", "x": x });
    Ok(json!({ "keys": [jwk] }))
}

fn sign(claims: &Value) -> Result<String> {
    let header = json!({ "alg": "EdDSA", "kid": "one", "typ": "client-authentication+jwt" });
    let parts = [header.to_string(), claims.to_string()].map(|part| encode(part.as_bytes()));
    let input = parts.join(".");
    let signature = key()?.sign(input.as_bytes());
    Ok(format!("{input}.{}", encode(signature.as_ref())))
}

/// Returns the identifier of an assertion's row: half a SHA-256 of client, NUL and `jti`.
fn id(jti: &str) -> Vec<u8> {
    let mut context = Context::new(&SHA256);
    context.update(format!("{SIGNER}\0{jti}").as_bytes());
    // The issuer reads the half as a little-endian number and writes it as a big-endian one.
    let mut half: Vec<u8> = context.finish().as_ref().iter().take(16).copied().collect();
    half.reverse();
    half
}
