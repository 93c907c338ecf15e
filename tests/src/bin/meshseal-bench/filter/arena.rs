//! One Envoy with one worker and a listener for each contender. Rounds go through all contenders,
//! each beginning with another, so that whatever else the machine does falls on all of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use meshseal_tests::bootstrap::{Bootstrap, answering_listener};
use meshseal_tests::envoy::{Envoy, Options};
use meshseal_tests::issuer::state_folder;

use super::contenders::{Contender, EMPTY, ISTIO, NATIVE, NATIVE_BARE};
use crate::drive::{Clients, Requests};
use crate::process::{self, Sample, median};

/// Requests measured at a time, some ten milliseconds: what else the machine does changes more
/// slowly.
const SLICE: usize = 250;

/// Something that contenders are asked to do.
pub(crate) struct Work {
    pub(crate) name: String,
    pub(crate) requests: Requests,
    /// How many are sent, taking turns.
    pub(crate) count: usize,
    /// Sent before, and not measured: what fills the caches.
    pub(crate) warm_up: usize,
    /// Meshseal's answer. Without a filter the answer is always 200.
    pub(crate) status: u16,
    /// The answer of `jwt_authn`.
    pub(crate) native_status: u16,
    /// Who does it, besides the empty chain.
    pub(crate) contenders: Vec<String>,
}

impl Work {
    fn answer_of(&self, contender: &str) -> u16 {
        match contender {
            EMPTY => 200,
            ISTIO | NATIVE | NATIVE_BARE => self.native_status,
            _ => self.status,
        }
    }
}

/// The Envoy, and what was measured in it.
pub(crate) struct Arena {
    pub(crate) envoy: Envoy,
    clients: BTreeMap<String, Clients>,
    samples: BTreeMap<(String, String), Vec<Sample>>,
    turn: usize,
}

impl Arena {
    pub(crate) async fn start(
        name: &str,
        contenders: &[Contender],
        clusters: &[(String, SocketAddr)],
    ) -> Result<Self> {
        let dir = state_folder("bench").join(name);
        let config = dir.join("bootstrap.json");
        let listeners = contenders
            .iter()
            .map(|contender| answering_listener(&contender.name, &contender.filters));
        let bootstrap = listeners.fold(Bootstrap::new(), Bootstrap::listener);
        clusters
            .iter()
            .fold(bootstrap, |bootstrap, (name, to)| {
                bootstrap.cluster(name, *to)
            })
            .write(&config)?;
        let envoy = Envoy::start(&Options {
            config,
            workers: 1,
            node: name.to_owned(),
            dir,
        })
        .await?;
        let mut clients = BTreeMap::new();
        for contender in contenders {
            let address = envoy.listener(&contender.name).await?;
            clients.insert(contender.name.clone(), Clients::connect(address).await?);
        }
        process::quiet(envoy.pid()).await?;
        Ok(Self {
            envoy,
            clients,
            samples: BTreeMap::new(),
            turn: 0,
        })
    }

    pub(crate) fn has(&self, contender: &str) -> bool {
        self.clients.contains_key(contender)
    }

    /// Sends requests without measuring them.
    pub(crate) async fn send(
        &mut self,
        contender: &str,
        requests: &Requests,
        count: usize,
    ) -> Result<()> {
        self.clients
            .get_mut(contender)
            .context("connected")?
            .run(requests, 0..count, 200)
            .await
            .map(drop)
    }

    /// The whole work by every contender, a slice at a time: what else the machine does changes
    /// from one second to the next.
    pub(crate) async fn measure(&mut self, work: &Work) -> Result<()> {
        let empty = EMPTY.to_owned();
        let known = work
            .contenders
            .iter()
            .filter(|name| self.clients.contains_key(*name));
        let contenders: Vec<String> = known.chain([&empty]).cloned().collect();
        if contenders.len() == 1 {
            return Ok(());
        }
        for contender in &contenders {
            let status = work.answer_of(contender);
            let clients = self.clients.get_mut(contender).context("connected")?;
            clients.run(&work.requests, 0..work.warm_up, status).await?;
        }
        for start in (0..work.count).step_by(SLICE) {
            self.turn += 1;
            for at in 0..contenders.len() {
                let name = contenders
                    .get((at + self.turn) % contenders.len())
                    .context("a contender")?;
                let clients = self.clients.get_mut(name).context("connected")?;
                let load = clients.run(
                    &work.requests,
                    start..work.count.min(start + SLICE),
                    work.answer_of(name),
                );
                let sample = process::measure(self.envoy.pid(), load).await;
                let sample = sample.with_context(|| format!("{}, {name}", work.name))?;
                self.samples
                    .entry((work.name.clone(), name.clone()))
                    .or_default()
                    .push(sample);
            }
        }
        Ok(())
    }

    /// What was measured: work, contender, and the median of a figure.
    pub(crate) fn figures(&self) -> impl Iterator<Item = (&str, &str, &[Sample])> {
        self.samples.iter().map(|((work, contender), samples)| {
            (work.as_str(), contender.as_str(), samples.as_slice())
        })
    }

    fn samples(&self, work: &str, contender: &str) -> Result<&Vec<Sample>> {
        let key = (work.to_owned(), contender.to_owned());
        self.samples
            .get(&key)
            .with_context(|| format!("{contender} did not do: {work}"))
    }

    /// CPU for each request over the empty chain in the same slice, in microseconds: the median of
    /// all slices.
    pub(crate) fn added(&self, work: &str, contender: &str) -> Result<f64> {
        let empty = self.samples(work, EMPTY)?;
        let over = self
            .samples(work, contender)?
            .iter()
            .zip(empty)
            .map(|(sample, empty)| sample.cpu_us - empty.cpu_us);
        Ok(median(over.collect()))
    }
}
