//! Steps of the wall clock while Envoy runs; the monotonic clock does not step. Fetches and polls
//! keep their intervals, keys and bundles age by elapsed time, and requests are held as long as
//! otherwise.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use axum::Router;
use axum::extract::State;
use axum::routing::get;
use meshseal_tests::bootstrap::{Bootstrap, listener, meshseal};
use meshseal_tests::bundles::{Bundles, Manner, trust};
use meshseal_tests::clock::{Stopwatch, unix_now};
use meshseal_tests::http::Request;
use meshseal_tests::mint::{Key, Kind, Token, jwks};
use meshseal_tests::paths;
use meshseal_tests::ports::{free, loopback};
use meshseal_tests::proxy::{Proxy, WORKERS, folder, run};
use meshseal_tests::serve::Server;
use meshseal_tests::wait::until;
use serde_json::json;

const ISSUER: &str = "https://idp.example";
const DAY: i64 = 86_400;

/// Compiles the library that shifts the wall clock of a process. A C compiler is available, because
/// aws-lc needs one.
fn library(name: &str) -> Result<PathBuf> {
    let library = folder(name).join("wall_clock.so");
    let source = paths::root().join("tests/scripts/wall_clock.c");
    fs::create_dir_all(folder(name))?;
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-o"])
        .arg(&library)
        .arg(&source)
        .output()?;
    ensure!(
        compiled.status.success(),
        "cc: {}",
        String::from_utf8_lossy(&compiled.stderr)
    );
    Ok(library)
}

/// Shifts the wall clock by `seconds`. Writes the file in place, because Envoy has mapped it.
fn shift_by(file: &Path, seconds: i64) -> Result<()> {
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(file)?;
    Ok(file.write_all(&seconds.to_ne_bytes())?)
}

/// Returns the environment of an Envoy whose wall clock follows the file `shift`, initially 0.
fn shifted(library: &Path, shift: &Path) -> Result<Vec<(OsString, OsString)>> {
    shift_by(shift, 0)?;
    let env = [("LD_PRELOAD", library), ("WALL_CLOCK_SHIFT", shift)];
    Ok(env.map(|(name, path)| (name.into(), path.into())).into())
}

async fn statuses(proxy: &Proxy, token: &str) -> Result<Vec<u16>> {
    let responses = proxy
        .ask_each_worker("edge", |_| Request::get("/").bearer(token))
        .await?;
    Ok(responses.iter().map(|response| response.status).collect())
}

#[test]
fn clock_steps_do_not_change_polling() -> Result<()> {
    let library = library("clock")?;
    run(async {
        let key = Key::generate(Kind::P256, "k")?;
        let (fetches, keys, port) = (
            Arc::new(AtomicUsize::new(0)),
            jwks(&[&key])?.to_string(),
            free()?,
        );
        let answer = |State((fetches, keys)): State<(Arc<AtomicUsize>, String)>| async move {
            fetches.fetch_add(1, Ordering::SeqCst);
            keys
        };
        let app = Router::new()
            .route("/keys", get(answer))
            .with_state((Arc::clone(&fetches), keys));
        let _server = Server::start(port, app)?;
        let plugin = json!({"jwtRules": [{
            "issuer": ISSUER, "audiences": ["orders"],
            "jwksUri": "https://idp.example/keys", "jwksCluster": "idp",
            "refreshInterval": "10s",
        }]});
        let shift = folder("clock").join("shift");
        let env = shifted(&library, &shift)?;
        let edge = listener("edge", &[meshseal(&plugin)], "echo");
        let bootstrap = Bootstrap::new()
            .listener(edge)
            .cluster("idp", loopback(port));
        let proxy = Proxy::start_with_env("clock", bootstrap, &["edge"], env).await?;
        let good_at = |now: u64| Token::new(ISSUER, "orders", now).sign(&key);
        until("keys", Duration::from_secs(20), || async {
            (statuses(&proxy, &good_at(unix_now()).ok()?).await.ok()? == [200; WORKERS])
                .then_some(())
        })
        .await?;
        for shifted_by in [400 * DAY, -DAY, 0] {
            let before = fetches.load(Ordering::SeqCst);
            shift_by(&shift, shifted_by)?;
            // A token that is valid by the shifted clock proves that Envoy sees the shift.
            let shifted = unix_now().saturating_add_signed(shifted_by);
            let good = good_at(shifted)?;
            ensure!(
                statuses(&proxy, &good).await? == [200; WORKERS],
                "Envoy's wall clock is not shifted by {shifted_by} s"
            );
            // A held request waits as long as without the shift.
            let unknown = Token::new(ISSUER, "orders", shifted)
                .header("kid", "made-up")
                .sign(&key)?;
            let asked = Stopwatch::start();
            ensure!(
                statuses(&proxy, &unknown).await? == [401; WORKERS],
                "an unknown key"
            );
            ensure!(
                asked.elapsed() < Duration::from_secs(2),
                "held for {:?} after {shifted_by} s",
                asked.elapsed()
            );
            tokio::time::sleep(Duration::from_secs(13)).await;
            // Expected: one refresh per worker, and the fetches that the unknown key may cause.
            let fetched = fetches.load(Ordering::SeqCst) - before;
            ensure!(
                (WORKERS..=4 * WORKERS).contains(&fetched),
                "{fetched} fetches within 13 s after {shifted_by} s"
            );
            ensure!(
                statuses(&proxy, &good).await? == [200; WORKERS],
                "good keys after {shifted_by} s"
            );
        }
        Ok(())
    })
}

