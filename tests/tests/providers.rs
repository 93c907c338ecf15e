//! Third-party identity providers, whose keys the filter fetches from `jwksUri` through a cluster.

use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use meshseal_tests::bootstrap::write_whole;
use meshseal_tests::clock::unix_now;
use meshseal_tests::envoy::{Envoy, Options};
use meshseal_tests::http::{Request, send};
use meshseal_tests::mint::{Key, Kind, Token, jwks};
use meshseal_tests::ports::{free, loopback};
use meshseal_tests::proxy::{Proxy, WORKERS, folder, run};
use meshseal_tests::serve::Server;
use meshseal_tests::wait::until;
use meshseal_tests::{build, paths};
use serde_json::{Value, json};

const ISSUER: &str = "https://idp.example";
const SOON: Duration = Duration::from_secs(20);

#[derive(Debug, Default)]
struct Shelf {
    keys: String,
    fetches: usize,
    /// Headers of the last fetch.
    headers: HeaderMap,
    /// The Authorization header that a fetch needs; without it the answer is 403.
    credential: Option<String>,
}

/// An identity provider that serves its keys and counts the fetches.
struct Provider {
    shelf: Arc<Mutex<Shelf>>,
    port: u16,
    server: Option<Server>,
}

impl Provider {
    fn new() -> Result<Self> {
        Ok(Self {
            shelf: Arc::default(),
            port: free()?,
            server: None,
        })
    }

    fn serve(&mut self) -> Result<()> {
        async fn answer(
            State(shelf): State<Arc<Mutex<Shelf>>>,
            headers: HeaderMap,
        ) -> (StatusCode, String) {
            let mut shelf = shelf.lock().unwrap_or_else(PoisonError::into_inner);
            shelf.fetches += 1;
            let header = |name: &str| {
                headers
                    .get(name)
                    .and_then(|value| value.to_str().ok())
                    .unwrap_or_default()
                    .to_owned()
            };
            let admitted = shelf
                .credential
                .as_ref()
                .is_none_or(|credential| header("authorization") == *credential);
            // The Kubernetes API server decides in this way.
            let acceptable = header("accept")
                .split(", ")
                .any(|kind| kind == "application/jwk-set+json");
            let status = match (admitted, acceptable) {
                (false, _) => StatusCode::FORBIDDEN,
                (true, false) => StatusCode::NOT_ACCEPTABLE,
                (true, true) => StatusCode::OK,
            };
            shelf.headers = headers;
            (status, shelf.keys.clone())
        }
        let app = Router::new()
            .route("/keys", get(answer))
            .route("/openid/v1/jwks", get(answer))
            .with_state(Arc::clone(&self.shelf));
        self.server = Some(Server::start(self.port, app)?);
        Ok(())
    }

    fn publish(&self, keys: impl ToString) {
        self.shelf
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .keys = keys.to_string();
    }

    fn fetches(&self) -> usize {
        self.shelf
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .fetches
    }

    async fn proxy(&self, name: &str) -> Result<Proxy> {
        let plugin = json!({"jwtRules": [{
            "issuer": ISSUER, "audiences": ["orders"],
            "jwksUri": "https://idp.example/keys", "jwksCluster": "idp",
            "tokenTypes": ["at+jwt", "JWT"],
        }]});
        Proxy::start(name, &[("edge", plugin)], &[("idp", loopback(self.port))]).await
    }
}

fn token(key: &Key) -> Result<String> {
    Token::new(ISSUER, "orders", unix_now()).sign(key)
}

async fn expect(proxy: &Proxy, token: &str, status: u16, code: Option<&str>) -> Result<()> {
    for response in proxy
        .ask_each_worker("edge", |_| Request::get("/").bearer(token))
        .await?
    {
        ensure!(
            response.status == status && response.code().as_deref() == code,
            "expected {status} {code:?}, got {response:?}"
        );
    }
    Ok(())
}

