//! Helpers of the tests: an issuer on a fixed clock, requests to it, and databases.

pub(crate) mod database;
pub(crate) mod process;
pub(crate) mod signing;
pub(crate) mod store;

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode, header};
use meshseal_core::authn::{Accepted, Trust, validate};
use meshseal_core::bundle::StalenessBound;
use meshseal_core::keys::KeySet;
use meshseal_issuer::background::write_down_once;
use meshseal_issuer::bundle::Contact;
use meshseal_issuer::clients::SecretHash;
use meshseal_issuer::clock::FixedClock;
use meshseal_issuer::config::{Config, from_yaml};
use meshseal_issuer::issuer::Issuer;
use meshseal_issuer::keys::{KeyRecord, KeyState, MasterKey, Purpose};
use meshseal_issuer::store::Store;
use meshseal_issuer::{admin_app, app};
use serde_json::Value;
use tower::ServiceExt as _;

use database::Database;
use store::Fickle;

pub(crate) const NOW: u64 = 1_900_000_000;
pub(crate) const ISSUER: &str = "https://issuer.example";

/// Returns the secret of a client.
pub(crate) fn secret(client: &str) -> String {
    format!("mss_a-secret-of-sufficient-length-{client}")
}

fn hash(client: &str) -> String {
    SecretHash::of(&secret(client)).to_string()
}

/// Returns the configuration of the tests: services `orders` and `stock`; clients `checkout` (both
/// services), `stock` (introspector of its service), `auditor` (introspector of `orders`),
/// `operator` (administrator) and `signer` (`private_key_jwt`).
pub(crate) fn yaml() -> String {
    format!(
        r#"
issuer: {ISSUER}
keys: {{ algorithm: EdDSA, rotateEvery: 24h, ackTimeout: 60s, jwksMaxAge: 0s }}
tokens: {{ lifetime: 5m, maxLifetime: 1h, clockSkew: 30s }}
services:
- {{ audience: orders, scopes: [orders.read, orders.write], introspectors: [auditor] }}
- {{ audience: stock, scopes: [stock.read], lifetime: 60s, introspectors: [stock] }}
clients:
- clientId: checkout
  auth: {{ secrets: [ {{ hash: "{}" }}, {{ hash: "{}" }} ] }}
  audiences: [orders, stock]
  scopes: [orders.read, orders.write, stock.read]
- clientId: stock
  auth: {{ secrets: [ {{ hash: "{}" }} ] }}
  audiences: [orders]
  scopes: [orders.read]
- clientId: auditor
  auth: {{ secrets: [ {{ hash: "{}" }} ] }}
- clientId: operator
  auth: {{ secrets: [ {{ hash: "{}" }} ] }}
  admin: true
- clientId: signer
  auth: {{ jwks: {} }}
  audiences: [orders]
  scopes: [orders.read]
"#,
        hash("checkout"),
        hash("checkout-new"),
        hash("stock"),
        hash("auditor"),
        hash("operator"),
        signing::client_jwks(),
    )
}

pub(crate) fn config() -> Config {
    from_yaml(&yaml()).unwrap()
}

pub(crate) fn master() -> Arc<MasterKey> {
    Arc::new(
        MasterKey::from_base64("AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "test").unwrap(),
    )
}

/// One replica of the issuer, with its clock and its database.
pub(crate) struct Harness {
    pub(crate) issuer: Arc<Issuer>,
    pub(crate) clock: Arc<FixedClock>,
    pub(crate) router: Router,
    pub(crate) admin: Router,
    pub(crate) database: Arc<Database>,
}

/// Response to a request.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text)
            .unwrap_or_else(|error| panic!("{error}: {} {:?}", self.status, self.text))
    }

    /// Returns the status and the OAuth error code.
    pub(crate) fn error(&self) -> (u16, String) {
        (
            self.status.as_u16(),
            self.json()["error"].as_str().unwrap_or_default().to_owned(),
        )
    }

    pub(crate) fn header(&self, name: header::HeaderName) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

impl Harness {
    /// Starts a replica on a new SQLite file.
    pub(crate) async fn new() -> Self {
        Self::with(config()).await
    }

    pub(crate) async fn with(config: Config) -> Self {
        Self::on(Database::sqlite(), config).await
    }

    pub(crate) async fn on(database: Arc<Database>, config: Config) -> Self {
        Self::at(database, config, Arc::new(FixedClock::at(NOW))).await
    }

    /// Starts a replica on a database that other replicas may use already.
    pub(crate) async fn at(
        database: Arc<Database>,
        config: Config,
        clock: Arc<FixedClock>,
    ) -> Self {
        let store = database.open().await;
        Self::over(store, database, config, clock).await
    }

    /// Starts a replica on a store whose faults the test controls.
    pub(crate) async fn fickle() -> (Self, Arc<Fickle>) {
        Self::fickle_on(Database::sqlite()).await
    }

