//! Scriptable bundle server: answers as the issuer would, or wrongly. It writes bundles by hand,
//! from the description of the format. So tests check the filter against the format and not against
//! the issuer's code.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use tokio::sync::watch;

use crate::clock::unix_now;
use crate::mint::{Key, Kind, seal};
use crate::serve::Server;

/// `typ` of a bundle.
const TYPE: &str = "meshseal-bundle+jwt";

/// A poll as the server received it.
#[derive(Clone, Debug)]
pub struct Poll {
    /// The version that the proxy acknowledges.
    pub have: Option<u64>,
    /// Seconds for which the proxy is ready to wait.
    pub wait: u64,
    /// `x-meshseal-worker`.
    pub worker: String,
    /// `x-meshseal-node`.
    pub node: String,
    /// `authorization`.
    pub authorization: Option<String>,
}

/// Way to answer polls.
#[derive(Clone, Debug, Default)]
pub enum Manner {
    /// Like the issuer: at once if the proxy lacks a version, else when one is published or the
    /// wait is over.
    #[default]
    Right,
    /// Like `Right`, but waiting polls do not get new versions; only the next poll does.
    Deaf,
    /// These bytes and status 200.
    Bytes(Vec<u8>),
    /// This status and an empty body.
    Status(u16),
    /// No response; the connection stays open.
    Silent,
}

#[derive(Debug)]
struct Inner {
    key: Key,
    polls: Mutex<Vec<Poll>>,
    now: watch::Sender<(u64, Value)>,
    manner: watch::Sender<Manner>,
    lifetime: Mutex<u64>,
}

/// The bundle server. Its state survives [`Bundles::kill`].
#[derive(Debug)]
pub struct Bundles {
    inner: Arc<Inner>,
    port: u16,
    server: Option<Server>,
}

impl Bundles {
    /// Starts the server with an empty bundle of version 1.
    ///
    /// # Errors
    /// Fails if no port is free.
    pub fn start() -> Result<Self> {
        let mut bundles = Self::stopped()?;
        bundles.revive()?;
        Ok(bundles)
    }

    /// Creates the server without listening; [`Bundles::revive`] starts it.
    ///
    /// # Errors
    /// Fails if no port is free.
    pub fn stopped() -> Result<Self> {
        let inner = Inner {
            key: Key::generate(Kind::Ed25519, "bundle")?,
            polls: Mutex::default(),
            now: watch::Sender::new((1, json!({}))),
            manner: watch::Sender::new(Manner::Right),
            lifetime: Mutex::new(3_600),
        };
        Ok(Self {
            inner: Arc::new(inner),
            port: crate::ports::free()?,
            server: None,
        })
    }

    /// The address of the server, whether or not it listens now.
    pub fn address(&self) -> SocketAddr {
        crate::ports::loopback(self.port)
    }

    /// Breaks all connections and stops listening.
    pub fn kill(&mut self) {
        self.server = None;
    }

    /// Listens again on the same port.
    ///
    /// # Errors
    /// Fails if the port was taken meanwhile.
    pub fn revive(&mut self) -> Result<()> {
        let app = Router::new()
            .route("/bundle", get(answer))
            .with_state(Arc::clone(&self.inner));
        self.server = Some(Server::start(self.port, app)?);
        Ok(())
    }

    /// The key that signs bundles.
    pub fn key(&self) -> &Key {
        &self.inner.key
    }

    /// Returns the `trustBundle` configuration for this server, reached through `cluster`.
    ///
    /// # Errors
    /// Fails if the bundle key has no JWK, which does not happen.
    pub fn config(&self, cluster: &str) -> Result<Value> {
        Ok(json!({"cluster": cluster, "keys": [self.inner.key.jwk()?]}))
    }

    /// Publishes the next version with this trust by issuer (see [`trust`]) and returns its number.
    pub fn publish(&self, issuers: Value) -> u64 {
        let next = self.inner.now.borrow().0 + 1;
        self.publish_as(next, issuers);
        next
    }

    /// Publishes a given version, which may be an older one.
    pub fn publish_as(&self, version: u64, issuers: Value) {
        self.inner.now.send_replace((version, issuers));
    }

    /// Sets the way to answer from now on, waiting polls included.
    pub fn set_manner(&self, manner: Manner) {
        self.inner.manner.send_replace(manner);
    }

    /// Sets the lifetime of bundles from now on, in seconds; initially 3600.
    pub fn set_lifetime(&self, seconds: u64) {
        *self
            .inner
            .lifetime
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = seconds;
    }

