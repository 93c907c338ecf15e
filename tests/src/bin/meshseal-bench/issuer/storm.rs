//! A thousand revocations per second, while ten thousand workers poll and a hundred receipts wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use meshseal_tests::clock::Stopwatch;
use meshseal_tests::wait::until;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::server::{Credentials, GRANT, Server};
use super::steady;
use crate::drive::{Client, Requests};
use crate::process::{as_f64, cpu, percentile};
use crate::report::{Bound, Table, short};

const WORKERS: u64 = 10_000;
const RECEIPTS: usize = 100;
const REVOCATIONS_PER_SECOND: u32 = 1_000;
const TOKENS_PER_SECOND: u32 = 100;
const SECONDS: u32 = 6;
/// Number of connections for revocations. It is high, because each waits for its publication.
const CONNECTIONS: u32 = 2_048;

pub(crate) async fn run(credentials: &Credentials) -> Result<Table> {
    let mut server = Server::start("storm", credentials).await?;
    let requests = revocations(&mut server, credentials).await?;
    let (over, answered) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    // Background: workers that poll.
    let mut background = JoinSet::new();
    for worker in 0..WORKERS {
        let client = Client::connect(server.address())
            .await
            .context("more open files are needed: ulimit -n 20000")?;
        background.spawn(poll(
            client,
            worker,
            Arc::clone(&over),
            Arc::clone(&answered),
        ));
    }
    // One worker never confirms, so that receipts wait for it.
    Client::connect(server.address())
        .await?
        .ask(first_poll(WORKERS).as_bytes(), 200)
        .await?;
    let counted = Mutex::new(server);
    until("all workers to wait", Duration::from_secs(60), || async {
        (counted.lock().await.polls().await.ok()? >= WORKERS).then_some(())
    })
    .await?;
    // Background: receipts that wait.
    let server = counted.into_inner();
    for number in 0..RECEIPTS {
        let mut client = Client::connect(server.address()).await?;
        let request =
            credentials.with_secret("/revoke", &format!("subject=receipt-{number}&wait=30"));
        background.spawn(async move { client.ask(&request, 200).await.map(|_| ()) });
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    // Measurement.
    answered.store(0, Ordering::Relaxed);
    let tokens = Requests::new(vec![
        credentials.with_secret("/token", GRANT);
        usize::try_from(TOKENS_PER_SECOND * SECONDS)?
    ]);
    let (before, watch) = (cpu(server.pid())?, Stopwatch::start());
    let (revoked, issued) = tokio::join!(
        steady::run(
            server.address(),
            &requests,
            REVOCATIONS_PER_SECOND,
            CONNECTIONS
        ),
        steady::run(
            server.address(),
            &tokens,
            TOKENS_PER_SECOND,
            steady::CONNECTIONS
        ),
    );
    let (revoked, issued, elapsed) = (revoked?, issued?, watch.elapsed().as_secs_f64());
    let cores = (cpu(server.pid())? - before).as_secs_f64() / elapsed;
    over.store(true, Ordering::Relaxed);
    background.shutdown().await;
    server.stop().await;
    // Report.
    let mut table = Table::new(
        "A storm of revocations",
        "1 000 revocations and 100 tokens a second for six seconds, 10 000 workers that poll, \
         100 receipts that wait. A latency counts from when its request was due. Client and \
         issuer share the machine.",
        ["what", "figure", "target", ""],
    );
    table.judged(
        ["cores that the issuer takes".to_owned()],
        cores,
        Bound::AtMost(1.0),
    );
    table.judged(
        ["/token, p99, ms".to_owned()],
        percentile(&issued, 99) / 1e3,
        Bound::AtMost(20.0),
    );
    let measured = [
        ("revocations a second", as_f64(revoked.len()) / elapsed),
        ("/revoke, p50, ms", percentile(&revoked, 50) / 1e3),
        ("/revoke, p99, ms", percentile(&revoked, 99) / 1e3),
        (
            "polls answered a second",
            as_f64(usize::try_from(answered.load(Ordering::Relaxed))?) / elapsed,
        ),
    ];
    for (what, figure) in measured {
        table.row([what.to_owned(), short(figure), String::new(), String::new()]);
    }
    Ok(table)
}

/// Returns revocation requests for new tokens, one per token.
async fn revocations(server: &mut Server, credentials: &Credentials) -> Result<Requests> {
    let mut requests = Vec::new();
    for _ in 0..REVOCATIONS_PER_SECOND * SECONDS {
        let token = server.token(credentials).await?;
        requests.push(credentials.with_secret("/revoke", &format!("token={token}&wait=0")));
    }
    Ok(Requests::new(requests))
}

fn first_poll(worker: u64) -> String {
    format!(
        "GET /bundle HTTP/1.1\r\nhost: bench\r\n\
         x-meshseal-node: bench\r\nx-meshseal-worker: {worker:016x}\r\n\r\n"
    )
}

/// Polls until `over` is set. Each poll acknowledges the version of the previous response.
async fn poll(
    mut client: Client,
    worker: u64,
    over: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
) -> Result<()> {
    let mut version = version_at(client.ask(first_poll(worker).as_bytes(), 200).await?)?;
    while !over.load(Ordering::Relaxed) {
        let poll = format!(
            "GET /bundle?have={version}&wait=30 HTTP/1.1\r\nhost: bench\r\n\
             x-meshseal-node: bench\r\nx-meshseal-worker: {worker:016x}\r\n\r\n"
        );
        version = version_at(client.ask(poll.as_bytes(), 200).await?)?;
        answered.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Reads the version from the beginning of a bundle, without parsing all of it.
fn version_at(bundle: &[u8]) -> Result<u64> {
    let payload = bundle
        .split(|byte| *byte == b'.')
        .nth(1)
        .context("not a JWS")?;
    let beginning = payload
        .get(..payload.len().min(160) / 4 * 4)
        .unwrap_or_default();
    let beginning = String::from_utf8(URL_SAFE_NO_PAD.decode(beginning)?)?;
    let after = beginning.split_once("\"ver\":").context("no version")?.1;
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    Ok(digits.parse()?)
}
