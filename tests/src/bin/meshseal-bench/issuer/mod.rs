//! `make bench-issuer`: measures token issuance, introspection, the push of bundles and revocation,
//! per core.

mod peer;
mod pollers;
mod server;
mod state;
mod steady;
mod storm;
mod workers;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context as _, Result};

use crate::drive::{Clients, Requests};
use crate::process::{self, Sample, median, percentile, rss_mb};
use crate::report::{self, Bound, Table, short};
use crate::{Effort, say};
use peer::Peer;
use server::{Credentials, GRANT, Server};

const ASSERTION: &str = "/token with private_key_jwt (Ed25519)";
const SECRET: &str = "/token with a secret";
const INTROSPECT: &str = "/introspect";
const PEER_ASSERTION: &str = "oidc-provider, private_key_jwt (Ed25519)";
const PEER_SECRET: &str = "oidc-provider, a secret";

/// Targets: requests per second that one core must serve.
const PER_CORE: [(&str, f64); 3] = [
    (ASSERTION, 5_000.0),
    (SECRET, 10_000.0),
    (INTROSPECT, 10_000.0),
];
/// Steady rates for the latency test: half of the first two targets.
const STEADY: [(&str, u32); 2] = [(ASSERTION, 2_500), (SECRET, 5_000)];
const STEADY_S: u32 = 6;
/// The slower peer gets only this fraction of the requests.
const PEER_SHARE: usize = 10;
const TIMES_THE_PEER: f64 = 20.0;

type Figure = fn(&Sample) -> f64;
type Samples = BTreeMap<&'static str, Vec<Sample>>;

pub(crate) async fn run(effort: &Effort) -> Result<()> {
    let credentials = Credentials::new()?;
    let mut server = Server::start("rates", &credentials).await?;
    process::quiet(server.pid()).await?;
    let idle = rss_mb(server.pid())?;
    let peer = Peer::start(&credentials).await?;
    let versions = match &peer {
        Some(peer) => format!("{}; {} rounds", peer.version, effort.rounds),
        None => format!(
            "{} rounds; without a comparison, because oidc-provider is not installed",
            effort.rounds
        ),
    };
    // A round without measurement first, because Node compiles frequently used code.
    one_round(
        &mut server,
        peer.as_ref(),
        &credentials,
        effort,
        &mut Samples::new(),
    )
    .await?;
    let mut samples = Samples::new();
    for round in 1..=effort.rounds {
        say(&format!("issuer: round {round} of {}", effort.rounds));
        one_round(
            &mut server,
            peer.as_ref(),
            &credentials,
            effort,
            &mut samples,
        )
        .await?;
    }
    let mut tables = vec![rates(&samples)?];
    if let Some(peer) = peer {
        tables.push(beside_the_peer(&samples)?);
        peer.stop().await;
    } else {
        say(
            "issuer: oidc-provider is not installed, so the comparison is skipped (see the reason \
             above)",
        );
    }
    tables.push(steady_table(&server, &credentials).await?);
    server.stop().await;
    let mut memory = Table::new("Memory", "", ["what", "figure", "target", ""]);
    memory.judged(
        ["RSS of the idle issuer, MB".to_owned()],
        idle,
        Bound::AtMost(30.0),
    );
    tables.push(memory);
    say("issuer: 10 000 long-polls");
    tables.push(pollers::run(&credentials).await?);
    say("issuer: 1 000 revocations a second");
    tables.push(storm::run(&credentials).await?);
    say("issuer: revocations seen by the workers of an Envoy");
    tables.push(workers::run(&credentials, effort).await?);
    tables.push(state::run(&credentials, effort).await?);
    report::publish("issuer", &versions, &tables, effort.quick)
}

/// Measures only revocations under load, for work on them. Prints the table without publishing it.
pub(crate) async fn storm() -> Result<()> {
    say(&storm::run(&Credentials::new()?).await?.markdown());
    Ok(())
}

