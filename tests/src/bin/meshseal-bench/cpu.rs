//! CPU time of another process.

use std::fs;

use anyhow::{Context as _, Result};
use meshseal_tests::clock::Stopwatch;

use crate::drive::{Answers, Sample};

/// Nanoseconds that all threads of the process have spent on a CPU: the first number of each thread's schedstat.
fn spent(pid: u32) -> Result<u64> {
    let mut total = 0;
    for thread in
        fs::read_dir(format!("/proc/{pid}/task")).context("CPU time is read from /proc: this bench needs Linux")?
    {
        let path = thread?.path().join("schedstat");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        total += text.split(' ').next().unwrap_or_default().parse::<u64>().context("schedstat begins with a number")?;
    }
    Ok(total)
}

/// Runs a load and takes the process's CPU time for it.
pub(crate) async fn measure(pid: u32, load: impl Future<Output = Result<Answers>>) -> Result<Sample> {
    let before = spent(pid)?;
    let watch = Stopwatch::start();
    let answers = load.await?;
    let elapsed = watch.elapsed();
    Ok(Sample::new(answers, spent(pid)? - before, elapsed))
}
