//! One connection. hyper serves it, except while there is nothing to do for long: hyper keeps 16 KB
//! with a connection, and ten thousand polls wait at a time.
//!
//! A request that will wait is taken from hyper with its connection, and the connection is given
//! back with the answer: hyper then reads a stand-in for the request, which is answered at once.
//! Nothing of hyper's is lost on the way: such a request has no body and no wish about the
//! connection, and it is taken only when all earlier answers have left.

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

/// Time for a new connection to send its first head: while it has asked for nothing, it belongs to
/// no share.
const FIRST_PATIENCE: Duration = Duration::from_secs(10);

/// How long a connection may idle.
pub(super) const IDLE_PATIENCE: Duration = Duration::from_secs(60);

/// Time for a peer to take an answer that does not fit into the socket's buffer.
const SEND_PATIENCE: Duration = Duration::from_secs(20);

/// Bytes that buy a peer one more second.
const SEND_BYTES_A_SECOND: u32 = 4_096;

/// A request to which hyper may write any answer.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: -\r\n\r\n";

type Request = hyper::Request<Incoming>;

/// An answer that is not there yet.
pub type Waiting = Pin<Box<dyn Future<Output = Response> + Send>>;

/// Looks at a request: what to wait for if its answer is not there yet and nothing is wrong with
/// it.
pub type Waits = Box<dyn Fn(&Request) -> Option<Waiting> + Send + Sync>;

/// The address that a connection comes from.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// What all connections of a server share.
pub(super) struct Service {
    pub(super) http: http1::Builder,
    pub(super) router: Router,
    pub(super) waits: Option<Waits>,
    /// Answers under way are the last.
    pub(super) ending: CancellationToken,
}

/// A connection that has its place.
pub(super) struct Connection {
    pub(super) service: Arc<Service>,
    pub(super) peer: IpAddr,
    pub(super) seat: Seat,
}

/// What becomes of a request.
enum Step {
    Answer(Box<Response>),
    Ask(Box<Request>),
    Wait,
}

/// Why hyper does not have the connection any more.
enum Turn {
    /// A request waits.
    Waits(Waiting),
    /// The one who waited has its answer, and says nothing yet.
    Idles,
}

