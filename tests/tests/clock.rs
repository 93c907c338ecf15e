//! A wall clock that steps while Envoy runs; the monotonic clock stays. Fetches go on in their rhythm, and no request is
//! held longer or released early.

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

/// Compiles the library that shifts the time of day of a process. A C compiler is there, because aws-lc needs one.
fn library() -> Result<PathBuf> {
    let library = folder("clock").join("wall_clock.so");
    let source = paths::root().join("tests/scripts/wall_clock.c");
    fs::create_dir_all(folder("clock"))?;
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-O2", "-o"]).arg(&library).arg(&source).output()?;
    ensure!(compiled.status.success(), "cc: {}", String::from_utf8_lossy(&compiled.stderr));
    Ok(library)
}

/// Writes in place, because Envoy has mapped the file.
fn shift_by(file: &Path, seconds: i64) -> Result<()> {
    let mut file = File::options().write(true).create(true).truncate(false).open(file)?;
    Ok(file.write_all(&seconds.to_ne_bytes())?)
}

async fn statuses(proxy: &Proxy, token: &str) -> Result<Vec<u16>> {
    let responses = proxy.ask_each_worker("edge", |_| Request::get("/").bearer(token)).await?;
    Ok(responses.iter().map(|response| response.status).collect())
}

#[test]
fn steps_of_the_wall_clock_change_no_rhythm() -> Result<()> {
    let library = library()?;
    run(async {
        let key = Key::generate(Kind::P256, "k")?;
        let (fetches, keys, port) = (Arc::new(AtomicUsize::new(0)), jwks(&[&key])?.to_string(), free()?);
        let answer = |State((fetches, keys)): State<(Arc<AtomicUsize>, String)>| async move {
            fetches.fetch_add(1, Ordering::SeqCst);
            keys
        };
        let app = Router::new().route("/keys", get(answer)).with_state((Arc::clone(&fetches), keys));
        let _server = Server::start(port, app)?;
        let plugin = json!({"jwtRules": [{
            "issuer": ISSUER, "audiences": ["orders"], "jwksUri": "https://idp.example/keys", "jwksCluster": "idp",
            "refreshInterval": "10s",
        }]});
        let shift = folder("clock").join("shift");
        shift_by(&shift, 0)?;
        let env: Vec<(OsString, OsString)> = [("LD_PRELOAD", &library), ("WALL_CLOCK_SHIFT", &shift)]
            .map(|(name, path)| (name.into(), path.into()))
            .into();
        let edge = listener("edge", &[meshseal(&plugin)], "echo");
        let bootstrap = Bootstrap::new().listener(edge).cluster("idp", loopback(port));
        let proxy = Proxy::start_with_env("clock", bootstrap, &["edge"], env).await?;
        let good_at = |now: u64| Token::new(ISSUER, "orders", now).sign(&key);
        until("keys", Duration::from_secs(20), || async {
            (statuses(&proxy, &good_at(unix_now()).ok()?).await.ok()? == [200; WORKERS]).then_some(())
        })
        .await?;
        for shifted_by in [400 * DAY, -DAY, 0] {
            let before = fetches.load(Ordering::SeqCst);
            shift_by(&shift, shifted_by)?;
            let shifted = unix_now().saturating_add_signed(shifted_by);
            let good = good_at(shifted)?;
            ensure!(
                statuses(&proxy, &good).await? == [200; WORKERS],
                "Envoy's time of day is not shifted by {shifted_by} s"
            );
            let unknown = Token::new(ISSUER, "orders", shifted).header("kid", "made-up").sign(&key)?;
            let asked = Stopwatch::start();
            ensure!(statuses(&proxy, &unknown).await? == [401; WORKERS], "an unknown key");
            ensure!(asked.elapsed() < Duration::from_secs(2), "held for {:?} after {shifted_by} s", asked.elapsed());
            tokio::time::sleep(Duration::from_secs(13)).await;
            // A refresh of each worker, and what the unknown key may ask for.
            let fetched = fetches.load(Ordering::SeqCst) - before;
            ensure!((WORKERS..=4 * WORKERS).contains(&fetched), "{fetched} fetches within 13 s after {shifted_by} s");
            ensure!(statuses(&proxy, &good).await? == [200; WORKERS], "good keys after {shifted_by} s");
        }
        Ok(())
    })
}
