//! The server: bounded connections, slow headers cut off, and an end that waits for answers under way.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tower::ServiceExt as _;

use super::places::{Places, Seat, Use};
use crate::bundle;
use crate::error::Problem;

/// Time for a connection to send a request's headers, from when it has nothing else to do: also how long it may idle.
const HEADER_PATIENCE: Duration = Duration::from_secs(60);

/// Time for a new connection to send its first head: while it has asked for nothing, it belongs to no share.
const FIRST_HEAD_PATIENCE: Duration = Duration::from_secs(10);

/// Time for answers under way once the end has come.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// Largest head of a request in bytes. Ours are a few hundred; what a long-poll waits with is memory times ten thousand.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The address that a connection comes from.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// Serves until `end` resolves, then lets answers under way finish.
pub async fn serve(listener: TcpListener, router: Router, places: Arc<Places>, end: impl Future<Output = ()>) {
    let graceful = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_PATIENCE).max_buf_size(MAX_HEAD_BYTES);
    let mut end = std::pin::pin!(end);
    loop {
        // Without a free place nothing is accepted: callers wait in the kernel's queue.
        let accepted = async {
            let place = places.free().await;
            (place, listener.accept().await)
        };
        let accepted = tokio::select! {
            accepted = accepted => accepted,
            () = &mut end => break,
        };
        let (Some(place), Ok((stream, peer))) = accepted else {
            // Out of file descriptors, or the peer has gone already: there is no condition to wait for.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let Some(seat) = places.seat(peer.ip(), place).map(Arc::new) else { continue };
        let _slower = stream.set_nodelay(true);
        let (router, taken) = (router.clone(), seat.clone());
        let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(Peer(peer.ip()));
            let wanted = if request.uri().path() == bundle::PATH { Use::Poll } else { Use::Other };
            let answer = if taken.take_for(wanted) { Ok(router.clone().oneshot(request)) } else { Err(crowded()) };
            async move {
                match answer {
                    Ok(answer) => answer.await,
                    Err(refusal) => Ok(refusal),
                }
            }
        });
        let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "connection ended");
                },
                () = silent(&seat) => tracing::debug!("a connection that asked for nothing was cut off"),
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(END_PATIENCE, graceful.shutdown()).await.is_err() {
        tracing::warn!("some connections were cut off at the end");
    }
}

/// Resolves when a new connection has had its time to ask for something, and has not.
async fn silent(seat: &Seat) {
    tokio::time::sleep(FIRST_HEAD_PATIENCE).await;
    if seat.is_used() {
        std::future::pending::<()>().await;
    }
}

fn crowded() -> Response {
    let mut refusal = Problem::unavailable("too many connections of this sort; try again").into_response();
    refusal.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    refusal
}
