//! The server: bounded connections, slow headers cut off, and an end that waits for answers under
//! way.

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

/// Time for answers under way once the end has come.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// Largest head of a request in bytes. Ours are a few hundred.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// What a server serves.
pub struct Site {
    /// Answers requests.
    pub router: Router,
    /// Picks those that wait.
    pub waits: Option<Waits>,
}

/// Serves until `end` resolves, then lets answers under way finish.
pub async fn serve(
    listener: TcpListener,
    site: Site,
    places: Arc<Places>,
    end: impl Future<Output = ()>,
) {
    // Without `pipeline_flush`: see `connection`.
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(IDLE_PATIENCE)
        .max_buf_size(MAX_HEAD_BYTES);
    let ending = CancellationToken::new();
    let service = Arc::new(Service {
        http,
        router: site.router,
        waits: site.waits,
        ending: ending.clone(),
    });
    let connections = TaskTracker::new();
    let mut end = std::pin::pin!(end);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut end => break,
        };
        let Ok((stream, peer)) = accepted else {
            // Out of file descriptors, or the peer has gone already: there is no condition to wait
            // for.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        if places.is_exhausted(peer.ip()) {
            continue;
        }
        // One connection waits here for its place, the others in the kernel's queue.
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
    drop(listener);
    ending.cancel();
    connections.close();
    if tokio::time::timeout(END_PATIENCE, connections.wait())
        .await
        .is_err()
    {
        tracing::warn!("some connections were cut off at the end");
    }
}
