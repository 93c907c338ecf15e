//! Failed client authentications: limited, logged and counted.
//!
//! INVARIANT: failures never cause the rejection of a client with the right credentials.
//! - Comparing the hash of a secret costs less than reading the request. So every secret is
//!   compared, and only failed requests get 429.
//! - Verifying a signature costs more. After too many failures of one source and client, their
//!   assertions are verified in a queue that uses at most half the cores. The queue rejects
//!   nothing. Each connection has at most one request in it, so `limits.connections` bounds the
//!   waiting time.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::{Limiter, Rate, Registry};
use crate::telemetry::Metrics;

/// Log lines a second about failures of one source and client.
const LOG_LINES_PER_SECOND: u32 = 1;

/// Log lines a second about failures of all sources.
const ALL_LOG_LINES_PER_SECOND: u32 = 20;

/// Size of a burst of log lines, in seconds of the rate.
const LOG_BURST_S: u64 = 5;

/// Prefix of secrets that Meshseal generates.
const SECRET_PREFIX: &str = "mss_";

/// One failed authentication.
#[derive(Clone, Copy, Debug)]
pub struct Failure<'r> {
    /// Name of the endpoint.
    pub endpoint: &'static str,
    /// Peer address of the connection.
    pub source: IpAddr,
    /// The unverified client id; empty if the request has none.
    pub client: &'r str,
    /// Reason, a label of the metric.
    pub reason: &'static str,
}

/// Limits, logs and counts failed authentications.
pub struct Failures {
    answers: Limiter,
    log: Limiter,
    all_log: AtomicU64,
    unlogged: AtomicU64,
    queue: Semaphore,
}

impl Failures {
    /// Allows `failures_per_second` failures of each source and client, and bursts of ten times
    /// that number.
    #[must_use]
    pub fn new(failures_per_second: u32) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            answers: Limiter::new(failures_per_second, 10),
            log: Limiter::new(LOG_LINES_PER_SECOND, LOG_BURST_S),
            all_log: AtomicU64::new(0),
            unlogged: AtomicU64::new(0),
            queue: Semaphore::new((cores / 2).max(1)),
        }
    }

    /// Returns whether this source and client have failed too often.
    #[must_use]
    pub fn is_exceeded(&self, source: IpAddr, client: &str, now_ms: u64) -> bool {
        self.answers.is_exceeded((source, client), now_ms)
    }

    /// Waits for a permit to verify a signature of a source and client that have failed too often.
    pub(crate) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.queue.acquire().await.ok()
    }

    /// Counts a failure and logs it, unless too many were logged lately.
    pub fn note(&self, failure: Failure<'_>, registry: &Registry, metrics: &Metrics, now_ms: u64) {
        let Failure {
            endpoint,
            source,
            client,
            reason,
        } = failure;
        // The rate only decides about later failures, so the result is not needed here.
        let _exceeded = self.answers.admit((source, client), now_ms);
        metrics
            .authentication_failures
            .increment((endpoint, reason));
        // Unknown clients of one source share a cell, so that invented client ids do not fill the
        // log.
        let logged_as = if registry.get(client).is_some() {
            client
        } else {
            ""
        };
        let rate = Rate::per_second(ALL_LOG_LINES_PER_SECOND, LOG_BURST_S);
        let may_log = self.log.admit((source, logged_as), now_ms)
            && rate.admit(&self.all_log, now_ms.saturating_mul(1_000));
        if may_log {
            let unlogged = self.unlogged.swap(0, Ordering::Relaxed);
            let client = printable(client);
            tracing::warn!(
                endpoint,
                %source,
                client,
                reason,
                unlogged,
                "client authentication failed"
            );
        } else {
            self.unlogged.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Returns a client id for the log. Ids that may be a secret, sent in the wrong place, are hidden.
fn printable(client: &str) -> &str {
    let plain = client.len() <= 64 && client.bytes().all(|byte| byte.is_ascii_graphic());
    if plain && !client.contains(SECRET_PREFIX) {
        client
    } else {
        "(not shown)"
    }
}
