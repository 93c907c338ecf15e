//! The load: kept connections, each sending its next request as soon as the last is answered.
//! Requests are bytes made beforehand, and answers are looked at no more than needed, so that the
//! client does not slow down what it measures.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use meshseal_tests::clock::Stopwatch;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Enough to keep one worker busy.
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

    /// Sends the requests of these numbers, counted around; each must be answered with `status`.
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

    /// Sends a request and reads its answer, which must have this status; the body.
    pub(crate) async fn ask(&mut self, request: &[u8], status: u16) -> Result<&[u8]> {
        let (got, body) = self.exchange(request).await?;
        if got != status {
            bail!(
                "answered {got} instead of {status}: {}",
                String::from_utf8_lossy(&self.buffer)
            );
        }
        Ok(self.buffer.get(body..).unwrap_or_default())
    }

    /// The status, and where the body begins in the buffer.
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

/// What must be known of an answer's head.
struct Head {
    status: u16,
    /// Where the body begins, and how long it is.
    body: usize,
    length: usize,
}

impl Head {
    /// `None` until the whole head is there.
    fn read(answer: &[u8]) -> Result<Option<Self>> {
        let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
            return Ok(None);
        };
        let head = std::str::from_utf8(answer.get(..end).unwrap_or_default())
            .context("a head that is text")?;
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
            .context("an answer without content-length")?
            .1
            .parse()?;
        Ok(Some(Self {
            status: status.context("no status")?,
            body: end + 4,
            length,
        }))
    }
}
