//! One Envoy with one worker and a listener for each contender. Each round measures all contenders
//! and starts with another one, so that other load on the machine affects all of them equally.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use meshseal_tests::bootstrap::{Bootstrap, answering_listener};
use meshseal_tests::envoy::{Envoy, Options};
use meshseal_tests::issuer::state_folder;

use super::contenders::{Contender, EMPTY, ISTIO, NATIVE, NATIVE_BARE};
use crate::drive::{Clients, Requests};
use crate::process::{self, Sample, median};

/// Number of requests measured at a time. They take about ten milliseconds, while other load on the
/// machine changes more slowly.
const SLICE: usize = 250;

/// A workload for contenders.
pub(crate) struct Work {
    pub(crate) name: String,
    pub(crate) requests: Requests,
    /// Number of requests to send; the prepared requests take turns.
    pub(crate) count: usize,
    /// Number of requests sent before the measurement, to fill the caches.
    pub(crate) warm_up: usize,
    /// Expected status from Meshseal. Without a filter the status is always 200.
    pub(crate) status: u16,
    /// Expected status from `jwt_authn`.
    pub(crate) native_status: u16,
    /// Names of the contenders, besides the empty chain.
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

/// The Envoy and its samples by workload and contender.
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

    /// Measures a workload with every contender in slices, because other load on the machine
    /// changes from one second to the next.
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

    /// Returns the samples with their workload and contender.
    pub(crate) fn figures(&self) -> impl Iterator<Item = (&str, &str, &[Sample])> {
        self.samples.iter().map(|((work, contender), samples)| {
            (work.as_str(), contender.as_str(), samples.as_slice())
        })
    }

    fn samples(&self, work: &str, contender: &str) -> Result<&Vec<Sample>> {
        let key = (work.to_owned(), contender.to_owned());
        self.samples
            .get(&key)
            .with_context(|| format!("no sample of {contender} for {work}"))
    }

    /// Returns the added CPU time per request compared with the empty chain in the same slice, in
    /// microseconds: the median of all slices.
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