async fn until_answered(proxy: &Proxy, token: &str, status: u16) -> Result<()> {
    until(
        &format!("status {status} from both workers"),
        SOON,
        || async {
            let responses = proxy
                .ask_each_worker("edge", |_| Request::get("/").bearer(token))
                .await
                .ok()?;
            responses
                .iter()
                .all(|response| response.status == status)
                .then_some(())
        },
    )
    .await
}

async fn counted(proxy: &Proxy, stat: &str, least: u64) -> Result<()> {
    until(stat, SOON, || async {
        (proxy
            .envoy()
            .stat(&format!("wasmcustom.meshseal.{stat}"))
            .await
            .ok()?
            >= least)
            .then_some(())
    })
    .await
}

#[test]
fn fetches_new_key_while_request_waits() -> Result<()> {
    run(async {
        let mut provider = Provider::new()?;
        let (first, second) = (
            Key::generate(Kind::Rsa, "first")?,
            Key::generate(Kind::P256, "second")?,
        );
        provider.publish(jwks(&[&first])?);
        provider.serve()?;
        let proxy = provider.proxy("idp-rotation").await?;
        until_answered(&proxy, &token(&first)?, 200).await?;
        provider.publish(jwks(&[&first, &second])?);
        expect(&proxy, &token(&second)?, 200, None).await?;
        expect(&proxy, &token(&first)?, 200, None).await
    })
}

#[test]
fn answers_503_until_provider_starts() -> Result<()> {
    run(async {
        let mut provider = Provider::new()?;
        let key = Key::generate(Kind::P256, "k")?;
        let proxy = provider.proxy("idp-late").await?;
        expect(&proxy, &token(&key)?, 503, Some("keys-unavailable")).await?;
        provider.publish(jwks(&[&key])?);
        provider.serve()?;
        until_answered(&proxy, &token(&key)?, 200).await
    })
}

#[test]
fn keeps_last_good_keys_when_provider_fails() -> Result<()> {
    run(async {
        let mut provider = Provider::new()?;
        let (key, stranger) = (
            Key::generate(Kind::Ed25519, "k")?,
            Key::generate(Kind::Ed25519, "stranger")?,
        );
        provider.publish(jwks(&[&key])?);
        provider.serve()?;
        let proxy = provider.proxy("idp-away").await?;
        until_answered(&proxy, &token(&key)?, 200).await?;
        for nonsense in [
            "<html>maintenance</html>",
            "{\"keys\": []}",
            "{\"keys\": 7}",
            "",
        ] {
            let fetches = provider.fetches();
            provider.publish(nonsense);
            // An unknown kid makes the filter fetch again as soon as its rate limit allows.
            until(&format!("a fetch of {nonsense:?}"), SOON, || async {
                expect(&proxy, &token(&stranger).ok()?, 401, Some("key-unknown"))
                    .await
                    .ok()?;
                (provider.fetches() > fetches).then_some(())
            })
            .await?;
            expect(&proxy, &token(&key)?, 200, None).await?;
        }
        counted(&proxy, "jwks.failed", 1).await?;
        provider.server = None;
        expect(&proxy, &token(&key)?, 200, None).await
    })
}

#[test]
fn binds_key_without_alg_and_skips_unknown() -> Result<()> {
    run(async {
        let mut provider = Provider::new()?;
        let key = Key::generate(Kind::Rsa, "bare")?;
        let mut bare = key.bare_jwk()?;
        if let Some(members) = bare.as_object_mut() {
            members.insert("kid".to_owned(), "bare".into());
        }
        let unknown: Value = json!({"kty": "AKP", "alg": "ML-DSA-44", "kid": "pq", "pub": "AAAA"});
        provider.publish(json!({"keys": [unknown, bare]}));
        provider.serve()?;
        let proxy = provider.proxy("idp-bare").await?;
        until_answered(&proxy, &token(&key)?, 200).await?;
        let pss = Token::new(ISSUER, "orders", unix_now())
            .header("alg", "PS256")
            .sign(&key)?;
        expect(&proxy, &pss, 401, Some("algorithm-mismatch")).await?;
        counted(&proxy, "jwks.skipped_keys", 1).await
    })
}

