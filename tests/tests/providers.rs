//! Third-party issuers: keys fetched from `jwksUri` through a cluster.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use axum::Router;
use axum::extract::State;
use axum::routing::get;
use meshseal_tests::clock::unix_now;
use meshseal_tests::http::Request;
use meshseal_tests::mint::{Key, Kind, Token, jwks};
use meshseal_tests::ports::{free, loopback};
use meshseal_tests::proxy::{Proxy, WORKERS, run};
use meshseal_tests::serve::Server;
use meshseal_tests::wait::until;
use serde_json::{Value, json};

const ISSUER: &str = "https://idp.example";
const SOON: Duration = Duration::from_secs(20);

#[derive(Debug, Default)]
struct Shelf {
    keys: String,
    fetches: usize,
}

/// An identity provider that serves its keys and counts how often.
struct Provider {
    shelf: Arc<Mutex<Shelf>>,
    port: u16,
    server: Option<Server>,
}

impl Provider {
    fn new() -> Result<Self> {
        Ok(Self { shelf: Arc::default(), port: free()?, server: None })
    }

    fn serve(&mut self) -> Result<()> {
        async fn answer(State(shelf): State<Arc<Mutex<Shelf>>>) -> String {
            let mut shelf = shelf.lock().unwrap_or_else(PoisonError::into_inner);
            shelf.fetches += 1;
            shelf.keys.clone()
        }
        let app = Router::new().route("/keys", get(answer)).with_state(Arc::clone(&self.shelf));
        self.server = Some(Server::start(self.port, app)?);
        Ok(())
    }

    fn publish(&self, keys: impl ToString) {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner).keys = keys.to_string();
    }

    fn fetches(&self) -> usize {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner).fetches
    }

    async fn proxy(&self, name: &str) -> Result<Proxy> {
        let plugin = json!({"jwtRules": [{
            "issuer": ISSUER, "audiences": ["orders"], "jwksUri": "https://idp.example/keys", "jwksCluster": "idp",
            "tokenTypes": ["at+jwt", "JWT"],
        }]});
        Proxy::start(name, &[("edge", plugin)], &[("idp", loopback(self.port))]).await
    }
}

fn token(key: &Key) -> Result<String> {
    Token::new(ISSUER, "orders", unix_now()).sign(key)
}

async fn expect(proxy: &Proxy, token: &str, status: u16, code: Option<&str>) -> Result<()> {
    for response in proxy.ask_each_worker("edge", |_| Request::get("/").bearer(token)).await? {
        ensure!(
            response.status == status && response.code().as_deref() == code,
            "expected {status} {code:?}, got {response:?}"
        );
    }
    Ok(())
}

async fn until_answered(proxy: &Proxy, token: &str, status: u16) -> Result<()> {
    until(&format!("status {status} from both workers"), SOON, || async {
        let responses = proxy.ask_each_worker("edge", |_| Request::get("/").bearer(token)).await.ok()?;
        responses.iter().all(|response| response.status == status).then_some(())
    })
    .await
}

async fn counted(proxy: &Proxy, stat: &str, least: u64) -> Result<()> {
    until(stat, SOON, || async {
        (proxy.envoy().stat(&format!("wasmcustom.meshseal.{stat}")).await.ok()? >= least).then_some(())
    })
    .await
}

#[test]
fn keys_are_fetched_and_a_new_key_is_asked_for_while_the_request_waits() -> Result<()> {
    run(async {
        let mut provider = Provider::new()?;
        let (first, second) = (Key::generate(Kind::Rsa, "first")?, Key::generate(Kind::P256, "second")?);
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
fn without_a_provider_the_filter_cannot_know_and_then_learns() -> Result<()> {
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
fn the_last_good_keys_stay_when_the_provider_is_away_or_talks_nonsense() -> Result<()> {
    run(async {
        let mut provider = Provider::new()?;
        let (key, stranger) = (Key::generate(Kind::Ed25519, "k")?, Key::generate(Kind::Ed25519, "stranger")?);
        provider.publish(jwks(&[&key])?);
        provider.serve()?;
        let proxy = provider.proxy("idp-away").await?;
        until_answered(&proxy, &token(&key)?, 200).await?;
        for nonsense in ["<html>maintenance</html>", "{\"keys\": []}", "{\"keys\": 7}", ""] {
            let fetches = provider.fetches();
            provider.publish(nonsense);
            // An unknown kid makes the filter fetch again, as soon as its rate limit lets it.
            until(&format!("a fetch of {nonsense:?}"), SOON, || async {
                expect(&proxy, &token(&stranger).ok()?, 401, Some("key-unknown")).await.ok()?;
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
fn a_key_without_alg_is_bound_to_one_and_unknown_keys_are_skipped() -> Result<()> {
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
        let pss = Token::new(ISSUER, "orders", unix_now()).header("alg", "PS256").sign(&key)?;
        expect(&proxy, &pss, 401, Some("algorithm-mismatch")).await?;
        counted(&proxy, "jwks.skipped_keys", 1).await
    })
}

#[test]
fn a_flood_of_unknown_keys_causes_few_fetches() -> Result<()> {
    run(async {
        let mut provider = Provider::new()?;
        let key = Key::generate(Kind::Ed25519, "k")?;
        provider.publish(jwks(&[&key])?);
        provider.serve()?;
        let proxy = provider.proxy("idp-flood").await?;
        until_answered(&proxy, &token(&key)?, 200).await?;
        let before = provider.fetches();
        for number in 0..100 {
            let strange =
                Token::new(ISSUER, "orders", unix_now()).header("kid", format!("made-up-{number}")).sign(&key)?;
            expect(&proxy, &strange, 401, Some("key-unknown")).await?;
        }
        let fetches = provider.fetches() - before;
        assert!(fetches <= 20 * WORKERS, "200 requests with unknown keys caused {fetches} fetches");
        Ok(())
    })
}
