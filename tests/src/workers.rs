//! A connection to each of Envoy's worker threads: what one worker knows, another may not know yet.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::envoy::Envoy;
use crate::http::Connection;
use crate::wait::until;

/// Enough tries for any way of spreading connections.
const TRIES: usize = 64;

/// One kept-alive connection per worker of a listener (see [`Envoy::connections`] for its name), in
/// the workers' order. Nobody else may connect meanwhile: a connection is told to belong to the
/// worker whose counter it moves.
///
/// # Errors
/// When the workers cannot be told apart, or one never gets a connection.
pub async fn connect_each(
    envoy: &Envoy,
    listener: &str,
    address: SocketAddr,
    workers: usize,
) -> Result<Vec<Connection>> {
    let mut found = BTreeMap::new();
    // Kept open until the end, so that the balancer looks for another worker.
    let mut spare = Vec::new();
    for _ in 0..TRIES {
        let before = envoy.connections(listener).await?;
        let connection = Connection::open(address).await?;
        let worker = until(
            "a worker to take the connection",
            Duration::from_secs(5),
            || async {
                let now = envoy.connections(listener).await.ok()?;
                now.into_iter()
                    .find(|(worker, total)| *total > before.get(worker).copied().unwrap_or(0))
                    .map(|(worker, _)| worker)
            },
        )
        .await?;
        if let Some(same) = found.insert(worker, connection) {
            spare.push(same);
        }
        if found.len() == workers {
            return Ok(found.into_values().collect());
        }
    }
    bail!(
        "only {} of {workers} workers took one of {TRIES} connections to {listener}",
        found.len()
    )
}