    pub(crate) async fn fickle_on(database: Arc<Database>) -> (Self, Arc<Fickle>) {
        let store = Fickle::before(database.open().await);
        (
            Self::over(
                store.clone(),
                database,
                config(),
                Arc::new(FixedClock::at(NOW)),
            )
            .await,
            store,
        )
    }

    pub(crate) async fn over(
        store: Arc<dyn Store>,
        database: Arc<Database>,
        config: Config,
        clock: Arc<FixedClock>,
    ) -> Self {
        let issuer = Arc::new(
            Issuer::start(config, clock.clone(), store, master())
                .await
                .unwrap(),
        );
        Self::serving(issuer, clock, database)
    }

    pub(crate) fn serving(
        issuer: Arc<Issuer>,
        clock: Arc<FixedClock>,
        database: Arc<Database>,
    ) -> Self {
        Self {
            router: app(issuer.clone()).router,
            admin: admin_app(issuer.clone()).router,
            issuer,
            clock,
            database,
        }
    }

    /// Starts another replica on the same database, clock and configuration, as after a restart.
    pub(crate) async fn restarted(&self) -> Self {
        Self::at(
            self.database.clone(),
            self.issuer.config.clone(),
            self.clock.clone(),
        )
        .await
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let path = request.uri().path();
        let router = if path.starts_with("/admin/") || path == "/metrics" {
            &self.admin
        } else {
            &self.router
        };
        let response = router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        Answer {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap())
            .await
    }

    pub(crate) async fn metrics(&self) -> String {
        self.get("/metrics").await.text
    }

    pub(crate) async fn get_as(&self, client: &str, path: &str) -> Answer {
        self.send(
            Request::get(path)
                .header("authorization", basic(client))
                .body(Body::empty())
                .unwrap(),
        )
        .await
    }

    /// Posts a form without client authentication.
    pub(crate) async fn post(&self, path: &str, form: &str) -> Answer {
        self.send(
            form_request(path, form)
                .body(Body::from(form.to_owned()))
                .unwrap(),
        )
        .await
    }

    /// Posts a form as a client, with its secret in the header.
    pub(crate) async fn post_as(&self, client: &str, path: &str, form: &str) -> Answer {
        self.send(
            form_request(path, form)
                .header("authorization", basic(client))
                .body(Body::from(form.to_owned()))
                .unwrap(),
        )
        .await
    }

    /// Issues a token to `checkout` for `orders`.
    pub(crate) async fn token(&self) -> String {
        self.token_for("checkout", "resource=orders").await
    }

