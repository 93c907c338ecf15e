//! Load generator: sends requests at a steady rate over kept connections, with changing tokens.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::clock::Stopwatch;
use crate::http::{Connection, Request};

/// Maximum number of tokens in use. Every other request carries the newest one; the others take
/// turns.
const KEPT_TOKENS: usize = 32;

#[derive(Debug, Default)]
struct Shared {
    tokens: Mutex<Vec<String>>,
    answers: Mutex<BTreeMap<String, u64>>,
    sent: AtomicU64,
    turn: AtomicUsize,
    over: AtomicBool,
}

/// Load in progress.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    tasks: JoinSet<Result<()>>,
    watch: Stopwatch,
}

/// Result of a load.
#[derive(Clone, Debug)]
pub struct Report {
    /// Number of requests by response: the status, and the code of a rejection.
    pub answers: BTreeMap<String, u64>,
    /// Number of responses.
    pub total: u64,
    /// Responses per second.
    pub rate: f64,
}

impl Report {
    /// Returns the number of responses other than 200.
    pub fn rejected(&self) -> u64 {
        self.answers
            .iter()
            .filter(|(answer, _)| *answer != "200")
            .map(|(_, count)| count)
            .sum()
    }
}

impl Load {
    /// Starts `rate` requests per second, spread over `connections`.
    ///
    /// # Errors
    /// Fails if a connection cannot be opened.
    pub async fn start(
        to: SocketAddr,
        path: &str,
        first_token: String,
        rate: u32,
        connections: u32,
    ) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        shared.put(first_token);
        let pace = Duration::from_secs(1) * connections / rate;
        let mut tasks = JoinSet::new();
        for _ in 0..connections {
            let connection = Connection::open(to).await?;
            tasks.spawn(send_steadily(
                connection,
                path.to_owned(),
                pace,
                Arc::clone(&shared),
            ));
        }
        Ok(Self {
            shared,
            tasks,
            watch: Stopwatch::start(),
        })
    }

    /// Adds a token, which the next requests use.
    pub fn put(&self, token: String) {
        self.shared.put(token);
    }

    /// Number of responses so far.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Ends the load and returns its result.
    ///
    /// # Errors
    /// Fails if a connection broke.
    pub async fn finish(mut self) -> Result<Report> {
        self.shared.over.store(true, Ordering::Relaxed);
        while let Some(task) = self.tasks.join_next().await {
            task.context("a load task panicked")??;
        }
        let elapsed = self.watch.elapsed().as_secs_f64();
        let total = self.sent();
        let answers = self
            .shared
            .answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        Ok(Report {
            answers,
            total,
            rate: total as f64 / elapsed,
        })
    }
}

impl Shared {
    fn put(&self, token: String) {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.insert(0, token);
        tokens.truncate(KEPT_TOKENS);
    }

    /// Returns the newest token at every even turn, so that new tokens are used at once.
    fn next_token(&self) -> String {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let index = if turn.is_multiple_of(2) {
            0
        } else {
            (turn / 2) % tokens.len().max(1)
        };
        tokens.get(index).cloned().unwrap_or_default()
    }
}

async fn send_steadily(
    mut connection: Connection,
    path: String,
    pace: Duration,
    shared: Arc<Shared>,
) -> Result<()> {
    let mut ticks = interval(pace);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    while !shared.over.load(Ordering::Relaxed) {
        ticks.tick().await;
        let response = connection
            .send(&Request::get(&path).bearer(&shared.next_token()))
            .await?;
        let answer = match response.status {
            200 => "200".to_owned(),
            status => format!("{status} {}", response.code().unwrap_or_default()),
        };
        *shared
            .answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(answer)
            .or_default() += 1;
        shared.sent.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
