//! The server: bounded connections, slow headers cut off, and an end that waits for answers under way.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tower::ServiceExt as _;

/// Time for a connection to send a request's headers, from when it has nothing else to do: also how long it may idle.
const HEADER_PATIENCE: Duration = Duration::from_secs(60);

/// Time for answers under way once the end has come.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// Largest head of a request in bytes. Ours are a few hundred; what a long-poll waits with is memory times ten thousand.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The address that a connection comes from.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// Serves until `end` resolves, then lets answers under way finish.
pub async fn serve(listener: TcpListener, router: Router, connections: usize, end: impl Future<Output = ()>) {
    let places = Arc::new(Semaphore::new(connections));
    let graceful = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_PATIENCE).max_buf_size(MAX_HEAD_BYTES);
    let mut end = std::pin::pin!(end);
    loop {
        // Without a free place nothing is accepted: callers wait in the kernel's queue.
        let accepted = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            accepted = accepted => accepted,
            () = &mut end => break,
        };
        let Ok((stream, peer)) = accepted else {
            // Out of file descriptors, or the peer has gone already: there is no condition to wait for.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let _slower = stream.set_nodelay(true);
        let router = router.clone();
        let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(Peer(peer.ip()));
            router.clone().oneshot(request)
        });
        let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            let _place = place;
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(END_PATIENCE, graceful.shutdown()).await.is_err() {
        tracing::warn!("some connections were cut off at the end");
    }
}
