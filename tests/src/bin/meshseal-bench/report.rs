//! docs/performance.md.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};
use meshseal_tests::paths;
use serde_json::Value;

use crate::drive::Sample;
use crate::listeners::Contender;
use crate::{NEW_TOKENS, REQUESTS, ROUNDS, Samples};

/// Compared with each other: Meshseal, native, and what is compared.
const PAIRS: [(Contender, Contender, &str); 3] = [
    (
        Contender::MeshsealWork,
        Contender::NativeWork,
        "rule + two claim headers, against jwt_authn with cache + claim_to_headers + RBAC",
    ),
    (Contender::MeshsealBare, Contender::NativeBare, "validation only, against jwt_authn with cache"),
    (
        Contender::MeshsealWork,
        Contender::NativeUncached,
        "rule + two claim headers, against jwt_authn without cache + RBAC",
    ),
];

/// Writes the report; returns its tables.
pub(crate) fn write(samples: &Samples, server: &Value) -> Result<String> {
    let tables = format!("{}\n{}", ratios(samples)?, figures(samples)?);
    let text = format!("{}\n{}\n{tables}", method(), machine(server)?);
    let file = paths::root().join("docs").join("performance.md");
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(tables)
}

fn method() -> String {
    format!(
        "# Performance\n\n\
         Written by `make bench`; run it on your machine, the ratios matter more than the figures.\n\n\
         ## Method\n\n\
         One Envoy with one worker has a listener for each contender; what passes its filters is answered by Envoy itself, so that\n\
         only the filters differ. Eight kept connections send a request as soon as the last is answered: {REQUESTS} requests with one\n\
         *repeated* token, then {NEW_TOKENS} with *new* tokens that no cache has seen. {ROUNDS} rounds go through all contenders, each round beginning with\n\
         another, and every figure is the median of the rounds. CPU is the on-CPU time of all threads of the Envoy process (from\n\
         /proc, in nanoseconds) divided by the requests; *added* is what a contender has over no filter in the same round. Throughput and latency\n\
         depend on the client beside it, too: read them as a rough picture.\n"
    )
}

fn machine(server: &Value) -> Result<String> {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name").and_then(|rest| rest.split_once(": ")))
        .map_or("unknown CPU", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let envoy = server.get("version").and_then(Value::as_str).unwrap_or("unknown");
    let envoy = envoy.split('/').nth(1).unwrap_or(envoy);
    let rustc = Command::new("rustc")
        .arg("--version")
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let size = fs::metadata(paths::wasm())?.len() / 1_000;
    Ok(format!(
        "## Machine and versions\n\n{model}, {cores} cores in use; Envoy {envoy} (V8); {}; module {size} KB.\n",
        rustc.unwrap_or_default()
    ))
}

fn ratios(samples: &Samples) -> Result<String> {
    let mut out = String::from(
        "## Ratios\n\nAdded CPU per request, Meshseal to native; below 1 Meshseal is cheaper.\n\n| work | token | Meshseal, µs | native, µs | ratio |\n|---|---|---|---|---|\n",
    );
    for (ours, native, what) in PAIRS {
        for work in works(samples) {
            let (ours, native) = (added(samples, &work, ours)?, added(samples, &work, native)?);
            writeln!(out, "| {what} | {work} | {ours:.1} | {native:.1} | {:.2} |", ours / native)?;
        }
    }
    Ok(out)
}

fn figures(samples: &Samples) -> Result<String> {
    let mut out = String::from(
        "## All figures\n\n| token | contender | CPU, µs | added, µs | requests/s | p50, µs | p99, µs |\n|---|---|---|---|---|---|---|\n",
    );
    for work in works(samples) {
        for contender in Contender::ALL {
            let of = |figure: fn(&Sample) -> f64| median(samples, &work, contender, figure);
            writeln!(
                out,
                "| {work} | {} | {:.1} | {:.1} | {:.0} | {:.0} | {:.0} |",
                contender.title(),
                of(|sample| sample.cpu_us)?,
                added(samples, &work, contender)?,
                of(|sample| sample.rate)?,
                of(|sample| sample.p50_us)?,
                of(|sample| sample.p99_us)?,
            )?;
        }
    }
    Ok(out)
}

fn works(samples: &Samples) -> Vec<String> {
    let mut works: Vec<String> = samples.keys().map(|(work, _)| work.clone()).collect();
    works.dedup();
    // Repeated tokens first: that is the usual request.
    works.sort_by_key(|work| work.ends_with("new"));
    works
}

fn of<'a>(samples: &'a Samples, work: &str, contender: Contender) -> Result<&'a Vec<Sample>> {
    samples.get(&(work.to_owned(), contender)).context("every contender does all work")
}

fn median(samples: &Samples, work: &str, contender: Contender, figure: fn(&Sample) -> f64) -> Result<f64> {
    Ok(middle(of(samples, work, contender)?.iter().map(figure).collect()))
}

/// The median over the rounds of CPU over the empty chain in the same round.
fn added(samples: &Samples, work: &str, contender: Contender) -> Result<f64> {
    let empty = of(samples, work, Contender::Empty)?;
    Ok(middle(
        of(samples, work, contender)?.iter().zip(empty).map(|(sample, empty)| sample.cpu_us - empty.cpu_us).collect(),
    ))
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
