//! Ten thousand waiting proxies: memory of the issuer, and time until a change reaches them.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use meshseal_tests::clock::Stopwatch;
use meshseal_tests::wait::until;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::server::{Credentials, Server, version_of};
use crate::drive::{Answers, Client};
use crate::process::{percentile, rss_mb};
use crate::report::{Bound, Table};

const POLLERS: usize = 10_000;
/// Waiting time of a poll, as in `wait=55` below.
const POLL: Duration = Duration::from_secs(55);
/// Number of measured revocations; each one reaches every poller.
const REVOCATIONS: usize = 5;

pub(crate) async fn run(credentials: &Credentials) -> Result<Table> {
    let server = Server::start("pollers", credentials).await?;
    let mut pollers = Pollers {
        server: Mutex::new(server),
        clients: Vec::new(),
    };
    for at in 0..POLLERS {
        let client = Client::connect(pollers.server.get_mut().address()).await;
        pollers.clients.push((
            at,
            client.context("10 000 connections need more open files: ulimit -n 20000")?,
        ));
    }
    // Revocations, then a new key.
    let mut revocations = Answers::new();
    let mut held = Vec::new();
    for _ in 0..REVOCATIONS {
        let token = pollers.server.get_mut().token(credentials).await?;
        let revoke = credentials.with_secret("/revoke", &format!("token={token}"));
        let (rss, answers) = pollers.wave(Server::address, &revoke, 200).await?;
        held.push(rss);
        revocations.extend(answers);
    }
    revocations.sort_unstable();
    let rotate = credentials.with_secret("/admin/keys/rotate", "");
    let (_, keys) = pollers.wave(Server::admin_address, &rotate, 202).await?;
    pollers.server.into_inner().stop().await;
    let mut table = Table::new(
        "The push: 10 000 waiting long-polls",
        "From sending the request that makes the change to having read the answer of the poll; \
         client and issuer share the machine.",
        ["what", "figure", "target", ""],
    );
    let first = held.first().copied().unwrap_or(f64::NAN);
    table.judged(
        ["RSS of the issuer while all wait, MB".to_owned()],
        first,
        Bound::AtMost(150.0),
    );
    let most = held.iter().copied().fold(first, f64::max);
    table.judged(
        ["the most while all wait again, after changes, MB".to_owned()],
        most,
        Bound::AtMost(150.0),
    );
    for (what, answers) in [("a revocation", revocations), ("a key", keys)] {
        table.judged(
            [format!("{what} has reached 99 %, ms")],
            percentile(&answers, 99) / 1e3,
            Bound::AtMost(1_000.0),
        );
    }
    Ok(table)
}

struct Pollers {
    server: Mutex<Server>,
    clients: Vec<(usize, Client)>,
}

impl Pollers {
    /// Lets all pollers wait, makes a change at one of the server's addresses and waits until every
    /// poll is answered. Returns the issuer's RSS before the change, and the sorted times.
    async fn wave(
        &mut self,
        to: fn(&Server) -> SocketAddr,
        change: &[u8],
        status: u16,
    ) -> Result<(f64, Answers)> {
        let server = self.server.get_mut();
        let have = version_of(&server.bundle().await?)?;
        let watch = Stopwatch::start();
        let mut waiting = JoinSet::new();
        for (worker, mut client) in std::mem::take(&mut self.clients) {
            let poll = format!(
                "GET /bundle?have={have}&wait=55 HTTP/1.1\r\nhost: bench\r\n\
                 x-meshseal-node: bench\r\nx-meshseal-worker: {worker:016x}\r\n\r\n"
            );
            waiting.spawn(async move {
                client.ask(poll.as_bytes(), 200).await?;
                anyhow::Ok((worker, client, watch.elapsed()))
            });
        }
        let server = &self.server;
        until("all pollers to wait", Duration::from_secs(50), || async {
            let held = server.lock().await.polls().await.ok()?;
            (held >= u64::try_from(POLLERS).ok()?).then_some(())
        })
        .await?;
        let rss = rss_mb(server.lock().await.pid())?;
        let mut changer = Client::connect(to(&*server.lock().await)).await?;
        let begun = watch.elapsed();
        changer.ask(change, status).await?;
        let mut answers = Answers::new();
        while let Some(answered) = waiting.join_next().await {
            let (worker, client, at) = answered??;
            answers.push(
                at.checked_sub(begun)
                    .context("a poll was answered before the change")?,
            );
            self.clients.push((worker, client));
        }
        ensure!(
            watch.elapsed() < POLL,
            "polls ended by timeout, not by the change"
        );
        answers.sort_unstable();
        Ok((rss, answers))
    }
}
