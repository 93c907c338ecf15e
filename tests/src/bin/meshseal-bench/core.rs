//! `make bench-core`: prints the results of criterion (filter/core/benches) as tables.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use meshseal_core::revocation::IndexSet;
use meshseal_tests::paths;
use serde_json::Value;

use crate::process::as_f64;
use crate::report::{self, Bound, Table, short};
use crate::{Effort, scatter};

/// Criterion's groups with their descriptions.
const GROUPS: [(&str, &str); 7] = [
    ("again", "a repeated token: the verdict remembered"),
    ("new", "a new token, whole, by algorithm"),
    ("claims", "a new token but its signature, by claims"),
    ("keys", "a new token but its signature, by keys"),
    ("rules", "policy, by rules; the last matches"),
    (
        "revoked",
        "a look whether a token is revoked, by revoked tokens of 1 000 000",
    ),
    (
        "bundle",
        "a full bundle verified and taken over, by revoked tokens of 1 000 000",
    ),
];
const REVOKED: u64 = 10_000;
const ISSUED: u64 = 1_000_000;

pub(crate) fn run(effort: &Effort) -> Result<()> {
    let mut times = Table::new("Times", "Medians.", ["what", "", "µs"]);
    for (group, what) in GROUPS {
        for (id, us) in measured(group)? {
            times.row([what.to_owned(), id, short(us)]);
        }
    }
    report::publish(
        "core",
        "native release build",
        &[revocation()?, times],
        effort.quick,
    )
}

/// Returns the table of figures with targets for the core alone.
fn revocation() -> Result<Table> {
    let mut table = Table::new(
        "Revocation: 10 000 of 1 000 000 live tokens",
        "Chosen by chance. The list travels inside JSON inside a JWS, in base64url both times.",
        ["what", "figure", "target", ""],
    );
    let list: IndexSet = scatter::indices(REVOKED, ISSUED)?.into_iter().collect();
    let list = as_f64(list.encode().len()) / 1_024.0;
    table.judged(["the list, KiB".to_owned()], list, Bound::AtMost(16.0));
    table.row([
        "the list as it travels, KiB".to_owned(),
        short(list * 16.0 / 9.0),
        String::new(),
        String::new(),
    ]);
    table.judged(
        ["a full bundle verified and taken over, ms".to_owned()],
        revoked_us("bundle")? / 1e3,
        Bound::AtMost(10.0),
    );
    table.judged(
        ["a look whether a token is revoked, µs".to_owned()],
        revoked_us("revoked")?,
        Bound::AtMost(1.0),
    );
    Ok(table)
}

/// Returns the median of a group at [`REVOKED`] revoked tokens, in microseconds.
fn revoked_us(group: &str) -> Result<f64> {
    let times = measured(group)?;
    let time = times.iter().find(|(id, _)| *id == REVOKED.to_string());
    Ok(time
        .with_context(|| format!("criterion has no {group} of {REVOKED}"))?
        .1)
}

/// Returns the medians of a group in microseconds. A bench without a group has one unnamed median.
fn measured(group: &str) -> Result<Vec<(String, f64)>> {
    let folder = paths::target().join("criterion").join(group);
    if let Ok(single) = estimate(&folder) {
        return Ok(vec![(String::new(), single)]);
    }
    let mut all = Vec::new();
    for entry in fs::read_dir(&folder)
        .with_context(|| format!("{} does not exist; run make bench-core", folder.display()))?
    {
        let entry = entry?;
        if let Ok(us) = estimate(&entry.path()) {
            all.push((entry.file_name().to_string_lossy().into_owned(), us));
        }
    }
    all.sort_by_key(|(id, _)| (id.parse::<u64>().unwrap_or(0), id.clone()));
    Ok(all)
}

fn estimate(folder: &Path) -> Result<f64> {
    let estimates: Value = serde_json::from_slice(&fs::read(folder.join("new/estimates.json"))?)?;
    let median = estimates
        .pointer("/median/point_estimate")
        .and_then(Value::as_f64);
    Ok(median.context("estimates.json has no median")? / 1e3)
}
