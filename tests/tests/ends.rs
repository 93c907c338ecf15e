//! End of streams: the property of Envoy on which the filter relies, and the filter's behaviour
//! when a held request ends.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use meshseal_tests::bootstrap::{Bootstrap, answering_listener, wasm};
use meshseal_tests::bundles::{Bundles, Manner, trust};
use meshseal_tests::clock::unix_now;
use meshseal_tests::http::Request;
use meshseal_tests::mint::{Key, Kind, Token};
use meshseal_tests::proxy::{Proxy, folder, run};
use meshseal_tests::wait::until;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::sleep;

const ISSUER: &str = "https://issuer.example";
const SOON: Duration = Duration::from_secs(20);

fn token(key: &Key) -> Result<String> {
    Token::new(ISSUER, "orders", unix_now()).sign(key)
}

/// Sends a request and closes the connection `after` that time.
async fn send_and_leave(to: SocketAddr, token: &str, after: Duration) -> Result<()> {
    let mut connection = TcpStream::connect(to).await?;
    let request =
        format!("GET / HTTP/1.1\r\nhost: orders\r\nauthorization: Bearer {token}\r\n\r\n");
    connection.write_all(request.as_bytes()).await?;
    sleep(after).await;
    Ok(())
}

/// Writes a module that holds every request for ever. At each tick and at the end of the stream it
/// counts whether the request has the property `request.duration`.
fn probe(name: &str) -> Result<PathBuf> {
    let metrics = [
        "probe.held",
        "probe.held_known",
        "probe.ended",
        "probe.ended_known",
    ];
    let mut data = String::new();
    let mut define = String::new();
    for (at, metric) in metrics.iter().enumerate() {
        let (text, id, length) = (100 + at * 32, 16 + at * 4, metric.len());
        data += &format!("(data (i32.const {text}) \"{metric}\")");
        define += &format!(
            "(drop (call $define (i32.const 0) (i32.const {text}) \
             (i32.const {length}) (i32.const {id})))"
        );
    }
    let module = wat::parse_str(format!(
        r#"(module
          (import "env" "proxy_define_metric" (func $define (param i32 i32 i32 i32) (result i32)))
          (import "env" "proxy_increment_metric" (func $increment (param i32 i64) (result i32)))
          (import "env" "proxy_get_property" (func $property (param i32 i32 i32 i32) (result i32)))
          (import "env" "proxy_set_effective_context" (func $enter (param i32) (result i32)))
          (import "env" "proxy_set_tick_period_milliseconds" (func $tick (param i32) (result i32)))
          (memory (export "memory") 1)
          (data (i32.const 0) "request\00duration") {data}
          (global $stream (mut i32) (i32.const 0))
          (func $look (param $counter i32)
            (drop (call $increment (i32.load (local.get $counter)) (i64.const 1)))
            (if (i32.eqz
                  (call $property (i32.const 0) (i32.const 16) (i32.const 40) (i32.const 44)))
              (then (drop
                (call $increment (i32.load offset=4 (local.get $counter)) (i64.const 1))))))
          (func (export "proxy_abi_version_0_2_1"))
          (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 1024))
          (func (export "proxy_on_configure") (param i32 i32) (result i32)
            {define} (drop (call $tick (i32.const 20))) (i32.const 1))
          (func (export "proxy_on_context_create") (param i32 i32))
          (func (export "proxy_on_request_headers")
            (param $context i32) (param i32 i32) (result i32)
            (global.set $stream (local.get $context)) (i32.const 1))
          (func (export "proxy_on_tick") (param i32)
            (if (global.get $stream) (then
              (if (i32.eqz (call $enter (global.get $stream)))
                (then (call $look (i32.const 16)))))))
          (func (export "proxy_on_delete") (param $context i32)
            (if (i32.eq (local.get $context) (global.get $stream)) (then
              (global.set $stream (i32.const 0)) (call $look (i32.const 24))))))"#
    ))?;
    let file = folder(name).join("probe.wasm");
    std::fs::create_dir_all(folder(name))?;
    std::fs::write(&file, module)?;
    Ok(file)
}

#[test]
fn request_duration_exists_only_after_end() -> Result<()> {
    run(async {
        let name = "ends-duration";
        let filter = wasm("probe", &probe(name)?, &json!({}));
        let proxy = Proxy::start_with(
            name,
            Bootstrap::new().listener(answering_listener("edge", &[filter])),
            &["edge"],
        )
        .await?;
        let count = async |metric: &str| {
            proxy
                .envoy()
                .stat(&format!("wasmcustom.probe.{metric}"))
                .await
        };
        for _ in 0..3 {
            send_and_leave(proxy.address("edge")?, "x", Duration::from_millis(200)).await?;
        }
        until("the streams to end", SOON, || async {
            (count("ended").await.ok()? == 3).then_some(())
        })
        .await?;
        ensure!(count("held").await? > 3, "no tick while requests were held");
        ensure!(
            count("held_known").await? == 0,
            "a held request has a duration already"
        );
        ensure!(
            count("ended_known").await? == 3,
            "an ended request has no duration"
        );
        Ok(())
    })
}

/// Smoke test: some of these requests end in the same iteration of Envoy's event loop in which the
/// filter would answer them. Not every release of Envoy shows this. The engine's tests check the
/// behaviour itself.
#[test]
fn survives_requests_that_end_while_answered() -> Result<()> {
    run(async {
        let bundles = Bundles::start()?;
        let (known, stranger) = (
            Key::generate(Kind::Ed25519, "known")?,
            Key::generate(Kind::Ed25519, "stranger")?,
        );
        let plugin = json!({
            "trustBundle": bundles.config("bundles")?,
            "jwtRules": [{"issuer": ISSUER, "audiences": ["orders"], "trustBundle": true}],
        });
        let proxy = Proxy::start(
            "ends-race",
            &[("edge", plugin)],
            &[("bundles", bundles.address())],
        )
        .await?;
        bundles.publish(trust(ISSUER, &[&known])?);
        let good = token(&known)?;
        let all_pass = async || {
            let responses = proxy
                .ask_each_worker("edge", |_| Request::get("/").bearer(&good))
                .await
                .ok()?;
            responses
                .iter()
                .all(|response| response.status == 200)
                .then_some(())
        };
        until("the bundle to arrive", SOON, &all_pass).await?;
        // Held requests wait for the maximum time and are answered at the next tick, which is after
        // 160 to 180 ms.
        bundles.set_manner(Manner::Silent);
        let (unknown, to) = (token(&stranger)?, proxy.address("edge")?);
        for _ in 0..4 {
            let leaves = (0..48).map(|at| Duration::from_micros(158_000 + at * 500));
            let requests: Vec<_> = leaves
                .map(|after| {
                    let unknown = unknown.clone();
                    tokio::spawn(async move { send_and_leave(to, &unknown, after).await })
                })
                .collect();
            for request in requests {
                request.await??;
            }
        }
        let waited = proxy.envoy().stat("wasmcustom.meshseal.waited").await?;
        ensure!(waited > 48, "only {waited} requests waited");
        ensure!(all_pass().await.is_some(), "a worker no longer serves");
        Ok(())
    })
}
