//! Open-loop load: sends requests at a steady rate, whether or not earlier ones are answered. A
//! latency counts from the time at which its request was due.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use meshseal_tests::clock::Stopwatch;

use crate::drive::{Answers, Client, Requests};

/// Number of connections; at usual rates enough that a request need not wait for a free one.
pub(crate) const CONNECTIONS: u32 = 32;

/// Sends every request once and returns the sorted latencies.
pub(crate) async fn run(
    to: SocketAddr,
    requests: &Requests,
    per_second: u32,
    connections: u32,
) -> Result<Answers> {
    let mut clients = Vec::new();
    for _ in 0..connections {
        clients.push(Client::connect(to).await?);
    }
    let watch = Stopwatch::start();
    let tasks: Vec<_> = (0..)
        .zip(clients)
        .map(|(first, client)| {
            tokio::spawn(send(
                client,
                Arc::clone(requests),
                (first, connections),
                per_second,
                watch,
            ))
        })
        .collect();
    let mut answers = Answers::new();
    for task in tasks {
        answers.extend(task.await??);
    }
    answers.sort_unstable();
    Ok(answers)
}

async fn send(
    mut client: Client,
    requests: Requests,
    (first, step): (u32, u32),
    per_second: u32,
    watch: Stopwatch,
) -> Result<Answers> {
    let mut answers = Answers::new();
    let mut number = first;
    while let Some(request) = requests.get(usize::try_from(number)?) {
        let due = Duration::from_secs(1) * number / per_second;
        tokio::time::sleep(due.saturating_sub(watch.elapsed())).await;
        client.ask(request, 200).await?;
        answers.push(
            watch
                .elapsed()
                .checked_sub(due)
                .context("answered before it was due")?,
        );
        number += step;
    }
    Ok(answers)
}
