//! `make bench`: compares the filter with Envoy's own and the issuer with a peer, and measures the
//! core alone.
//!
//! The report shows figures beside their targets. A missed target does not fail the bench.
//! docs/performance.md describes the method and keeps the latest figures.

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

/// Amount of measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// True for a short run while developing the bench; its figures are too rough to keep.
    quick: bool,
    /// Number of rounds over which medians are taken.
    rounds: usize,
    /// Number of requests per contender and round.
    requests: usize,
    /// Number of requests with new tokens. It is smaller, because signing the tokens takes long.
    new_tokens: usize,
    /// Number of live tokens that are used in turn.
    live_tokens: usize,
    /// Number of requests over which memory must not grow.
    endurance: usize,
    /// Number of revocations whose way to an Envoy is timed.
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

/// Prints a line of progress.
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
                "{other}: not a part of the bench; use filter, issuer, storm (a part of issuer) \
                 or core, with --quick before them for a short run"
            ),
        }
    }
    Ok(())
}