/// Signs a token that is valid by the shifted wall clock.
fn sign(key: &Key, shifted_by: i64) -> Result<String> {
    let jti = meshseal_core::revocation::jti_with_index(7, [1; 8]);
    let now = unix_now().saturating_add_signed(shifted_by);
    Token::new(ISSUER, "orders", now)
        .claim("jti", jti)
        .sign(key)
}

#[test]
fn clock_steps_do_not_change_bundle_age() -> Result<()> {
    let library = library("bundle-clock")?;
    run(async {
        let bundles = Bundles::start()?;
        let mut config = bundles.config("bundles")?;
        config["wait"] = json!("1s");
        config["staleness"] = json!({"maxAge": "6s"});
        let plugin = json!({
            "trustBundle": config,
            "jwtRules": [{"issuer": ISSUER, "audiences": ["orders"], "trustBundle": true}],
        });
        let shift = folder("bundle-clock").join("shift");
        let env = shifted(&library, &shift)?;
        let edge = listener("edge", &[meshseal(&plugin)], "echo");
        let bootstrap = Bootstrap::new()
            .listener(edge)
            .cluster("bundles", bundles.address());
        let proxy = Proxy::start_with_env("bundle-clock", bootstrap, &["edge"], env).await?;
        let mut key = Key::generate(Kind::Ed25519, "first")?;
        bundles.publish(trust(ISSUER, &[&key])?);
        for shifted_by in [0, -DAY, 400 * DAY] {
            let answers = |key: &Key, status: u16| {
                let (token, proxy) = (sign(key, shifted_by), &proxy);
                async move {
                    (statuses(proxy, &token.ok()?).await.ok()? == [status; WORKERS]).then_some(())
                }
            };
            let soon = Duration::from_secs(15);
            shift_by(&shift, shifted_by)?;
            // The bundle is polled and stays confirmed.
            until("a bundle", soon, || answers(&key, 200)).await?;
            // Sleep for two maximum ages, so that the bundle is valid only if it was confirmed.
            tokio::time::sleep(Duration::from_secs(12)).await;
            ensure!(
                statuses(&proxy, &sign(&key, shifted_by)?).await? == [200; WORKERS],
                "after {shifted_by} s"
            );
            // A new version withdraws the key.
            let withdrawn = key;
            key = Key::generate(Kind::Ed25519, &format!("after{shifted_by}"))?;
            bundles.publish(trust(ISSUER, &[&key])?);
            until("the next bundle", soon, || answers(&key, 200)).await?;
            ensure!(
                statuses(&proxy, &sign(&withdrawn, shifted_by)?).await? == [401; WORKERS],
                "the key was withdrawn after {shifted_by} s"
            );
            // Without confirmation the bundle becomes stale.
            bundles.set_manner(Manner::Status(503));
            until("a stale bundle", soon, || answers(&key, 503)).await?;
            bundles.set_manner(Manner::Right);
        }
        Ok(())
    })
}
