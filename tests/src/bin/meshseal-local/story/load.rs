//! The signing key changes three times under load, and no request is rejected.

use std::time::Duration;

use anyhow::Result;
use meshseal_tests::clock::Stopwatch;
use meshseal_tests::issuer::{Issuer, kid_of};
use meshseal_tests::load::{Load, Report};
use meshseal_tests::ports::loopback;
use meshseal_tests::wait::until;
use tokio::time::interval;

use super::{SOON, Story};

const RATE: u32 = 2_000;
const CONNECTIONS: u32 = 32;
const ROTATIONS: usize = 3;
/// Number of requests under each new key before the next rotation.
const REQUESTS_PER_KEY: u64 = 4_000;

pub(super) async fn tell(story: &mut Story) -> Result<()> {
    let (report, kids) = rotate_under_load(&story.stack.issuer, story.stack.ports.edge).await?;
    let (full, least) = (f64::from(RATE) * 0.95, f64::from(RATE) / 2.0);
    let slow = if report.rate < full {
        " (the machine allows no more now)"
    } else {
        ""
    };
    let seen = format!(
        "{} of {} rejected, {:.0} requests/s{slow} {:?}",
        report.rejected(),
        report.total,
        report.rate,
        report.answers
    );
    story.step(
        &format!("{RATE} requests/s, three rotations"),
        "0 rejected",
        &seen,
        report.rejected() == 0 && report.rate >= least,
    );
    story.step(
        "  keys that signed",
        &format!("{}", ROTATIONS + 1),
        &format!("{}", kids.len()),
        kids.len() == ROTATIONS + 1,
    );
    Ok(())
}

/// Rotates under load. Returns the report and the `kid`s that signed, in order.
async fn rotate_under_load(issuer: &Issuer, edge: u16) -> Result<(Report, Vec<String>)> {
    let first = issuer.token("orders").await?;
    let mut kids = vec![kid_of(&first)?];
    let load = Load::start(loopback(edge), "/orders/1", first, RATE, CONNECTIONS).await?;
    let story = async {
        for _ in 0..ROTATIONS {
            kids.push(issuer.rotate_and_wait(SOON).await?);
            let target = load.sent() + REQUESTS_PER_KEY;
            until("requests under the new key", SOON, || async {
                (load.sent() >= target).then_some(())
            })
            .await?;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        told = story => told?,
        failed = keep_fetching(issuer, &load) => failed?,
    }
    Ok((load.finish().await?, kids))
}

/// Gets a token every 50 ms and uses it at once, so that the first tokens under a new key reach
/// every worker within milliseconds.
async fn keep_fetching(issuer: &Issuer, load: &Load) -> Result<()> {
    let watch = Stopwatch::start();
    let mut ticks = interval(Duration::from_millis(50));
    while watch.elapsed() < SOON * 4 {
        ticks.tick().await;
        load.put(issuer.token("orders").await?);
    }
    anyhow::bail!("the rotations took too long")
}