    /// Returns all polls so far.
    pub fn polls(&self) -> Vec<Poll> {
        self.inner
            .polls
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Returns the version that each worker has acknowledged, by `x-meshseal-worker`.
    pub fn held(&self) -> BTreeMap<String, u64> {
        self.polls()
            .into_iter()
            .filter_map(|poll| Some((poll.worker, poll.have?)))
            .collect()
    }

    /// Returns the workers that have ever polled.
    pub fn workers(&self) -> BTreeSet<String> {
        self.polls().into_iter().map(|poll| poll.worker).collect()
    }

    /// Returns the current bundle in full.
    ///
    /// # Errors
    /// Fails if signing fails.
    pub fn current(&self) -> Result<String> {
        self.inner.full()
    }
}

impl Inner {
    fn times(&self) -> (u64, u64) {
        let now = unix_now();
        (
            now,
            now + *self.lifetime.lock().unwrap_or_else(PoisonError::into_inner),
        )
    }

    fn full(&self) -> Result<String> {
        let (version, issuers) = self.now.borrow().clone();
        let (iat, exp) = self.times();
        let payload = json!({
            "iss": "bundles.test", "ver": version, "iat": iat, "exp": exp, "issuers": issuers,
        });
        sign(&self.key, &payload)
    }

    /// Returns a heartbeat: an empty delta from a version to itself.
    fn heartbeat(&self, version: u64) -> Result<String> {
        let (iat, exp) = self.times();
        let payload = json!({
            "iss": "bundles.test", "ver": version, "iat": iat, "exp": exp, "base": version,
        });
        sign(&self.key, &payload)
    }

    /// Returns the issuer's answer to a poll that arrived while `current` was the version.
    async fn right(
        &self,
        current: u64,
        have: Option<u64>,
        wait: u64,
        deaf: bool,
    ) -> Result<String> {
        let mut now = self.now.subscribe();
        if have != Some(current) {
            return self.full();
        }
        let newer = async {
            if deaf {
                std::future::pending::<()>().await;
            }
            now.wait_for(|(version, _)| *version != current)
                .await
                .map(drop)
                .context("the server is gone")
        };
        match tokio::time::timeout(Duration::from_secs(wait), newer).await {
            Ok(_) => self.full(),
            Err(_) => self.heartbeat(current),
        }
    }
}

/// Signs the payload of a bundle.
///
/// # Errors
/// Fails if signing fails.
pub fn sign(key: &Key, payload: &Value) -> Result<String> {
    let header = json!({"alg": "EdDSA", "kid": key.kid(), "typ": TYPE}).to_string();
    seal(&header, payload.to_string().as_bytes(), |input| {
        key.sign("EdDSA", input)
    })
}

/// Returns trust in the keys of one issuer, in the form of a bundle's `issuers`.
///
/// # Errors
/// Fails if a key has no JWK.
pub fn trust(issuer: &str, keys: &[&Key]) -> Result<Value> {
    let keys = keys
        .iter()
        .map(|key| Ok(json!({"jwk": key.jwk()?, "state": "active"})))
        .collect::<Result<Vec<_>>>()?;
    Ok(json!({ issuer: {"keys": keys} }))
}

async fn answer(
    State(inner): State<Arc<Inner>>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let number = |name: &str| query.get(name).and_then(|text| text.parse::<u64>().ok());
    let text = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned()
    };
    let (have, wait) = (number("have"), number("wait").unwrap_or(0));
    inner
        .polls
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(Poll {
            have,
            wait,
            worker: text("x-meshseal-worker"),
            node: text("x-meshseal-node"),
            authorization: headers
                .get(header::AUTHORIZATION)
                .map(|_| text("authorization")),
        });
    let version = inner.now.borrow().0;
    let mut manner = inner.manner.subscribe();
    loop {
        let current = manner.borrow_and_update().clone();
        tokio::select! {
            biased;
            // A new manner also applies to waiting polls.
            _ = manner.changed() => {}
            response = inner.respond(current, version, have, wait) => return response,
        }
    }
}

impl Inner {
    async fn respond(
        &self,
        manner: Manner,
        version: u64,
        have: Option<u64>,
        wait: u64,
    ) -> Response {
        let deaf = matches!(manner, Manner::Deaf);
        match manner {
            Manner::Right | Manner::Deaf => match self.right(version, have, wait, deaf).await {
                Ok(jws) => ([(header::CONTENT_TYPE, "application/jose")], jws).into_response(),
                Err(error) => {
                    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
                }
            },
            Manner::Bytes(bytes) => Body::from(bytes).into_response(),
            Manner::Status(code) => StatusCode::from_u16(code)
                .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
                .into_response(),
            Manner::Silent => std::future::pending().await,
        }
    }
}
