//! Client assertions of a history. Each is accepted once, at all replicas together (invariant 4),
//! and an unused one is never taken for a used one.

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

/// The client that authenticates by assertions.
pub(super) const SIGNER: &str = "signer";

/// Most assertions of a history: more only cost time.
const MOST: usize = 60;

/// Seconds by which clocks of replicas differ at most, beside those that step.
const SPREAD_S: u64 = 5;

/// `tokens.clockSkew` in seconds.
const SKEW_S: u64 = 30;

/// An assertion that its client has used.
#[derive(Debug)]
pub(super) struct Assertion {
    text: String,
    /// Identifier of its row.
    id: Vec<u8>,
    /// `exp` (Unix seconds).
    expires_at: u64,
    /// How many requests with it a replica has answered.
    answered: usize,
    /// The last use that was accepted.
    accepted: Option<Accepted>,
}

/// A use that was accepted.
#[derive(Clone, Copy, Debug)]
struct Accepted {
    /// True time.
    at: u64,
    /// Position of the replica, and which of its starts that was.
    by: (usize, usize),
}

/// Content of the database before a request.
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

    fn follows(&self, version: u64) -> bool {
        version == self.version
            || self.recent.contains(&version)
            || self.recent.first() > Some(&version)
    }
}

impl World {
    /// A client makes an assertion and uses it.
    pub(super) async fn assert(&mut self) -> Result<String> {
        if self.assertions.len() >= MOST {
            return Ok("nothing".to_owned());
        }
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

    /// Somebody uses an assertion again, or the client one that was not answered.
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
        let kind = "urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer";
        let form = format!(
            "token=x&client_assertion_type={kind}&client_assertion={}",
            assertion.text
        );
        let request = Request::post("/introspect")
            .header("content-type", "application/x-www-form-urlencoded")
            .header("host", "issuer.example")
            .body(Body::from(form))?;
        let is_new =
            assertion.answered == 0 && self.now.saturating_add(SPREAD_S) < assertion.expires_at;
        let before = assertion.accepted;
        // Read first: the request may end what the replica cannot know.
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

    /// In every second history, the process that recorded a use follows the database first, so that
    /// it writes back what a restored backup lacks. Returns whether it did.
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

    /// Reads what the database holds; `None` while it is away or full.
    async fn held(&self) -> Result<Option<Held>> {
        if !self.database.is_well() {
            return Ok(None);
        }
        let _open = self.pace.call();
        let options = SqliteConnectOptions::new().filename(self.database.file());
        Ok(Some(Held::read(options.connect().await?).await?))
    }

    /// Returns whether replica `at` can know that an assertion was accepted. It cannot only if a
    /// restored backup lacks the use, the process that recorded it has not written it back, no
    /// incident was declared since, and this replica lacks none of its own uses and no version.
    fn can_know(&self, at: usize, assertion: &Assertion, held: &Held) -> bool {
        let (Some(accepted), Some(replica)) = (assertion.accepted, self.replicas.get(at)) else {
            return true;
        };
        let restored_at = self.truth.restored_at;
        if held.ids.contains(&assertion.id) || accepted.at > restored_at {
            return true;
        }
        let declared = |since: u64| since.saturating_add(SPREAD_S) >= restored_at;
        if held.incident_since.is_some_and(declared) {
            return true;
        }
        let now = replica.clock.read().proof_s();
        let lacks = |own: &Assertion| {
            let by_it = own
                .accepted
                .is_some_and(|own| own.by == (at, replica.starts));
            let lives = own.expires_at.saturating_add(SKEW_S) > now;
            by_it && lives && !held.ids.contains(&own.id)
        };
        let version = replica
            .issuer()
            .map_or(0, |issuer| issuer.publisher.current().version());
        self.assertions.iter().any(lacks) || !held.follows(version)
    }

    fn has_right_clock(&self, at: usize) -> bool {
        self.replicas
            .get(at)
            .is_some_and(|replica| replica.clock.now().abs_diff(self.now) <= SPREAD_S)
    }
}

/// The key that signs assertions.
fn key() -> Result<&'static Ed25519KeyPair> {
    static KEY: OnceLock<Ed25519KeyPair> = OnceLock::new();
    if let Some(key) = KEY.get() {
        return Ok(key);
    }
    let made = Ed25519KeyPair::generate().map_err(|_| anyhow!("no key could be made"))?;
    Ok(KEY.get_or_init(|| made))
}

/// Returns the public key of the client as a set.
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
