//! A token is revoked: checks the receipt and the answers of every worker of both hops.

use std::time::Duration;

use anyhow::{Result, ensure};
use meshseal_tests::clock::Stopwatch;
use meshseal_tests::http::Connection;
use meshseal_tests::ports::loopback;
use meshseal_tests::stack::WORKERS;
use meshseal_tests::workers::connect_each;

use super::{SOON, Story, order};

/// Time within which a revocation must take effect in every worker.
const LIMIT: Duration = Duration::from_secs(1);

pub(super) async fn tell(story: &mut Story) -> Result<()> {
    let mut workers = Vec::new();
    for (hop, port) in [
        ("edge", story.stack.ports.edge),
        ("sidecar", story.stack.ports.sidecar),
    ] {
        let connections = connect_each(
            &story.stack.envoy,
            &format!("127.0.0.1_{port}"),
            loopback(port),
            WORKERS,
        )
        .await?;
        workers.extend(
            connections
                .into_iter()
                .enumerate()
                .map(|(number, connection)| (format!("{hop} worker {number}"), connection)),
        );
    }
    // Every worker accepts the token first, so each has a cached verdict to drop.
    let token = story.stack.issuer.token("orders").await?;
    for (_, connection) in &mut workers {
        let response = connection.send(&order().bearer(&token)).await?;
        ensure!(
            response.status == 200,
            "the token is good before it is revoked: {response:?}"
        );
    }
    // All workers are asked repeatedly while the token is revoked.
    let watch = Stopwatch::start();
    let form = format!("token={token}");
    let asks = workers.into_iter().map(|(worker, connection)| {
        let token = token.clone();
        tokio::spawn(async move { (worker, time_until_refused(connection, &token, watch).await) })
    });
    let asks: Vec<_> = asks.collect();
    let receipt = story.stack.issuer.revoke(&form).await?;
    for ask in asks {
        let (worker, seen) = ask.await?;
        let (answer, after) = seen?;
        let seen = format!("{answer} after {} ms", after.as_millis());
        story.step(
            &format!("revoked: {worker}"),
            "401 token-revoked in under 1000 ms",
            &seen,
            answer == "401 token-revoked" && after < LIMIT,
        );
    }
    story.step_receipt(&receipt);
    Ok(())
}

/// Repeats a request until the answer is not 200. Returns that answer and the elapsed time.
async fn time_until_refused(
    mut connection: Connection,
    token: &str,
    watch: Stopwatch,
) -> Result<(String, Duration)> {
    let request = order().bearer(token);
    while watch.elapsed() < SOON {
        let response = connection.send(&request).await?;
        if response.status != 200 {
            return Ok((
                format!(
                    "{} {}",
                    response.status,
                    response.code().unwrap_or_default()
                ),
                watch.elapsed(),
            ));
        }
    }
    Ok(("200".to_owned(), watch.elapsed()))
}
