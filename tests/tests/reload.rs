//! New configurations in a running Envoy: a valid one takes effect, and an invalid one is rejected
//! without any effect.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use meshseal_tests::bootstrap::{Bootstrap, write_listeners};
use meshseal_tests::bundles::{Bundles, trust};
use meshseal_tests::clock::unix_now;
use meshseal_tests::http::{Request, send};
use meshseal_tests::mint::{Key, Kind, Token};
use meshseal_tests::proxy::{Proxy, WORKERS, folder, run};
use meshseal_tests::wait::until;
use meshseal_tests::workers::connect_each;
use serde_json::{Value, json};

const ISSUER: &str = "https://issuer.example";
const SOON: Duration = Duration::from_secs(20);

fn write_listener(file: &Path, plugin: &Value) -> Result<()> {
    write_listeners(file, &[("edge", plugin)])
}

/// Sends a request on a new connection, because a new listener configuration drains the old ones.
async fn ask(proxy: &Proxy, request: &Request) -> Result<u16> {
    Ok(send(proxy.envoy().listener("edge").await?, request)
        .await?
        .status)
}

async fn until_answered(proxy: &Proxy, request: &Request, status: u16) -> Result<()> {
    until(&format!("status {status}"), SOON, || async {
        (ask(proxy, request).await.ok()? == status).then_some(())
    })
    .await
}

async fn rejected_updates(proxy: &Proxy) -> Result<u64> {
    proxy
        .envoy()
        .stat("listener_manager.lds.update_rejected")
        .await
}

#[test]
fn rejects_bad_configuration_and_keeps_old_one() -> Result<()> {
    run(async {
        let key = Key::generate(Kind::Ed25519, "k")?;
        let namesake = Key::generate(Kind::Ed25519, "k")?;
        let rule =
            json!({"issuer": ISSUER, "audiences": ["orders"], "jwks": {"keys": [key.jwk()?]}});
        let good =
            json!({"jwtRules": [rule], "rules": [{"to": [{"operation": {"paths": ["/a"]}}]}]});
        let file = folder("reload-nack").join("listeners.json");
        write_listener(&file, &good)?;
        let proxy =
            Proxy::start_with("reload-nack", Bootstrap::new().listeners_from(&file), &[]).await?;
        let token = Token::new(ISSUER, "orders", unix_now()).sign(&key)?;
        let (a, b) = (
            Request::get("/a").bearer(&token),
            Request::get("/b").bearer(&token),
        );
        until_answered(&proxy, &a, 200).await?;
        ensure!(ask(&proxy, &b).await? == 403, "no rule for /b yet");

        // Unknown member, no audience, ambiguous keys, key of another algorithm.
        let (one, both) = (
            json!({"keys": [key.jwk()?]}),
            json!({"keys": [key.jwk()?, namesake.jwk()?]}),
        );
        let mistakes = [
            json!({"jwtRules": [rule], "unknown": 1}),
            json!({"jwtRules": [{"issuer": ISSUER, "audiences": [], "jwks": one}]}),
            json!({"jwtRules": [{"issuer": ISSUER, "audiences": ["orders"], "jwks": both}]}),
            json!({"jwtRules": [
                {"issuer": ISSUER, "audiences": ["orders"], "jwks": one, "algorithms": ["RS256"]},
            ]}),
        ];
        for mistake in mistakes {
            let before = rejected_updates(&proxy).await?;
            write_listener(&file, &mistake)?;
            until("Envoy to reject the update", SOON, || async {
                (rejected_updates(&proxy).await.ok()? > before).then_some(())
            })
            .await?;
            ensure!(
                ask(&proxy, &a).await? == 200 && ask(&proxy, &b).await? == 403,
                "the old configuration is no longer active"
            );
            ensure!(
                ask(&proxy, &Request::get("/a")).await? == 401,
                "the old configuration no longer rejects"
            );
        }

        // A valid update still takes effect.
        write_listener(
            &file,
            &json!({"jwtRules": [rule], "rules": [{"to": [{"operation": {"paths": ["/b"]}}]}]}),
        )?;
        until_answered(&proxy, &b, 200).await?;
        ensure!(
            ask(&proxy, &a).await? == 403,
            "the new configuration has no rule for /a"
        );
        Ok(())
    })
}