impl Connection {
    /// Serves it until it ends.
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
            if answer.is_none() && !self.is_spoken_on(&io, until).await {
                return;
            }
            // In a box of its own, which goes with all that hyper holds.
            let Some((turn, back)) = Box::pin(self.exchange(io, answer.take(), first)).await else {
                return;
            };
            until = Instant::now() + IDLE_PATIENCE;
            io = back;
            if let Turn::Waits(waiting) = turn {
                tokio::select! {
                    came = waiting => answer = Some(came),
                    () = io.gone() => return,
                }
                io.unread = [STAND_IN, &io.unread].concat().into();
            }
        }
    }

    /// Waits until there is something to read; not longer than that, and not when the end has come.
    async fn is_spoken_on(&self, io: &Io, until: Instant) -> bool {
        tokio::select! {
            biased;
            heard = timeout_at(until, io.hears()) => heard.is_ok_and(|heard| heard),
            () = self.seat.silence_over(until) => false,
            () = self.service.ending.cancelled() => false,
        }
    }

    /// Has hyper serve it, to begin with `answer` to the stand-in, and to have been asked for
    /// something by `first`. Nothing, when the connection has ended.
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
        let (answer, waiting) = (Mutex::new(answer), Mutex::new(None));
        let service = service_fn(|request| {
            let step = match take(&answer) {
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
                    Step::Wait => std::future::pending().await,
                }
            }
        });
        let mut connection = self
            .service
            .http
            .serve_connection(TokioIo::new(io), service);
        let (mut ending, mut silent) = (
            pin!(self.service.ending.cancelled()),
            pin!(self.seat.silence_over(first)),
        );
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
                    tracing::debug!("a connection that asked for nothing was cut off");
                    return Poll::Ready(None);
                }
                // After hyper has looked: it closes a connection that is told before it has read
                // anything.
                if told || ending.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                told = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        });
        let turn = turn.await?;
        let parts = connection.into_parts();
        let mut io = parts.io.into_inner();
        // Copied, for it keeps hyper's buffer alive; there is seldom anything.
        io.unread = [&*parts.read_buf, &*io.unread].concat().into();
        Some((turn, io))
    }

    fn step(&self, mut request: Request, waiting: &Mutex<Option<Waiting>>) -> Step {
        self.seat.hear();
        if !host::is_valid(request.version(), request.headers()) {
            let problem = Problem::bad_request(
                "send one Host header: a host and optionally a port (RFC 9112 §3.2)",
            );
            return Step::Answer(Box::new(last(problem)));
        }
        let wanted = if request.uri().path() == bundle::PATH {
            Use::Poll
        } else {
            Use::Other
        };
        if !self.seat.take_for(wanted) {
            let problem = Problem::unavailable("too many connections of this sort; try again");
            return Step::Answer(Box::new(last(problem)));
        }
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

/// Whether the stand-in can take the request's place.
fn is_plain(request: &Request) -> bool {
    let wishes = [header::CONNECTION, header::EXPECT, header::UPGRADE];
    request.version() == Version::HTTP_11
        && request.body().is_end_stream()
        && !wishes
            .iter()
            .any(|wish| request.headers().contains_key(wish))
}

/// Returns the new end of patience after a peer has taken `bytes` more.
fn extended(until: Instant, now: Instant, bytes: usize) -> Instant {
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    let earned = Duration::from_secs(1).saturating_mul(bytes) / SEND_BYTES_A_SECOND;
    (until + earned).min(now + SEND_PATIENCE)
}

/// The last answer of a connection.
fn last(problem: Problem) -> Response {
    let mut refusal = problem.into_response();
    refusal
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    refusal
}

/// A stream, with what is to be read before it.
struct Io {
    unread: Bytes,
    stream: TcpStream,
    sending: Arc<Sending>,
    /// Set while an answer waits for the peer: when the connection is cut off.
    stall: Option<Pin<Box<Sleep>>>,
}

/// How far hyper is with what matters for taking the connection from it.
#[derive(Default)]
struct Sending(AtomicU8);

impl Sending {
    /// Nothing matters.
    const NONE: u8 = 0;
    /// It was given an answer with the connection.
    const GIVEN: u8 = 1;
    /// It has put that into its buffer.
    const ENCODED: u8 = 2;
    /// That has left.
    const SENT: u8 = 3;
    /// It has read a request that waits.
    const TAKEN: u8 = 4;
    /// All answers to earlier ones have left, too.
    const CLEAR: u8 = 5;

    fn set(&self, to: u8) {
        self.0.store(to, Ordering::Relaxed);
    }

    fn is(&self, state: u8) -> bool {
        self.0.load(Ordering::Relaxed) == state
    }

    fn next(&self, from: u8, to: u8) {
        let _other = self
            .0
            .compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// hyper drops a body when it has all of it in its own buffer.
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

struct Last(Arc<Sending>);

impl Drop for Last {
    fn drop(&mut self) {
        self.0.next(Sending::GIVEN, Sending::ENCODED);
    }
}

impl Io {
    /// Whether there is something to read, once that is known: false when the other side has gone.
    async fn hears(&self) -> bool {
        !self.unread.is_empty()
            || self
                .stream
                .peek(&mut [0])
                .await
                .is_ok_and(|bytes| bytes > 0)
    }

    /// Resolves when the other side has gone. What it says meanwhile stays where it is.
    async fn gone(&self) {
        if self.hears().await {
            std::future::pending::<()>().await;
        }
    }
}

impl Io {
    /// Bounds the time that a write may wait (I32). A peer that does not read, or reads too slowly,
    /// is cut off: its answers would hold the connection for ever.
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
            (Poll::Pending, stall) => {
                let stall = stall.get_or_insert_with(|| Box::pin(sleep(SEND_PATIENCE)));
                if stall.as_mut().poll(context).is_ready() {
                    tracing::debug!(
                        "a connection whose peer does not read its answers was cut off"
                    );
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
        // Of something else, such as a refusal of hyper's own.
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
        // hyper flushes the stream when its own buffer is empty.
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
    fn slow_reader_earns_time_and_trickler_does_not() {
        let begun = Instant::now();
        let ends_after = |bytes: usize| {
            let mut until = begun + SEND_PATIENCE;
            (0..1_000).find(|second| {
                let now = begun + Duration::from_secs(*second);
                until = extended(until, now, bytes);
                until <= now
            })
        };
        assert_eq!(ends_after(5_000), None);
        assert_eq!(ends_after(1), Some(21));
        assert_eq!(ends_after(2_048), Some(40));
    }
}
