//! The load: a few connections, each sending its next request as soon as the last is answered. Requests are bytes made
//! beforehand, and answers are looked at no more than needed, so that the client does not slow Envoy down.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use meshseal_tests::clock::Stopwatch;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Enough to keep one worker busy.
const CONNECTIONS: usize = 8;

/// Latencies of one run.
pub(crate) type Answers = Vec<Duration>;

/// What one run of one contender cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// CPU of the Envoy process for each request, in microseconds.
    pub(crate) cpu_us: f64,
    /// Requests per second.
    pub(crate) rate: f64,
    /// Median latency in microseconds.
    pub(crate) p50_us: f64,
    /// 99th percentile of the latency in microseconds.
    pub(crate) p99_us: f64,
}

impl Sample {
    pub(crate) fn new(mut answers: Answers, cpu_ns: u64, elapsed: Duration) -> Self {
        answers.sort_unstable();
        let count = answers.len().max(1);
        let percentile =
            |share: usize| answers.get(count * share / 100).map_or(0.0, |latency| latency.as_secs_f64() * 1e6);
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let (cpu_us, rate) = (cpu_ns as f64 / 1e3 / count as f64, count as f64 / elapsed.as_secs_f64());
        Self { cpu_us, rate, p50_us: percentile(50), p99_us: percentile(99) }
    }
}

/// Kept connections to one listener.
pub(crate) struct Clients(Vec<TcpStream>);

impl Clients {
    pub(crate) async fn connect(to: SocketAddr) -> Result<Self> {
        let mut streams = Vec::new();
        for _ in 0..CONNECTIONS {
            let stream = TcpStream::connect(to).await.with_context(|| format!("cannot connect to {to}"))?;
            stream.set_nodelay(true)?;
            streams.push(stream);
        }
        Ok(Self(streams))
    }

    /// Sends `count` requests, taking turns through `requests`; each must be answered with 200.
    pub(crate) async fn run(&mut self, requests: &[Vec<u8>], count: usize) -> Result<Answers> {
        let requests = Arc::new(requests.to_vec());
        let next = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = std::mem::take(&mut self.0)
            .into_iter()
            .map(|stream| tokio::spawn(send(stream, Arc::clone(&requests), Arc::clone(&next), count)))
            .collect();
        let mut answers = Answers::with_capacity(count);
        for task in tasks {
            let (stream, latencies) = task.await??;
            self.0.push(stream);
            answers.extend(latencies);
        }
        Ok(answers)
    }
}

async fn send(
    mut stream: TcpStream,
    requests: Arc<Vec<Vec<u8>>>,
    next: Arc<AtomicUsize>,
    count: usize,
) -> Result<(TcpStream, Answers)> {
    let mut latencies = Answers::new();
    let mut buffer = vec![0; 8 * 1024];
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= count {
            return Ok((stream, latencies));
        }
        let request = requests.get(number % requests.len()).context("a request")?;
        let watch = Stopwatch::start();
        stream.write_all(request).await?;
        read_answer(&mut stream, &mut buffer).await?;
        latencies.push(watch.elapsed());
    }
}

/// An answer without a body: 200 with `content-length: 0`, whole once its headers end.
async fn read_answer(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<()> {
    let mut filled = 0;
    loop {
        let room = buffer.get_mut(filled..).context("an answer larger than 8 KiB")?;
        let read = stream.read(room).await?;
        ensure!(read > 0, "Envoy closed the connection");
        filled += read;
        let answer = buffer.get(..filled).unwrap_or_default();
        if answer.ends_with(b"\r\n\r\n") {
            ensure!(answer.starts_with(b"HTTP/1.1 200"), "not accepted: {}", String::from_utf8_lossy(answer));
            return Ok(());
        }
        ensure!(
            answer.starts_with(b"HTTP/1.1 200") || filled < 12,
            "not accepted: {}",
            String::from_utf8_lossy(answer)
        );
    }
}
