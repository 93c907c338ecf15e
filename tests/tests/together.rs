//! Issuer, filter and Envoy together: proxies get and acknowledge pushed bundles, and keep using
//! them if the issuer dies.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use meshseal_tests::bootstrap::{Bootstrap, write_listeners};
use meshseal_tests::http::{Request, Response};
use meshseal_tests::issuer::{Issuer, kid_of, state_folder};
use meshseal_tests::load::Load;
use meshseal_tests::ports::{free, loopback};
use meshseal_tests::proxy::{Proxy, WORKERS, folder, run};
use meshseal_tests::wait::until;
use meshseal_tests::workers::connect_each;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
/// Number of threads that poll. Envoy also runs the filter on its main thread.
const POLLERS: usize = WORKERS + 1;

/// An issuer, and an Envoy that pins it.
struct Scene {
    issuer: Issuer,
    proxy: Proxy,
}

impl Scene {
    async fn start(name: &str) -> Result<Self> {
        let port = free()?;
        let mut issuer = Issuer::prepare(&state_folder(name), port, 300)?;
        let plugin = json!({
            "trustBundle": {
                "cluster": "issuer", "pollToken": issuer.poll_token(), "keys": issuer.pins()?,
            },
            "jwtRules": [{"issuer": issuer.url(), "audiences": ["orders"], "trustBundle": true}],
        });
        issuer.start().await?;
        let proxy = Proxy::start(name, &[("edge", plugin)], &[("issuer", loopback(port))]).await?;
        issuer.wait_for_proxies(POLLERS, SOON).await?;
        Ok(Self { issuer, proxy })
    }

    async fn ask(&self, token: &str) -> Result<Vec<Response>> {
        self.proxy
            .ask_each_worker("edge", |_| Request::get("/").bearer(token))
            .await
    }

    async fn expect(&self, token: &str, status: u16, code: Option<&str>) -> Result<()> {
        for response in self.ask(token).await? {
            ensure!(
                response.status == status && response.code().as_deref() == code,
                "expected {status} {code:?}: {response:?}"
            );
        }
        Ok(())
    }
}

fn number(receipt: &Value, name: &str) -> Result<u64> {
    receipt
        .get(name)
        .and_then(Value::as_u64)
        .with_context(|| format!("no {name} in {receipt}"))
}

#[test]
fn accepts_issued_token_only_for_its_service() -> Result<()> {
    run(async {
        let scene = Scene::start("together-token").await?;
        scene
            .expect(&scene.issuer.token("orders").await?, 200, None)
            .await?;
        scene
            .expect(
                &scene.issuer.token("billing").await?,
                401,
                Some("audience-mismatch"),
            )
            .await
    })
}

/// The signing key changes three times under load. Each token is used as soon as it exists, and the
/// filter rejects no request.
#[test]
fn rotations_under_load_reject_no_token() -> Result<()> {
    run(async {
        let scene = Scene::start("together-rotation").await?;
        let first = scene.issuer.token("orders").await?;
        let mut kids = vec![kid_of(&first)?];
        let load = Load::start(scene.proxy.address("edge")?, "/", first, 500, 8).await?;
        for _ in 0..3 {
            scene.issuer.rotate().await?;
            let old = kids.last().cloned().unwrap_or_default();
            // Each check gets a token, so that the first one under the new key is used at once.
            let kid = until("a token under a new key", SOON, || async {
                let token = scene.issuer.token("orders").await.ok()?;
                let kid = kid_of(&token).ok()?;
                load.put(token);
                (kid != old).then_some(kid)
            })
            .await?;
            kids.push(kid);
            let target = load.sent() + 500;
            until("requests under the new key", SOON, || async {
                (load.sent() >= target).then_some(())
            })
            .await?;
        }
        let report = load.finish().await?;
        ensure!(
            report.rejected() == 0 && report.total >= 1_500,
            "{report:?}"
        );
        kids.sort();
        kids.dedup();
        ensure!(kids.len() == 4, "four keys signed: {kids:?}");
        Ok(())
    })
}

#[test]
fn revocation_receipt_is_true() -> Result<()> {
    run(async {
        let scene = Scene::start("together-revocation").await?;
        let (revoked, other) = (
            scene.issuer.token("orders").await?,
            scene.issuer.token("orders").await?,
        );
        scene.expect(&revoked, 200, None).await?;
        let receipt = scene.issuer.revoke(&format!("token={revoked}")).await?;
        ensure!(
            number(&receipt, "confirmed")? == number(&receipt, "proxies")?,
            "{receipt}"
        );
        ensure!(number(&receipt, "proxies")? == POLLERS as u64, "{receipt}");
        // The receipt is true at once, so the test does not wait here.
        scene.expect(&revoked, 401, Some("token-revoked")).await?;
        scene.expect(&other, 200, None).await?;

        let receipt = scene.issuer.revoke("client=shop").await?;
        ensure!(
            number(&receipt, "confirmed")? == POLLERS as u64,
            "{receipt}"
        );
        let responses = scene.ask(&other).await?;
        ensure!(
            responses
                .iter()
                .all(|response| response.code().is_some_and(|code| code == "client-revoked")),
            "{responses:?}"
        );
        Ok(())
    })
}

