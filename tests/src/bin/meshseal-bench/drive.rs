//! Closed-loop load: each kept connection sends its next request as soon as the last is answered.
//!
//! Requests are prepared as bytes, and responses are parsed only as far as needed, so that the
//! client does not distort the measurement.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use meshseal_tests::clock::Stopwatch;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Number of connections; enough to keep one worker busy.
const CONNECTIONS: usize = 8;

/// Whole requests, taken in turn.
pub(crate) type Requests = Arc<Vec<Vec<u8>>>;

/// Latencies of one run.
pub(crate) type Answers = Vec<Duration>;

/// Kept connections to one server.
pub(crate) struct Clients(Vec<Client>);

impl Clients {
    pub(crate) async fn connect(to: SocketAddr) -> Result<Self> {
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            clients.push(Client::connect(to).await?);
        }
        Ok(Self(clients))
    }

    /// Sends the requests with these numbers, modulo the number of requests. Each response must
    /// have `status`.
    pub(crate) async fn run(
        &mut self,
        requests: &Requests,
        numbers: Range<usize>,
        status: u16,
    ) -> Result<Answers> {
        let next = Arc::new(AtomicUsize::new(numbers.start));
        let tasks: Vec<_> = std::mem::take(&mut self.0)
            .into_iter()
            .map(|client| {
                tokio::spawn(send(
                    client,
                    Arc::clone(requests),
                    Arc::clone(&next),
                    numbers.end,
                    status,
                ))
            })
            .collect();
        let mut answers = Answers::with_capacity(numbers.len());
        for task in tasks {
            let (client, latencies) = task.await??;
            self.0.push(client);
            answers.extend(latencies);
        }
        Ok(answers)
    }
}

async fn send(
    mut client: Client,
    requests: Requests,
    next: Arc<AtomicUsize>,
    end: usize,
    status: u16,
) -> Result<(Client, Answers)> {
    let mut latencies = Answers::new();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= end {
            return Ok((client, latencies));
        }
        let request = requests.get(number % requests.len()).context("a request")?;
        let watch = Stopwatch::start();
        client.ask(request, status).await?;
        latencies.push(watch.elapsed());
    }
}

/// One kept connection.
pub(crate) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(to: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(to)
            .await
            .with_context(|| format!("cannot connect to {to}"))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
        })
    }

    /// Sends a request, checks the status of the response and returns its body.
    pub(crate) async fn ask(&mut self, request: &[u8], status: u16) -> Result<&[u8]> {
        let (got, body) = self.exchange(request).await?;
        if got != status {
            bail!(
                "expected status {status}, got {got}: {}",
                String::from_utf8_lossy(&self.buffer)
            );
        }
        Ok(self.buffer.get(body..).unwrap_or_default())
    }

    /// Sends a request. Returns the status and the start of the body in the buffer.
    async fn exchange(&mut self, request: &[u8]) -> Result<(u16, usize)> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        loop {
            let read = self.stream.read_buf(&mut self.buffer).await?;
            ensure!(read > 0, "the connection was closed");
            if let Some(head) = Head::read(&self.buffer)?
                && self.buffer.len() >= head.body + head.length
            {
                return Ok((head.status, head.body));
            }
        }
    }
}

/// The needed facts of a response head.
struct Head {
    status: u16,
    /// Start of the body.
    body: usize,
    /// Length of the body.
    length: usize,
}

impl Head {
    /// Parses a response head. Returns `None` until the head is complete.
    fn read(answer: &[u8]) -> Result<Option<Self>> {
        let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
            return Ok(None);
        };
        let head = std::str::from_utf8(answer.get(..end).unwrap_or_default())
            .context("the response head is not UTF-8")?;
        let mut lines = head.split("\r\n");
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1))
            .and_then(|code| code.parse().ok());
        let mut lengths = lines
            .filter_map(|line| line.split_once(": "))
            .filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        let length = lengths
            .next()
            .context("the response has no content-length")?
            .1
            .parse()?;
        Ok(Some(Self {
            status: status.context("the response has no status")?,
            body: end + 4,
            length,
        }))
    }
}
