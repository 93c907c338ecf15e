//! The accept loop: limits connections, cuts off slow request heads, and shuts down gracefully.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{Connection, IDLE_PATIENCE, Service, Waits};
use super::places::Places;

/// Time for requests in progress to finish at shutdown.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// Largest request head in bytes. Requests to the issuer need a few hundred bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The request handlers of a server.
pub struct Site {
    /// Answers requests.
    pub router: Router,
    /// Selects requests whose answer must wait.
    pub waits: Option<Waits>,
}

/// Serves until `end` resolves, then lets requests in progress finish.
pub async fn serve(
    listener: TcpListener,
    site: Site,
    places: Arc<Places>,
    end: impl Future<Output = ()>,
) {
    // INVARIANT: `pipeline_flush` stays off. `connection` relies on hyper flushing the stream
    // whenever its own write buffer is empty.
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(IDLE_PATIENCE)
        .max_buf_size(MAX_HEAD_BYTES);
    // State that all connections share.
    let ending = CancellationToken::new();
    let service = Arc::new(Service {
        http,
        router: site.router,
        waits: site.waits,
        ending: ending.clone(),
    });
    // Accept connections until the end.
    let connections = TaskTracker::new();
    let mut end = std::pin::pin!(end);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut end => break,
        };
        let Ok((stream, peer)) = accepted else {
            // File descriptors ran out, or the peer has closed already. Neither has an event to
            // wait for, so try again after a pause.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        if places.is_exhausted(peer.ip()) {
            continue;
        }
        // One connection waits here for its place; the others wait in the kernel's accept queue.
        let place = tokio::select! {
            place = places.free() => place,
            () = &mut end => break,
        };
        let Some(place) = place else { continue };
        let Some(seat) = places.seat(peer.ip(), place) else {
            continue;
        };
        let _slower = stream.set_nodelay(true);
        connections.spawn(
            Connection {
                service: service.clone(),
                peer: peer.ip(),
                seat,
            }
            .serve(stream),
        );
    }
    // Shut down: refuse new connections, and let requests in progress finish.
    drop(listener);
    ending.cancel();
    connections.close();
    if tokio::time::timeout(END_PATIENCE, connections.wait())
        .await
        .is_err()
    {
        tracing::warn!("connections were cut off at shutdown");
    }
}
