//! `make bench`: what Meshseal costs in Envoy, beside Envoy's own `jwt_authn` doing the same work in the same process.
//!
//! One Envoy with one worker has a listener for each way of checking tokens. Rounds are interleaved, so that whatever else the
//! machine does falls on all of them, and the CPU time of the Envoy process is what counts; nothing here fails for being slow.

mod cpu;
mod drive;
mod listeners;
mod report;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use meshseal_tests::bootstrap::Bootstrap;
use meshseal_tests::clock::unix_now;
use meshseal_tests::envoy::{Envoy, Options};
use meshseal_tests::mint::{Key, Kind, Token};
use meshseal_tests::{build, issuer};

use drive::{Clients, Sample};
use listeners::{AUDIENCE, Contender, ISSUER};

/// Rounds; the medians are reported.
const ROUNDS: usize = 7;
/// Requests of one contender in one round.
const REQUESTS: usize = 12_000;
/// The same for tokens that are all new; signing them takes a while.
const NEW_TOKENS: usize = 3_000;

/// Samples by work (an algorithm, with repeated or new tokens) and contender.
pub(crate) type Samples = BTreeMap<(String, Contender), Vec<Sample>>;

#[tokio::main]
async fn main() -> ExitCode {
    match bench().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "meshseal-bench: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn say(line: &str) {
    drop(writeln!(std::io::stdout(), "{line}"));
}

async fn bench() -> Result<()> {
    build::wasm()?;
    let keys = [
        Key::generate(Kind::Ed25519, "EdDSA")?,
        Key::generate(Kind::P256, "ES256")?,
        Key::generate(Kind::Rsa, "RS256")?,
    ];
    let dir = issuer::state_folder("bench");
    let config = dir.join("bootstrap.json");
    let all = Contender::ALL.iter().map(|contender| contender.listener(&keys)).collect::<Result<Vec<_>>>()?;
    all.into_iter().fold(Bootstrap::new(), Bootstrap::listener).write(&config)?;
    let mut envoy = Envoy::start(&Options { config, workers: 1, node: "bench".to_owned(), dir }).await?;
    let mut clients = BTreeMap::new();
    for contender in Contender::ALL {
        clients.insert(contender, Clients::connect(envoy.listener(contender.name()).await?).await?);
    }
    let mut samples = Samples::new();
    for round in 0..ROUNDS {
        say(&format!("round {} of {ROUNDS}", round + 1));
        for key in &keys {
            one_round(&envoy, &mut clients, key, round, &mut samples).await?;
        }
    }
    let version = envoy.admin_get("/server_info").await?.json();
    envoy.stop().await;
    let text = report::write(&samples, &version)?;
    say(&text);
    Ok(())
}

/// Every contender once with a repeated token and once with new ones, each time beginning with another contender.
async fn one_round(
    envoy: &Envoy,
    clients: &mut BTreeMap<Contender, Clients>,
    key: &Key,
    round: usize,
    samples: &mut Samples,
) -> Result<()> {
    let repeated = requests(key, 1)?;
    let new = requests(key, NEW_TOKENS)?;
    for turn in 0..Contender::ALL.len() {
        let contender = *Contender::ALL.get((turn + round) % Contender::ALL.len()).context("a contender")?;
        let clients = clients.get_mut(&contender).context("connected")?;
        // The first request with a token fills the caches; it is not what is measured.
        clients.run(&repeated, 100).await?;
        for (work, requests, count) in [("repeated", &repeated, REQUESTS), ("new", &new, NEW_TOKENS)] {
            let sample = cpu::measure(envoy.pid(), clients.run(requests, count)).await?;
            samples.entry((format!("{} {work}", key.alg()), contender)).or_default().push(sample);
        }
    }
    Ok(())
}

/// Whole requests, each with a token of its own.
fn requests(key: &Key, count: usize) -> Result<Vec<Vec<u8>>> {
    let request = |_| {
        let token = Token::new(ISSUER, AUDIENCE, unix_now()).claim("exp", unix_now() + 3_600).sign(key)?;
        Ok(format!("GET /orders/1 HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {token}\r\n\r\n").into_bytes())
    };
    (0..count).map(request).collect()
}