/// A second listener inherits the bundle of the first. It cannot reach the issuer and never polls,
/// so no receipt lists it.
#[test]
fn receipt_holds_for_listener_that_never_polled() -> Result<()> {
    run(async {
        let (port, unused) = (free()?, free()?);
        let mut issuer = Issuer::prepare(&state_folder("together-lent"), port, 300)?;
        let pins = issuer.pins()?;
        let plugin = |cluster: &str| {
            json!({
                "trustBundle": {"cluster": cluster, "pollToken": issuer.poll_token(), "keys": pins},
                "jwtRules": [
                    {"issuer": issuer.url(), "audiences": ["orders"], "trustBundle": true},
                ],
            })
        };
        let (heard, unheard) = (plugin("issuer"), plugin("nobody"));
        issuer.start().await?;
        let file = folder("together-lent").join("listeners.json");
        write_listeners(&file, &[("heard", &heard)])?;
        let clusters = Bootstrap::new()
            .cluster("issuer", loopback(port))
            .cluster("nobody", loopback(unused));
        let proxy =
            Proxy::start_with("together-lent", clusters.listeners_from(&file), &["heard"]).await?;
        issuer.wait_for_proxies(POLLERS, SOON).await?;
        // The second listener appears after the first one has its bundle.
        write_listeners(&file, &[("heard", &heard), ("unheard", &unheard)])?;
        let address = until("the second listener", SOON, || async {
            proxy.envoy().listener("unheard").await.ok()
        })
        .await?;
        let mut workers = connect_each(proxy.envoy(), "unheard", address, WORKERS).await?;

        let revoked = issuer.token("orders").await?;
        for worker in &mut workers {
            let response = worker.send(&Request::get("/").bearer(&revoked)).await?;
            ensure!(
                response.status == 200,
                "the second listener lacks the bundle of the first: {response:?}"
            );
        }
        // A complete receipt must also be true of the second listener.
        let receipt = issuer.revoke(&format!("token={revoked}")).await?;
        ensure!(receipt.get("complete") == Some(&true.into()), "{receipt}");
        for worker in &mut workers {
            let response = worker.send(&Request::get("/").bearer(&revoked)).await?;
            ensure!(
                response.code().as_deref() == Some("token-revoked"),
                "{response:?}"
            );
        }
        Ok(())
    })
}

#[test]
fn revoked_key_is_replaced_and_rejected_everywhere() -> Result<()> {
    run(async {
        let scene = Scene::start("together-key").await?;
        let token = scene.issuer.token("orders").await?;
        scene.issuer.revoke_key(&kid_of(&token)?).await?;
        scene.issuer.wait_for_proxies(POLLERS, SOON).await?;
        scene.expect(&token, 401, Some("key-revoked")).await?;
        let fresh = until("a token under another key", SOON, || async {
            scene
                .issuer
                .token("orders")
                .await
                .ok()
                .filter(|fresh| kid_of(fresh).ok() != kid_of(&token).ok())
        })
        .await?;
        scene.expect(&fresh, 200, None).await
    })
}

#[test]
fn tokens_pass_without_issuer_until_it_returns() -> Result<()> {
    run(async {
        let mut scene = Scene::start("together-killed").await?;
        let token = scene.issuer.token("orders").await?;
        scene.issuer.kill();
        scene.expect(&token, 200, None).await?;
        scene.issuer.start().await?;
        scene.expect(&token, 200, None).await?;
        scene.issuer.wait_for_proxies(POLLERS, SOON).await?;
        scene.issuer.rotate_and_wait(SOON).await?;
        let fresh = scene.issuer.token("orders").await?;
        ensure!(kid_of(&fresh)? != kid_of(&token)?, "another key signs");
        scene.expect(&fresh, 200, None).await?;
        let receipt = scene.issuer.revoke(&format!("token={token}")).await?;
        ensure!(
            number(&receipt, "confirmed")? == POLLERS as u64,
            "{receipt}"
        );
        scene.expect(&token, 401, Some("token-revoked")).await?;
        scene.expect(&fresh, 200, None).await
    })
}
