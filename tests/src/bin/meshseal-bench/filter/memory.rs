//! Size of the module and of a worker's VM. The VM's size is the linear memory of the serving
//! instance, taken from the memory map of the Envoy process.
//!
//! V8 reserves some gigabytes of addresses for each linear memory, so that it need not check
//! bounds. The used part at the start of a reservation is readable and writable; the rest is
//! inaccessible.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use meshseal_tests::envoy::Envoy;
use meshseal_tests::paths;

use super::arena::Arena;
use super::contenders::{Contender, EMPTY, MESHSEAL, plugin};
use super::tokens::{Signer, jwks};
use crate::drive::Requests;
use crate::process::{as_f64, rss_mb};
use crate::report::{Bound, Table, short};
use crate::{Effort, say};

const KEYS: usize = 10;
/// Number of requests in a batch.
const BATCH: usize = 10_000;
/// Number of requests in a batch with new tokens; the others use live tokens.
const NEW_IN_BATCH: usize = 500;
const USED: usize = 2_000;
/// Minimum size of a reservation behind a linear memory. Envoy reserves nothing else of this size.
const RESERVED: u64 = 1 << 31;

pub(crate) async fn run(effort: &Effort) -> Result<Table> {
    let module = fs::metadata(paths::wasm())?.len();
    let kids: Vec<String> = (0..KEYS).map(|at| format!("key-{at}")).collect();
    let signers = kids
        .iter()
        .map(|kid| Signer::named("EdDSA", kid))
        .collect::<Result<Vec<_>>>()?;
    let keys = jwks(&signers)?;
    let contenders = [
        Contender::new(EMPTY, vec![]),
        Contender::new(
            MESHSEAL,
            vec![meshseal_tests::bootstrap::meshseal(&plugin(
                MESHSEAL, &keys,
            ))],
        ),
    ];
    let mut arena = Arena::start("memory", &contenders, &[]).await?;
    let pid = arena.envoy.pid();
    let idle = linear_memory(pid)?;
    // Fill the cache with live tokens, then send them again: none may be validated twice.
    let mut live = Vec::new();
    for signer in &signers {
        live.extend(signer.requests(effort.live_tokens / KEYS)?.iter().cloned());
    }
    let live = Requests::new(live);
    arena.send(MESHSEAL, &live, live.len()).await?;
    let (cached, rss) = (linear_memory(pid)?, rss_mb(pid)?);
    let before = validations(&arena.envoy).await?;
    arena.send(MESHSEAL, &live, live.len()).await?;
    let forgotten = validations(&arena.envoy).await? - before;
    say(&format!(
        "filter: {} more requests, to see whether memory grows",
        effort.endurance
    ));
    // Endurance: new tokens replace cached ones, and memory must not grow.
    let used = Requests::new(live.iter().take(USED).cloned().collect());
    let mut sent = 0;
    while sent < effort.endurance {
        let signer = signers.get(sent / BATCH % KEYS).context("a key")?;
        arena
            .send(MESHSEAL, &signer.requests(NEW_IN_BATCH)?, NEW_IN_BATCH)
            .await?;
        arena.send(MESHSEAL, &used, BATCH - NEW_IN_BATCH).await?;
        sent += BATCH;
    }
    let (late, late_rss) = (linear_memory(pid)?, rss_mb(pid)?);
    arena.envoy.stop().await;
    // Report.
    let mut table = Table::new(
        "Memory",
        "VM memory is the linear memory of the worker's instance, pages never touched included. \
         Later means after a million requests, one in twenty with a new token, the others with \
         2000 tokens in turn.",
        ["what", "figure", "target", ""],
    );
    table.judged(
        ["module, KB".to_owned()],
        as_f64(usize::try_from(module)?) / 1e3,
        Bound::AtMost(600.0),
    );
    table.row([
        "VM memory after the start, MB".to_owned(),
        short(idle),
        String::new(),
        String::new(),
    ]);
    let cached_row = format!(
        "VM memory with {} live tokens and {KEYS} keys, MB",
        live.len()
    );
    table.judged([cached_row], cached, Bound::AtMost(12.0));
    table.judged(
        ["of these, validated again in a second round".to_owned()],
        forgotten,
        Bound::AtMost(0.0),
    );
    table.judged(
        ["VM memory later, to before".to_owned()],
        late / cached,
        Bound::AtMost(1.0),
    );
    let grown = format!("{} → {}", short(rss), short(late_rss));
    table.row([
        "RSS of the whole Envoy process, MB".to_owned(),
        grown,
        String::new(),
        String::new(),
    ]);
    Ok(table)
}

/// Returns the number of validations. Requests with cached verdicts do not count.
async fn validations(envoy: &Envoy) -> Result<f64> {
    // Histograms are merged five times a second.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let stats = envoy
        .admin_get("/stats/prometheus?filter=validation_us")
        .await?
        .text();
    let counts = stats.lines().filter(|line| line.contains("_count{"));
    let counts = counts.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    Ok(counts.sum())
}

/// Returns the largest linear memory of the process in MB, which is that of the serving worker.
fn linear_memory(pid: u32) -> Result<f64> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let maps: Vec<Mapping<'_>> = maps.lines().filter_map(Mapping::read).collect();
    let neighbours = maps.iter().zip(maps.iter().skip(1));
    let memories = neighbours.filter(|(used, rest)| {
        used.rights == "rw-p"
            && rest.rights == "---p"
            && used.end == rest.start
            && rest.size() > RESERVED
    });
    let largest = memories
        .map(|(used, _)| used.size())
        .max()
        .context("no linear memory in the maps of Envoy")?;
    Ok(as_f64(usize::try_from(largest)?) / 1e6)
}

struct Mapping<'l> {
    start: u64,
    end: u64,
    rights: &'l str,
}

impl<'l> Mapping<'l> {
    fn read(line: &'l str) -> Option<Self> {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        Some(Self {
            start: u64::from_str_radix(start, 16).ok()?,
            end: u64::from_str_radix(end, 16).ok()?,
            rights: rest.split(' ').next()?,
        })
    }

    fn size(&self) -> u64 {
        self.end - self.start
    }
}
