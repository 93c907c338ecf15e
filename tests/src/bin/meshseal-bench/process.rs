//! CPU time and memory of another process, from /proc.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use meshseal_tests::clock::Stopwatch;

use crate::drive::Answers;

/// Cost of one run of a load for the process that served it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// CPU time of the process per request, in microseconds.
    pub(crate) cpu_us: f64,
    /// Requests per second.
    pub(crate) rate: f64,
    /// Median latency in microseconds.
    pub(crate) p50_us: f64,
    /// 99th percentile of the latency in microseconds.
    pub(crate) p99_us: f64,
}

impl Sample {
    /// Returns the number of requests that one core would serve per second.
    pub(crate) fn per_core(&self) -> f64 {
        1e6 / self.cpu_us
    }
}

/// Returns the CPU time of all threads of a process: the first number of each thread's schedstat,
/// in nanoseconds.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    let mut total = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))
        .context("CPU time is read from /proc: this bench needs Linux")?
    {
        let path = thread?.path().join("schedstat");
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        total += text
            .split(' ')
            .next()
            .unwrap_or_default()
            .parse::<u64>()
            .context("schedstat begins with a number")?;
    }
    Ok(Duration::from_nanos(total))
}

/// Runs a load and measures the CPU time of the process meanwhile.
pub(crate) async fn measure(
    pid: u32,
    load: impl Future<Output = Result<Answers>>,
) -> Result<Sample> {
    let before = cpu(pid)?;
    let watch = Stopwatch::start();
    let mut answers = load.await?;
    let elapsed = watch.elapsed().as_secs_f64();
    let spent = (cpu(pid)? - before).as_secs_f64() * 1e6;
    answers.sort_unstable();
    let count = as_f64(answers.len().max(1));
    let (p50_us, p99_us) = (percentile(&answers, 50), percentile(&answers, 99));
    Ok(Sample {
        cpu_us: spent / count,
        rate: count / elapsed,
        p50_us,
        p99_us,
    })
}

/// Returns a percentile of sorted durations, in microseconds.
pub(crate) fn percentile(sorted: &[Duration], share: usize) -> f64 {
    let at = (sorted.len() * share / 100).min(sorted.len().saturating_sub(1));
    sorted
        .get(at)
        .map_or(f64::NAN, |duration| duration.as_secs_f64() * 1e6)
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
pub(crate) fn as_f64(count: usize) -> f64 {
    count as f64
}

/// Returns the median.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Returns the physical memory of a process in MB.
pub(crate) fn rss_mb(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? * 1_024.0 / 1e6)
}

/// Waits until the work of a process after its start is over, that is, until it has hardly used
/// a CPU for half a second.
pub(crate) async fn quiet(pid: u32) -> Result<()> {
    const GLANCE: Duration = Duration::from_millis(500);
    // A process that never gets idle is measured anyway.
    for _ in 0..60 {
        let before = cpu(pid)?;
        tokio::time::sleep(GLANCE).await;
        if cpu(pid)? - before < GLANCE / 25 {
            break;
        }
    }
    Ok(())
}
