//! A single connection. hyper serves it, except while it is idle or its request waits: hyper holds
//! 16 KB of buffers for each connection, and ten thousand polls may wait at a time.
//!
//! To wait, the connection leaves hyper together with its request. It returns to a new hyper
//! connection with the answer: hyper reads a stand-in for the request and gets the answer at once.
//! No state of hyper is lost, because such a request has no body and no header about the
//! connection, and because it leaves only after all earlier answers have been sent.

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Version, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::host;
use super::places::{Seat, Use};
use crate::bundle;
use crate::error::Problem;

/// Time for a new connection to send its first request head. Until then it belongs to no share of
/// the connection limit.
const FIRST_PATIENCE: Duration = Duration::from_secs(10);

/// Longest idle time of a connection.
pub(super) const IDLE_PATIENCE: Duration = Duration::from_secs(60);

/// Time for a peer to read an answer that does not fit into the socket's buffer.
const SEND_PATIENCE: Duration = Duration::from_secs(20);

/// Bytes for which a reading peer gets one more second.
const SEND_BYTES_A_SECOND: u32 = 4_096;

/// Stand-in for a request that waited: hyper parses it and may write any answer to it.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: -\r\n\r\n";

type Request = hyper::Request<Incoming>;

/// Future of an answer that is not ready yet.
pub type Waiting = Pin<Box<dyn Future<Output = Response> + Send>>;

/// Function that returns the future answer of a request that must wait. It returns `None` for all
/// other requests, invalid ones included; the router answers those.
pub type Waits = Box<dyn Fn(&Request) -> Option<Waiting> + Send + Sync>;

/// Source address of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// State that all connections of a server share.
pub(super) struct Service {
    pub(super) http: http1::Builder,
    pub(super) router: Router,
    pub(super) waits: Option<Waits>,
    /// Cancelled at shutdown: each connection then closes after its current answer.
    pub(super) ending: CancellationToken,
}

/// An accepted connection that holds a place.
pub(super) struct Connection {
    pub(super) service: Arc<Service>,
    pub(super) peer: IpAddr,
    pub(super) seat: Seat,
}

/// Next step for a request.
enum Step {
    /// Send this answer.
    Answer(Box<Response>),
    /// Let the router answer.
    Ask(Box<Request>),
    /// Leave hyper and wait for the answer.
    Wait,
}

/// Reason why a connection left hyper.
enum Turn {
    /// A request waits.
    Waits(Waiting),
    /// The answer to a waiting request was sent, and the peer has sent no other request yet.
    Idles,
}

impl Connection {
    /// Serves the connection until it closes.
    pub(super) async fn serve(self, stream: TcpStream) {
        let mut io = Io {
            unread: Bytes::new(),
            stream,
            sending: Arc::default(),
            stall: None,
        };
        let mut answer = None;
        let first = Instant::now() + FIRST_PATIENCE;
        let mut until = first;
        loop {
            // Without an answer to send, hyper is not needed before the peer sends something.
            if answer.is_none() && !self.has_input(&io, until).await {
                return;
            }
            // The future is boxed, so that dropping it frees all of hyper's buffers.
            let Some((turn, back)) = Box::pin(self.exchange(io, answer.take(), first)).await else {
                return;
            };
            until = Instant::now() + IDLE_PATIENCE;
            io = back;
            // Wait for the answer outside of hyper, then let hyper read the stand-in.
            if let Turn::Waits(waiting) = turn {
                tokio::select! {
                    came = waiting => answer = Some(came),
                    () = io.gone() => return,
                }
                io.unread = [STAND_IN, &io.unread].concat().into();
            }
        }
    }

    /// Waits for input. Returns false if the peer has closed, `until` has passed, the server shuts
    /// down, or another connection needs the place.
    async fn has_input(&self, io: &Io, until: Instant) -> bool {
        tokio::select! {
            biased;
            heard = timeout_at(until, io.hears()) => heard.is_ok_and(|heard| heard),
            () = self.seat.silence_over(until) => false,
            () = self.service.ending.cancelled() => false,
        }
    }

