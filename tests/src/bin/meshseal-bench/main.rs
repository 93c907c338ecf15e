//! `make bench`: the filter beside Envoy's own, the issuer beside a peer, and the core by itself.
//! Every figure that has a target stands beside it; nothing fails for being slow.
//! docs/performance.md says how it is measured, and keeps the last figures.

mod core;
mod drive;
mod filter;
mod issuer;
mod process;
mod report;
mod scatter;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Result, bail};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// For those who work on the bench: too rough to be kept.
    quick: bool,
    /// Medians are taken over so many.
    rounds: usize,
    /// Requests of one contender in one round.
    requests: usize,
    /// The same for tokens that are all new; signing them takes a while.
    new_tokens: usize,
    /// Tokens that are used in turn.
    live_tokens: usize,
    /// Requests after which memory must not have grown.
    endurance: usize,
    /// Revocations whose way to an Envoy is timed.
    revocations: usize,
}

const FULL: Effort = Effort {
    quick: false,
    rounds: 7,
    requests: 10_000,
    new_tokens: 3_000,
    live_tokens: 10_000,
    endurance: 1_000_000,
    revocations: 100,
};
const QUICK: Effort = Effort {
    quick: true,
    rounds: 3,
    requests: 3_000,
    new_tokens: 900,
    endurance: 50_000,
    revocations: 20,
    ..FULL
};

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

/// Tells the person who waits.
pub(crate) fn say(line: &str) {
    drop(writeln!(std::io::stdout(), "{line}"));
}

async fn bench() -> Result<()> {
    let mut effort = FULL;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--quick" => effort = QUICK,
            "filter" => filter::run(&effort).await?,
            "issuer" => issuer::run(&effort).await?,
            "storm" => issuer::storm().await?,
            "core" => core::run(&effort)?,
            other => bail!(
                "{other}: not a part of the bench; there are filter, issuer, storm (a part of issuer) and core \
                 (after --quick)"
            ),
        }
    }
    Ok(())
}