async fn one_round(
    server: &mut Server,
    peer: Option<&Peer>,
    credentials: &Credentials,
    effort: &Effort,
    samples: &mut Samples,
) -> Result<()> {
    let count = effort.requests;
    let assertions = credentials.with_assertions(&server.url(), GRANT, count)?;
    let secret = Requests::new(vec![credentials.with_secret("/token", GRANT)]);
    let mut introspect = Vec::new();
    for _ in 0..500 {
        let token = server.token(credentials).await?;
        introspect.push(credentials.with_secret("/introspect", &format!("token={token}")));
    }
    let mut works: Vec<(&'static str, u32, SocketAddr, Requests, usize)> = vec![
        (ASSERTION, server.pid(), server.address(), assertions, count),
        (SECRET, server.pid(), server.address(), secret, count),
        (
            INTROSPECT,
            server.pid(),
            server.address(),
            Requests::new(introspect),
            count,
        ),
    ];
    if let Some(peer) = peer {
        let count = count / PEER_SHARE;
        let assertions = credentials.with_assertions(&peer.url(), peer::GRANT, count)?;
        let secret = Requests::new(vec![credentials.with_secret("/token", peer::GRANT)]);
        works.push((
            PEER_ASSERTION,
            peer.pid(),
            peer.address(),
            assertions,
            count,
        ));
        works.push((PEER_SECRET, peer.pid(), peer.address(), secret, count));
    }
    for (name, pid, address, requests, count) in works {
        let mut clients = Clients::connect(address).await?;
        let sample = process::measure(pid, clients.run(&requests, 0..count, 200)).await;
        samples
            .entry(name)
            .or_default()
            .push(sample.with_context(|| name.to_owned())?);
    }
    Ok(())
}

fn of(samples: &Samples, name: &str, figure: Figure) -> Result<f64> {
    let samples = samples
        .get(name)
        .with_context(|| format!("not measured: {name}"))?;
    Ok(median(samples.iter().map(figure).collect()))
}

fn rates(samples: &Samples) -> Result<Table> {
    let mut table = Table::new(
        "Requests",
        "Eight connections, each sending its next request as soon as the last is answered. For \
         each core: requests for each second of CPU time of the issuer's process. The client \
         takes its own share of the machine, so the rate by the clock is lower than it need be.",
        [
            "request",
            "a second, by the clock",
            "p50, µs",
            "p99, µs",
            "a second for each core",
            "target",
            "",
        ],
    );
    for (name, at_least) in PER_CORE {
        let cells = [
            name.to_owned(),
            short(of(samples, name, |sample| sample.rate)?),
            short(of(samples, name, |sample| sample.p50_us)?),
            short(of(samples, name, |sample| sample.p99_us)?),
        ];
        table.judged(
            cells,
            of(samples, name, Sample::per_core)?,
            Bound::AtLeast(at_least),
        );
    }
    Ok(table)
}

fn beside_the_peer(samples: &Samples) -> Result<Table> {
    let mut table = Table::new(
        "Beside oidc-provider",
        "In the same run: the same grant, an EdDSA-signed JWT for the same audience, its \
         in-memory adapter, one process, NODE_ENV=production.",
        [
            "requests a second",
            "client authentication",
            "Meshseal",
            "oidc-provider",
            "ratio",
            "target",
            "",
        ],
    );
    let figures: [(&str, Figure); 2] = [
        ("for each core", Sample::per_core),
        ("by the clock", |sample| sample.rate),
    ];
    for (how, figure) in figures {
        for (what, ours, theirs) in [
            ("private_key_jwt", ASSERTION, PEER_ASSERTION),
            ("a secret", SECRET, PEER_SECRET),
        ] {
            let (ours, theirs) = (of(samples, ours, figure)?, of(samples, theirs, figure)?);
            let cells = [how.to_owned(), what.to_owned(), short(ours), short(theirs)];
            table.judged(cells, ours / theirs, Bound::AtLeast(TIMES_THE_PEER));
        }
    }
    Ok(table)
}

async fn steady_table(server: &Server, credentials: &Credentials) -> Result<Table> {
    let mut table = Table::new(
        "Latency at half the load",
        "Requests come at a steady rate whether or not earlier ones are answered; a latency \
         counts from when its request was due (to the millisecond, which is what the client's \
         timer can do).",
        ["request", "a second", "p50, ms", "p99, ms", "target", ""],
    );
    for (name, per_second) in STEADY {
        let count = usize::try_from(per_second * STEADY_S)?;
        let requests = if name == ASSERTION {
            credentials.with_assertions(&server.url(), GRANT, count)?
        } else {
            Requests::new(vec![credentials.with_secret("/token", GRANT); count])
        };
        let answers =
            steady::run(server.address(), &requests, per_second, steady::CONNECTIONS).await?;
        let cells = [
            name.to_owned(),
            per_second.to_string(),
            short(percentile(&answers, 50) / 1e3),
        ];
        table.judged(cells, percentile(&answers, 99) / 1e3, Bound::AtMost(10.0));
    }
    Ok(table)
}
