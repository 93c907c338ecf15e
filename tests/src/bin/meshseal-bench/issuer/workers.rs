//! Time until the workers of a real Envoy reject a revoked token.

use std::time::Duration;

use anyhow::{Result, ensure};
use meshseal_tests::bootstrap::{Bootstrap, answering_listener, meshseal};
use meshseal_tests::clock::Stopwatch;
use meshseal_tests::envoy::{Envoy, Options};
use meshseal_tests::http::{Connection, Request};
use meshseal_tests::issuer::state_folder;
use meshseal_tests::wait::until;
use meshseal_tests::workers::connect_each;
use serde_json::json;

use super::server::{Credentials, Server};
use crate::Effort;
use crate::drive::{Answers, Client};
use crate::process::percentile;
use crate::report::{Bound, Table};

const WORKERS: usize = 2;
const LISTENER: &str = "pushed";

pub(crate) async fn run(credentials: &Credentials, effort: &Effort) -> Result<Table> {
    let mut server = Server::start("workers", credentials).await?;
    let mut envoy = start_envoy(&server).await?;
    // Each worker and the main thread poll.
    let server_lock = tokio::sync::Mutex::new(&mut server);
    until("the workers to poll", Duration::from_secs(20), || async {
        (server_lock.lock().await.polls().await.ok()? > WORKERS as u64).then_some(())
    })
    .await?;
    let address = envoy.listener(LISTENER).await?;
    let mut connections = connect_each(&envoy, LISTENER, address, WORKERS).await?;
    let mut changer = Client::connect(server.address()).await?;
    let mut times = Answers::new();
    for _ in 0..effort.revocations {
        let token = server.token(credentials).await?;
        let request = Request::get("/orders/1").bearer(&token);
        for connection in &mut connections {
            let status = connection.send(&request).await?.status;
            ensure!(
                status == 200,
                "a worker answered a good token with {status}"
            );
        }
        // Each worker is asked until it rejects the token.
        let revoke = credentials.with_secret("/revoke", &format!("token={token}"));
        let watch = Stopwatch::start();
        let asking = connections
            .into_iter()
            .map(|connection| tokio::spawn(refused(connection, request.clone(), watch)));
        let asking: Vec<_> = asking.collect();
        changer.ask(&revoke, 200).await?;
        connections = Vec::new();
        for worker in asking {
            let (connection, time) = worker.await??;
            connections.push(connection);
            times.push(time);
        }
    }
    envoy.stop().await;
    server.stop().await;
    times.sort_unstable();
    let mut table = Table::new(
        "The push: workers of a real Envoy",
        "From sending the revocation to the first request that a worker refuses; each is asked \
         every millisecond or so. Keys come in the same bundle.",
        ["what", "figure", "target", ""],
    );
    let none = String::new;
    table.row([
        "50 % of revocations, ms".to_owned(),
        crate::report::short(percentile(&times, 50) / 1e3),
        none(),
        none(),
    ]);
    table.judged(
        ["99 % of revocations, ms".to_owned()],
        percentile(&times, 99) / 1e3,
        Bound::AtMost(100.0),
    );
    Ok(table)
}

/// Sends requests until the worker rejects the token. Returns the elapsed time.
async fn refused(
    mut connection: Connection,
    request: Request,
    watch: Stopwatch,
) -> Result<(Connection, Duration)> {
    while connection.send(&request).await?.status == 200 {
        ensure!(
            watch.elapsed() < Duration::from_secs(10),
            "a revoked token was still good after 10 s"
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok((connection, watch.elapsed()))
}

async fn start_envoy(server: &Server) -> Result<Envoy> {
    let plugin = json!({
        "trustBundle": {"cluster": "issuer", "keys": server.pins()?},
        "jwtRules": [{"issuer": server.url(), "audiences": ["orders"], "trustBundle": true}],
    });
    let dir = state_folder("bench").join("workers-envoy");
    let config = dir.join("bootstrap.json");
    let listener = answering_listener(LISTENER, &[meshseal(&plugin)]);
    Bootstrap::new()
        .listener(listener)
        .cluster("issuer", server.address())
        .write(&config)?;
    let workers = u32::try_from(WORKERS)?;
    Envoy::start(&Options {
        config,
        workers,
        node: "bench".to_owned(),
        dir,
    })
    .await
}