    pub(crate) async fn token_for(&self, client: &str, more: &str) -> String {
        let answer = self
            .post_as(
                client,
                "/token",
                &format!("grant_type=client_credentials&{more}"),
            )
            .await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        answer.json()["access_token"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn is_active(&self, token: &str) -> bool {
        self.post_as("checkout", "/introspect", &format!("token={token}"))
            .await
            .json()["active"]
            == true
    }

    /// Polls in protocol 2 as a worker that uses each bundle until its not-after.
    pub(crate) async fn poll_proving(&self, worker: u64, have: Option<u64>, proof: &str) -> Answer {
        self.poll_pinning(worker, have, proof, "pin").await
    }

    /// Polls like [`Self::poll_proving`], as a worker that pins these bundle keys.
    pub(crate) async fn poll_pinning(
        &self,
        worker: u64,
        have: Option<u64>,
        proof: &str,
        pins: &str,
    ) -> Answer {
        self.poll_stating(
            worker,
            have,
            [("proof", proof), ("pins", pins), ("staleness", "not-after")],
        )
        .await
    }

    /// Polls in protocol 2 with these headers, named without `x-meshseal-`.
    pub(crate) async fn poll_stating(
        &self,
        worker: u64,
        have: Option<u64>,
        headers: [(&str, &str); 3],
    ) -> Answer {
        let query = have.map_or(String::new(), |have| format!("?have={have}"));
        let mut request = Request::get(format!("/bundle{query}"))
            .header("x-meshseal-worker", format!("{worker:016x}"))
            .header("x-meshseal-node", "edge")
            .header("x-meshseal-protocol", "2");
        for (name, value) in headers {
            request = request.header(format!("x-meshseal-{name}"), value);
        }
        self.send(request.body(Body::empty()).unwrap()).await
    }

    /// Polls in protocol 1 as a worker, which counts as live from now on.
    pub(crate) async fn poll(&self, worker: u64, have: Option<u64>) -> Answer {
        let query = have.map_or(String::new(), |have| format!("?have={have}"));
        let request = Request::get(format!("/bundle{query}"))
            .header("x-meshseal-worker", format!("{worker:016x}"))
            .header("x-meshseal-node", "edge");
        self.send(request.body(Body::empty()).unwrap()).await
    }

    /// Advances the clock and refreshes from the database, as a replica does ten times a second.
    pub(crate) async fn advance(&self, seconds: u64) {
        self.clock.advance(seconds);
        self.issuer.publisher.refresh().await.unwrap();
    }

    pub(crate) fn version(&self) -> u64 {
        self.issuer.publisher.current().version()
    }

    pub(crate) fn key(&self, purpose: Purpose, state: KeyState) -> Option<KeyRecord> {
        self.issuer
            .publisher
            .current()
            .keys
            .iter()
            .find(|key| key.purpose == purpose && key.state == state)
            .cloned()
    }

    /// Returns the state of a key; `None` once the key is deleted.
    pub(crate) fn key_state(&self, kid: &str) -> Option<KeyState> {
        let published = self.issuer.publisher.current();
        let key = published.keys.iter().find(|key| key.kid == kid);
        key.map(|key| key.state)
    }

    pub(crate) fn active_kid(&self) -> String {
        self.key(Purpose::Token, KeyState::Active).unwrap().kid
    }

    pub(crate) fn next_kid(&self) -> String {
        self.key(Purpose::Token, KeyState::Next).unwrap().kid
    }

    /// Runs each background task once.
    pub(crate) async fn tick(&self) {
        self.issuer.publisher.refresh().await.unwrap();
        self.issuer.consult_database_clock().await.unwrap();
        write_down_once(&self.issuer).await.unwrap();
        self.issuer.keeper.round(&self.issuer).await.unwrap();
    }

    /// Returns the bundle keys that a proxy pins.
    pub(crate) fn pins(&self) -> KeySet {
        let published = self.issuer.publisher.current();
        let keys = published
            .keys
            .iter()
            .filter(|key| key.purpose == Purpose::Bundle && key.state.may_sign());
        let keys: Vec<Value> = keys
            .map(|key| serde_json::from_str(&key.public_jwk).unwrap())
            .collect();
        KeySet::from_config(
            &serde_json::json!({ "keys": keys }).to_string(),
            &[meshseal_core::jose::Alg::EdDsa],
            false,
        )
        .unwrap()
    }
}

/// Worker of a proxy that accepts bundles by the code of core.
pub(crate) struct Proxy {
    pub(crate) worker: u64,
    pub(crate) trust: Trust,
    pub(crate) pins: KeySet,
}

impl Proxy {
    pub(crate) fn of(harness: &Harness, worker: u64) -> Self {
        Self {
            worker,
            trust: Trust::new(),
            pins: harness.pins(),
        }
    }

    /// Polls and accepts the bundle.
    pub(crate) async fn poll(&mut self, harness: &Harness) -> Accepted {
        let proof = self.trust.bundle_ack().unwrap_or_default();
        let pins = self.pins.kids().flatten().collect::<Vec<&str>>().join(",");
        let answer = harness
            .poll_pinning(self.worker, self.trust.bundle_version(), proof, &pins)
            .await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        let now = meshseal_issuer::clock::Clock::now(&*harness.clock);
        self.trust
            .accept_bundle(&answer.text, &self.pins, now)
            .unwrap()
    }

    /// Polls until this worker has confirmed the published version.
    pub(crate) async fn confirm(&mut self, harness: &Harness) {
        // The first poll receives the bundle, and the second one proves it.
        self.poll(harness).await;
        self.poll(harness).await;
        assert_eq!(self.trust.bundle_version(), Some(harness.version()));
    }
}

/// Returns whether a proxy with this trust accepts a token at `orders`.
pub(crate) fn accepts(harness: &Harness, trust: &Trust, token: &str) -> bool {
    let pin = harness
        .key(Purpose::Bundle, KeyState::Active)
        .unwrap()
        .public_jwk;
    let pin: Value = serde_json::from_str(&pin).unwrap();
    let configuration = serde_json::json!({
        "trustBundle": { "cluster": "issuer", "keys": [pin] },
        "jwtRules": [{ "issuer": ISSUER, "audiences": ["orders"], "trustBundle": true }],
    });
    let policy = meshseal_core::config::read_policy(&configuration.to_string()).unwrap();
    validate(
        token,
        policy.authn(),
        trust,
        meshseal_issuer::clock::Clock::now(&*harness.clock),
    )
    .is_ok()
}

/// Returns a worker that polls and holds no bundle.
pub(crate) fn deaf_worker(worker: u64) -> Contact<'static> {
    Contact {
        worker,
        node: "deaf",
        version: 0,
        proven: false,
        protocol: 2,
        staleness: StalenessBound::NotAfter,
        pins: "",
    }
}

pub(crate) fn form_request(path: &str, _form: &str) -> axum::http::request::Builder {
    Request::post(path).header("content-type", "application/x-www-form-urlencoded")
}

pub(crate) fn basic(client: &str) -> String {
    use base64::Engine as _;
    let joined = format!("{client}:{}", secret(client));
    format!(
        "Basic {}",
        base64::engine::general_purpose::STANDARD.encode(joined)
    )
}

/// Decodes the header and the claims of a token without verification.
pub(crate) fn decode(token: &str) -> (Value, Value) {
    let part = |at: usize| {
        let bytes = meshseal_core::base64url::decode(token.split('.').nth(at).unwrap()).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    };
    (part(0), part(1))
}