#[test]
fn reports_every_configuration_mistake_with_its_path() -> Result<()> {
    run(async {
        let file = folder("reload-report").join("listeners.json");
        write_listener(
            &file,
            &json!({
                "mode": "SOMETIMES",
                "jwtRules": [
                    {"issuer": "", "audiences": [], "jwks": {"keys": []}, "clockSkew": "2h"},
                ],
                "rules": [{"action": "PERHAPS", "scope": ["orders.read"]}],
            }),
        )?;
        let proxy =
            Proxy::start_with("reload-report", Bootstrap::new().listeners_from(&file), &[]).await?;
        until("Envoy to reject the update", SOON, || async {
            (rejected_updates(&proxy).await.ok()? > 0).then_some(())
        })
        .await?;
        let log = proxy.envoy().log();
        for path in [
            "mode",
            "jwtRules[0].issuer",
            "jwtRules[0].audiences",
            "jwtRules[0].clockSkew",
            "rules[0].action",
            "rules[0].scope",
        ] {
            ensure!(log.contains(path), "the log does not name {path}:\n{log}");
        }
        Ok(())
    })
}

/// A new configuration starts with the keys that are already known, even if the issuer is down at
/// that moment.
#[test]
fn keys_survive_new_configuration() -> Result<()> {
    run(async {
        let key = Key::generate(Kind::Ed25519, "k")?;
        let mut bundles = Bundles::start()?;
        bundles.publish(trust(ISSUER, &[&key])?);
        let plugin = |paths: &[&str]| -> Result<Value> {
            Ok(json!({
                "trustBundle": bundles.config("bundles")?,
                "jwtRules": [{"issuer": ISSUER, "audiences": ["orders"], "trustBundle": true}],
                "rules": [{"to": [{"operation": {"paths": paths}}]}],
            }))
        };
        let (before, after) = (plugin(&["/a"])?, plugin(&["/a", "/b"])?);
        let file = folder("reload-keys").join("listeners.json");
        write_listener(&file, &before)?;
        let bootstrap = Bootstrap::new()
            .listeners_from(&file)
            .cluster("bundles", bundles.address());
        let proxy = Proxy::start_with("reload-keys", bootstrap, &[]).await?;
        let token = Token::new(ISSUER, "orders", unix_now()).sign(&key)?;
        until_answered(&proxy, &Request::get("/a").bearer(&token), 200).await?;
        until("every thread to hold the bundle", SOON, || async {
            (bundles.held().len() == WORKERS + 1).then_some(())
        })
        .await?;
        bundles.kill();
        write_listener(&file, &after)?;
        until_answered(&proxy, &Request::get("/b").bearer(&token), 200).await
    })
}

#[test]
fn drops_ended_configurations_and_keeps_serving() -> Result<()> {
    run(async {
        let key = Key::generate(Kind::Ed25519, "k")?;
        let rule =
            json!({"issuer": ISSUER, "audiences": ["orders"], "jwks": {"keys": [key.jwk()?]}});
        let plugin = |path: &str| {
            json!({
                "jwtRules": [rule],
                "rules": [{"to": [{"operation": {"paths": [path]}}]}],
            })
        };
        let file = folder("reload-ends").join("listeners.json");
        write_listener(&file, &plugin("/0"))?;
        let proxy =
            Proxy::start_with("reload-ends", Bootstrap::new().listeners_from(&file), &[]).await?;
        let token = Token::new(ISSUER, "orders", unix_now()).sign(&key)?;
        let stat = async |name: &str| proxy.envoy().stat(name).await;
        for path in ["/0", "/1", "/2", "/3"] {
            write_listener(&file, &plugin(path))?;
            let request = Request::get(path).bearer(&token);
            until_answered(&proxy, &request, 200).await?;
            let mut connections = until("both workers to have it", SOON, || async {
                let address = proxy.envoy().listener("edge").await.ok()?;
                let mut connections = connect_each(proxy.envoy(), "edge", address, WORKERS)
                    .await
                    .ok()?;
                for connection in &mut connections {
                    connection
                        .send(&request)
                        .await
                        .ok()
                        .filter(|response| response.status == 200)?;
                }
                Some(connections)
            })
            .await?;
            // More requests per worker than between two searches for ended root contexts.
            for connection in &mut connections {
                for _ in 0..1100 {
                    ensure!(connection.send(&request).await?.status == 200);
                }
            }
            until("the replaced listener to go", SOON, || async {
                (stat("listener_manager.total_listeners_draining")
                    .await
                    .ok()?
                    == 0)
                    .then_some(())
            })
            .await?;
        }
        // A VM that had trapped would have answered differently or been replaced.
        ensure!(stat("wasm.meshseal.vm_reload_success").await? == 0);
        Ok(())
    })
}