#[test]
fn fetches_replaced_key_with_same_kid() -> Result<()> {
    run(async {
        let mut provider = Provider::new()?;
        let (old, new) = (
            Key::generate(Kind::P256, "main")?,
            Key::generate(Kind::P256, "main")?,
        );
        provider.publish(jwks(&[&old])?);
        provider.serve()?;
        let proxy = provider.proxy("idp-same-kid").await?;
        until_answered(&proxy, &token(&old)?, 200).await?;
        provider.publish(jwks(&[&new])?);
        expect(&proxy, &token(&new)?, 200, None).await?;
        expect(&proxy, &token(&old)?, 401, Some("signature-invalid")).await
    })
}

/// A bad or repeated entry in a key set does not affect the other keys.
#[test]
fn flawed_key_sets_serve_their_good_keys() -> Result<()> {
    run(async {
        let mut provider = Provider::new()?;
        let (good, rsa) = (
            Key::generate(Kind::P256, "good")?,
            Key::generate(Kind::Rsa, "main")?,
        );
        let twins = [
            Key::generate(Kind::Ed25519, "twin")?,
            Key::generate(Kind::Ed25519, "twin")?,
        ];
        // Flaws: unset members, a repeated key, two keys with the same kid, a private key.
        let mut unset = good.jwk()?;
        for name in ["d", "oth", "key_ops", "x5c"] {
            unset[name] = if name == "d" { Value::Null } else { json!([]) };
        }
        let private = json!({"kty": "EC", "crv": "P-256", "kid": "leaked", "d": "AAAA"});
        let [one, two] = [twins[0].jwk()?, twins[1].jwk()?];
        provider.publish(json!({"keys": [
            unset, rsa.jwk()?, rsa.jwk_for("RS512")?, rsa.jwk()?, one, two, private,
        ]}));
        provider.serve()?;
        // This test counts log lines, and Envoy appends to the log of an earlier run.
        drop(fs::remove_file(folder("idp-flaws").join("envoy.log")));
        let proxy = provider.proxy("idp-flaws").await?;
        until_answered(&proxy, &token(&good)?, 200).await?;
        expect(&proxy, &token(&rsa)?, 200, None).await?;
        let longer = Token::new(ISSUER, "orders", unix_now())
            .header("alg", "RS512")
            .sign(&rsa)?;
        expect(&proxy, &longer, 200, None).await?;
        expect(&proxy, &token(&twins[0])?, 401, Some("key-ambiguous")).await?;
        let log = proxy.envoy().log();
        for reason in [
            "keys[4]: kid \"twin\" names different keys for EdDSA",
            "keys[6].d: a private member",
        ] {
            // Each VM logs a line, and each thread of Envoy has a VM.
            let lines = log.matches(reason).count();
            ensure!(
                (1..=WORKERS + 1).contains(&lines),
                "{reason}: logged {lines} times"
            );
        }
        Ok(())
    })
}

#[test]
fn answers_503_after_maximum_key_age() -> Result<()> {
    run(async {
        let mut provider = Provider::new()?;
        let key = Key::generate(Kind::P256, "k")?;
        provider.publish(jwks(&[&key])?);
        provider.serve()?;
        let plugin = json!({"jwtRules": [{
            "issuer": ISSUER, "audiences": ["orders"],
            "jwksUri": "https://idp.example/keys", "jwksCluster": "idp",
            "refreshInterval": "10s", "staleness": {"maxAge": "10s"},
        }]});
        let clusters = [("idp", loopback(provider.port))];
        let proxy = Proxy::start("idp-stale", &[("edge", plugin)], &clusters).await?;
        until_answered(&proxy, &token(&key)?, 200).await?;
        provider.publish("<html>maintenance</html>");
        until_answered(&proxy, &token(&key)?, 503).await?;
        expect(&proxy, &token(&key)?, 503, Some("keys-stale")).await?;
        provider.publish(jwks(&[&key])?);
        until_answered(&proxy, &token(&key)?, 200).await
    })
}