    /// Lets hyper serve the connection until it must wait. hyper first sends `answer`, if given, as
    /// the answer to the stand-in. The first request head must arrive by `first`. Returns `None`
    /// when the connection has closed.
    async fn exchange(
        &self,
        io: Io,
        answer: Option<Response>,
        first: Instant,
    ) -> Option<(Turn, Io)> {
        let sending = Arc::clone(&io.sending);
        sending.set(if answer.is_some() {
            Sending::GIVEN
        } else {
            Sending::NONE
        });
        // Decide about each request that hyper reads.
        let (answer, waiting) = (Mutex::new(answer), Mutex::new(None));
        let service = service_fn(|request| {
            let step = match take(&answer) {
                // The stand-in: send the answer of the request that waited.
                Some(mut answer) => {
                    if self.service.ending.is_cancelled() {
                        answer
                            .headers_mut()
                            .insert(header::CONNECTION, HeaderValue::from_static("close"));
                    }
                    Step::Answer(Box::new(sending.watch(answer)))
                }
                None => {
                    let step = self.step(request, &waiting);
                    sending.set(if matches!(step, Step::Wait) {
                        Sending::TAKEN
                    } else {
                        Sending::NONE
                    });
                    step
                }
            };
            let router = self.service.router.clone();
            async move {
                match step {
                    Step::Answer(answer) => Ok(*answer),
                    Step::Ask(request) => router.oneshot(*request).await,
                    // hyper never gets this answer; the connection leaves it first.
                    Step::Wait => std::future::pending().await,
                }
            }
        });
        // Start hyper on the stream, and watch for shutdown and for a silent peer.
        let mut connection = self
            .service
            .http
            .serve_connection(TokioIo::new(io), service);
        let (mut ending, mut silent) = (
            pin!(self.service.ending.cancelled()),
            pin!(self.seat.silence_over(first)),
        );
        // Poll hyper until the connection closes or can leave it.
        let mut told = false;
        let turn = poll_fn(|context| {
            loop {
                if let Poll::Ready(ended) = Pin::new(&mut connection).poll(context) {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "connection ended");
                    }
                    return Poll::Ready(None);
                }
                if sending.is(Sending::CLEAR)
                    && let Some(waiting) = take(&waiting)
                {
                    return Poll::Ready(Some(Turn::Waits(waiting)));
                }
                if sending.is(Sending::SENT) {
                    return Poll::Ready(Some(Turn::Idles));
                }
                if silent.as_mut().poll(context).is_ready() {
                    tracing::debug!("closed a connection that sent no request head");
                    return Poll::Ready(None);
                }
                // Checked after hyper was polled: hyper closes a connection at once if it is shut
                // down before it has read anything.
                if told || ending.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                told = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        });
        // Take the stream back, with the bytes that hyper has read ahead.
        let turn = turn.await?;
        let parts = connection.into_parts();
        let mut io = parts.io.into_inner();
        // Copy the rest, which is usually empty: a slice would keep hyper's whole buffer alive.
        io.unread = [&*parts.read_buf, &*io.unread].concat().into();
        Some((turn, io))
    }

    /// Checks a request and its share of the limit, and decides who answers it.
    fn step(&self, mut request: Request, waiting: &Mutex<Option<Waiting>>) -> Step {
        self.seat.hear();
        // RFC 9112 §3.2: HTTP/1.1 requires exactly one valid Host field.
        if !host::is_valid(request.version(), request.headers()) {
            let problem = Problem::bad_request(
                "send one Host header: a host and optionally a port (RFC 9112 §3.2)",
            );
            return Step::Answer(Box::new(last(problem)));
        }
        // Polls and other requests have separate shares of the connection limit.
        let wanted = if request.uri().path() == bundle::PATH {
            Use::Poll
        } else {
            Use::Other
        };
        if !self.seat.take_for(wanted) {
            let problem =
                Problem::unavailable("too many connections for requests of this kind; try again");
            return Step::Answer(Box::new(last(problem)));
        }
        // A request that must wait leaves hyper, if the stand-in can replace it.
        if let Some(waits) = &self.service.waits
            && is_plain(&request)
            && let Some(wait) = waits(&request)
        {
            *waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(wait);
            return Step::Wait;
        }
        request.extensions_mut().insert(Peer(self.peer));
        Step::Ask(Box::new(request))
    }
}

