//! `make bench-filter`: measures the cost of Meshseal in Envoy, compared with Envoy's own
//! `jwt_authn` for the same work in the same process.

mod arena;
mod contenders;
mod growth;
mod memory;
mod tables;
mod tokens;
mod works;

use anyhow::Result;
use meshseal_tests::build;

use crate::{Effort, report, say};
use arena::Arena;
use tokens::Signer;

pub(crate) async fn run(effort: &Effort) -> Result<()> {
    let (mut tables, version) = compare(effort).await?;
    tables.extend(growth::run(effort).await?);
    tables.push(memory::run(effort).await?);
    report::publish("filter", &version, &tables, effort.quick)
}

/// Runs the comparison with native filters in one Envoy. Returns the tables and the versions.
async fn compare(effort: &Effort) -> Result<(Vec<report::Table>, String)> {
    let signers = ["EdDSA", "ES256", "RS256", "ES384", "ES512", "PS256"];
    let signers = signers
        .into_iter()
        .map(Signer::new)
        .collect::<Result<Vec<_>>>()?;
    let live = signers
        .iter()
        .find(|signer| signer.alg == "ES256")
        .map(|signer| signer.requests(effort.live_tokens));
    let live = live.transpose()?.unwrap_or_default();
    let mut arena =
        Arena::start("compare", &contenders::all(&tokens::jwks(&signers)?), &[]).await?;
    for round in 1..=effort.rounds {
        say(&format!("filter: round {round} of {}", effort.rounds));
        for work in works::round(&signers, &live, effort)? {
            arena.measure(&work).await?;
        }
    }
    let mut tables = vec![tables::ratios(&arena)?];
    match tables::portable(&arena)? {
        Some(table) => tables.push(table),
        None => say(
            "filter: this module has no `hostVerification`, so the portable path is not measured",
        ),
    }
    tables.push(tables::figures(&arena)?);
    arena.envoy.stop().await;
    let envoy = report::said(&build::envoy()?.display().to_string(), "--version")?;
    let version = envoy
        .rsplit_once("version: ")
        .and_then(|(_, version)| version.split('/').nth(1));
    let envoy = version.unwrap_or(&envoy).to_owned();
    Ok((
        tables,
        format!("Envoy {envoy} (V8), one worker; {} rounds", effort.rounds),
    ))
}
