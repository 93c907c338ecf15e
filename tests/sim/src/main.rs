//! Deterministic simulation of issuer replicas, one database, links and workers. A seed determines
//! a history. This program runs histories and reports the first that breaks an invariant.

mod assertions;
mod checks;
mod database;
mod dice;
mod history;
mod link;
mod pace;
mod replica;
mod steps;
mod truth;
mod worker;
mod world;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use history::{History, Report};
use meshseal_tests::clock::Stopwatch;
use tokio::signal::unix::{SignalKind, signal};

/// `SIGXFSZ`: sent when a write exceeds `RLIMIT_FSIZE`. It ends a process that does not handle it.
const SIGXFSZ: i32 = 25;

/// Run simulated histories of issuers, a database, links and workers, and check the invariants
/// after each step.
#[derive(Parser)]
#[command(after_help = "Examples:
  meshseal-sim --histories 5000                  5000 histories from seed 1
  meshseal-sim --seconds 600 --seed 1000000      ten minutes of other histories
  meshseal-sim --seed 4711 --histories 1 --trace replay one history and print its steps

Exit status:
  0  every history keeps the invariants
  1  a history breaks an invariant
  2  the simulation itself fails")]
struct Arguments {
    /// Seed of the first history.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of histories.
    #[arg(long, default_value_t = 5_000)]
    histories: u64,
    /// Stop after this many seconds, even if histories remain.
    #[arg(long)]
    seconds: Option<u64>,
    /// Number of steps in each history.
    #[arg(long, default_value_t = 200)]
    steps: usize,
    /// Distance between seeds, so that several processes can share a range.
    #[arg(long, default_value_t = 1)]
    stride: u64,
    /// Continue after a broken invariant, and count the broken histories.
    #[arg(long)]
    keep_going: bool,
    /// Print each step.
    #[arg(long)]
    trace: bool,
    /// Folder for the databases; a memory file system is fastest.
    #[arg(long, default_value = "/dev/shm")]
    folder: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("meshseal-sim: {error:#}"));
            ExitCode::from(2)
        }
    }
}

fn say(line: &str) {
    let _closed = writeln!(std::io::stdout(), "{line}");
}

fn run(arguments: &Arguments) -> Result<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()?;
    runtime.block_on(async {
        // Without a handler, the fault of a full disk would end this process.
        let _handled = signal(SignalKind::from_raw(SIGXFSZ)).context("handle SIGXFSZ")?;
        let (watch, mut totals, mut broken) = (Stopwatch::start(), [0_usize; 4], 0);
        for at in 0..arguments.histories {
            if arguments
                .seconds
                .is_some_and(|seconds| watch.elapsed() >= Duration::from_secs(seconds))
            {
                break;
            }
            let seed = arguments
                .seed
                .saturating_add(at.saturating_mul(arguments.stride));
            let folder = tempfile::Builder::new()
                .prefix("meshseal-sim")
                .tempdir_in(&arguments.folder)?;
            let history = History {
                seed,
                steps: arguments.steps,
            };
            let report = history
                .run(folder.path())
                .await
                .with_context(|| format!("seed {seed}"))?;
            for (total, more) in
                totals
                    .iter_mut()
                    .zip([1, report.tokens, report.revoked, report.complete])
            {
                *total += more;
            }
            broken += u64::from(report.violation.is_some());
            tell(seed, &report, arguments.trace);
            if broken > 0 && !arguments.keep_going {
                break;
            }
            if totals[0] % 500 == 0 {
                say(&format!(
                    "{} histories in {} s",
                    totals[0],
                    watch.elapsed().as_secs()
                ));
            }
        }
        let [histories, tokens, revoked, complete] = totals;
        let (steps, seconds) = (arguments.steps, watch.elapsed().as_secs());
        say(&format!(
            "{histories} histories of {steps} steps: {broken} broken; {tokens} tokens, \
             {revoked} revoked, {complete} complete receipts; {seconds} s"
        ));
        Ok(broken)
    })
}

fn tell(seed: u64, report: &Report, trace: bool) {
    if trace {
        report.trace.iter().for_each(|line| say(line));
    }
    if let Some((step, why)) = &report.violation {
        say(&format!("BROKEN seed {seed} step {step}: {why}"));
    }
}
