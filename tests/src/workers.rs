//! Opens a connection to each of Envoy's worker threads. Each worker has its own copy of the
//! filter's state, so tests must address every worker.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::envoy::Envoy;
use crate::http::Connection;
use crate::wait::until;

/// Maximum number of connections to open; enough for any way of balancing them.
const TRIES: usize = 64;

/// Returns one kept-alive connection per worker of a listener (see [`Envoy::connections`] for its
/// name), in the order of the workers. A connection is attributed to the worker whose connection
/// counter it increments, so no other client may connect meanwhile.
///
/// # Errors
/// Fails if no worker's counter moves, or if one worker never gets a connection.
pub async fn connect_each(
    envoy: &Envoy,
    listener: &str,
    address: SocketAddr,
    workers: usize,
) -> Result<Vec<Connection>> {
    let mut found = BTreeMap::new();
    // Surplus connections stay open, so that the balancer picks another worker next.
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