fn take<T>(place: &Mutex<Option<T>>) -> Option<T> {
    place.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Returns whether the stand-in can replace this request: HTTP/1.1, no body, and no header that
/// changes how hyper treats the connection.
fn is_plain(request: &Request) -> bool {
    let hop_by_hop = [header::CONNECTION, header::EXPECT, header::UPGRADE];
    request.version() == Version::HTTP_11
        && request.body().is_end_stream()
        && !hop_by_hop
            .iter()
            .any(|name| request.headers().contains_key(name))
}

/// Returns the new write deadline after a peer has read `bytes` more. It is never more than
/// [`SEND_PATIENCE`] away.
fn extended(until: Instant, now: Instant, bytes: usize) -> Instant {
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    let earned = Duration::from_secs(1).saturating_mul(bytes) / SEND_BYTES_A_SECOND;
    (until + earned).min(now + SEND_PATIENCE)
}

/// Returns an error answer after which the connection closes.
fn last(problem: Problem) -> Response {
    let mut refusal = problem.into_response();
    refusal
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    refusal
}

/// A TCP stream with a prefix of bytes to read first.
struct Io {
    /// Bytes that are read before those of the stream.
    unread: Bytes,
    stream: TcpStream,
    sending: Arc<Sending>,
    /// Write deadline; set while an answer waits for the peer to read.
    stall: Option<Pin<Box<Sleep>>>,
}

/// State that decides whether the connection can leave hyper.
/// After an answer to a waiting request: `GIVEN`, `ENCODED`, `SENT`. For a new request that waits:
/// `TAKEN`, `CLEAR`. The connection may leave in the states `SENT` and `CLEAR`.
#[derive(Default)]
struct Sending(AtomicU8);

impl Sending {
    /// The connection stays in hyper.
    const NONE: u8 = 0;
    /// hyper got the connection together with an answer.
    const GIVEN: u8 = 1;
    /// hyper has encoded that answer into its own buffer.
    const ENCODED: u8 = 2;
    /// hyper has written that answer to the stream.
    const SENT: u8 = 3;
    /// hyper has read a request that waits.
    const TAKEN: u8 = 4;
    /// hyper has also written all answers to earlier requests.
    const CLEAR: u8 = 5;

    fn set(&self, to: u8) {
        self.0.store(to, Ordering::Relaxed);
    }

    fn is(&self, state: u8) -> bool {
        self.0.load(Ordering::Relaxed) == state
    }

    /// Changes the state from `from` to `to`; does nothing in any other state.
    fn next(&self, from: u8, to: u8) {
        // Only the connection's own task touches the state, so `Relaxed` suffices.
        let _other = self
            .0
            .compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Notes when hyper has encoded the whole answer: it then drops the body.
    fn watch(self: &Arc<Self>, answer: Response) -> Response {
        let last = Last(Arc::clone(self));
        answer.map(|body| {
            Body::new(body.map_err(move |error| {
                let _ = &last;
                error
            }))
        })
    }
}

/// Changes the state to `ENCODED` when hyper drops the body that holds it.
struct Last(Arc<Sending>);

impl Drop for Last {
    fn drop(&mut self) {
        self.0.next(Sending::GIVEN, Sending::ENCODED);
    }
}

impl Io {
    /// Waits until input can be read. Returns false if the peer has closed the connection.
    async fn hears(&self) -> bool {
        !self.unread.is_empty()
            || self
                .stream
                .peek(&mut [0])
                .await
                .is_ok_and(|bytes| bytes > 0)
    }

    /// Resolves when the peer has closed the connection. Consumes no input.
    async fn gone(&self) {
        if self.hears().await {
            std::future::pending::<()>().await;
        }
    }

    /// Limits the time that a write may wait (I32). Without a limit, a peer that reads nothing or
    /// too slowly would hold the connection forever.
    fn watch_write(
        &mut self,
        wrote: Poll<io::Result<usize>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        match (&wrote, &mut self.stall) {
            (Poll::Ready(Ok(bytes)), Some(stall)) => {
                let until = extended(stall.deadline(), Instant::now(), *bytes);
                stall.as_mut().reset(until);
            }
            // The socket's buffer is full: start the deadline, or check it.
            (Poll::Pending, stall) => {
                let stall = stall.get_or_insert_with(|| Box::pin(sleep(SEND_PATIENCE)));
                if stall.as_mut().poll(context).is_ready() {
                    tracing::debug!("closed a connection whose peer did not read its answer");
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
            (Poll::Ready(_), _) => {}
        }
        wrote
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Read the prefix first, then the stream.
        if self.unread.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let length = self.unread.len().min(buffer.remaining());
        buffer.put_slice(&self.unread.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // hyper writes something else, such as an error answer of its own, so it is not idle.
        self.sending.next(Sending::SENT, Sending::NONE);
        let wrote = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch_write(wrote, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.sending.next(Sending::SENT, Sending::NONE);
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watch_write(wrote, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        self.stall = None;
        // hyper flushes the stream only when its own write buffer is empty.
        self.sending.next(Sending::ENCODED, Sending::SENT);
        self.sending.next(Sending::TAKEN, Sending::CLEAR);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closes_trickling_reader_but_not_slow_reader() {
        assert_eq!(ends_after(5_000), None);
        assert_eq!(ends_after(1), Some(21));
        assert_eq!(ends_after(2_048), Some(40));
    }

    /// Returns the second in which a peer that reads `bytes` each second is cut off.
    fn ends_after(bytes: usize) -> Option<u64> {
        let begun = Instant::now();
        let mut until = begun + SEND_PATIENCE;
        (0..1_000).find(|second| {
            let now = begun + Duration::from_secs(*second);
            until = extended(until, now, bytes);
            until <= now
        })
    }
}