#[test]
fn tries_both_key_sets_of_one_issuer() -> Result<()> {
    run(async {
        let (mut first, mut second) = (Provider::new()?, Provider::new()?);
        let (a, b) = (
            Key::generate(Kind::P256, "main")?,
            Key::generate(Kind::P256, "main")?,
        );
        first.publish(jwks(&[&a])?);
        second.publish(jwks(&[&b])?);
        first.serve()?;
        second.serve()?;
        let rules = ["a", "b"].map(|cluster| {
            json!({
                "issuer": ISSUER, "audiences": ["orders"],
                "jwksUri": "https://k8s.example/keys", "jwksCluster": cluster,
            })
        });
        let plugin = json!({ "jwtRules": rules });
        let clusters = [("a", loopback(first.port)), ("b", loopback(second.port))];
        let proxy = Proxy::start("idp-two-sets", &[("edge", plugin)], &clusters).await?;
        until_answered(&proxy, &token(&a)?, 200).await?;
        until_answered(&proxy, &token(&b)?, 200).await
    })
}

/// Runs the shipped example with only its ports changed.
#[test]
fn cluster_adds_credential_to_fetches() -> Result<()> {
    run(async {
        let mut provider = Provider::new()?;
        let key = Key::generate(Kind::Rsa, "k8s")?;
        provider.publish(jwks(&[&key])?);
        let bearer = "Bearer an-example-that-opens-nothing";
        if let Ok(mut shelf) = provider.shelf.lock() {
            shelf.credential = Some(bearer.to_owned());
        }
        provider.serve()?;
        let shipped = fs::read_to_string(paths::envoy_config().join("jwks-with-credential.yaml"))?;
        ensure!(
            !shipped.contains("an-example"),
            "the shipped configuration must not contain the secret"
        );
        let shipped = shipped
            .replace("target/meshseal.wasm", &paths::wasm().display().to_string())
            .replace("port_value: 9901", "port_value: 0")
            .replace("port_value: 10000", "port_value: 0")
            .replace(
                "port_value: 8080",
                &format!("port_value: {}", provider.port),
            );
        let dir = folder("idp-credential");
        let config = dir.join("bootstrap.yaml");
        write_whole(&config, &shipped)?;
        build::wasm()?;
        let envoy = Envoy::start(&Options {
            config,
            workers: 1,
            node: "edge".to_owned(),
            dir,
        })
        .await?;
        let edge = envoy.listener("edge").await?;
        let now = unix_now();
        let account = Token::new(
            "https://kubernetes.default.svc.cluster.local",
            "orders",
            now,
        )
        .header("typ", "JWT")
        .sign(&key)?;
        until("the keys", SOON, || async {
            let response = send(edge, &Request::get("/").bearer(&account)).await.ok()?;
            (response.status == 200).then_some(())
        })
        .await?;
        let shelf = provider
            .shelf
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        ensure!(
            shelf
                .headers
                .get("authorization")
                .is_some_and(|value| value == bearer),
            "{:?}",
            shelf.headers
        );
        Ok(())
    })
}

#[test]
fn unknown_keys_cause_few_fetches() -> Result<()> {
    run(async {
        let mut provider = Provider::new()?;
        let key = Key::generate(Kind::Ed25519, "k")?;
        provider.publish(jwks(&[&key])?);
        provider.serve()?;
        let proxy = provider.proxy("idp-flood").await?;
        until_answered(&proxy, &token(&key)?, 200).await?;
        let before = provider.fetches();
        for number in 0..100 {
            let strange = Token::new(ISSUER, "orders", unix_now())
                .header("kid", format!("made-up-{number}"))
                .sign(&key)?;
            expect(&proxy, &strange, 401, Some("key-unknown")).await?;
        }
        let fetches = provider.fetches() - before;
        assert!(
            fetches <= 20 * WORKERS,
            "200 requests with unknown keys caused {fetches} fetches"
        );
        Ok(())
    })
}
