//! Envoy for a test, with the current module: two workers, an echo upstream, and one kept
//! connection per listener and worker, so that a test can send a request to each worker.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::{Context as _, Result};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

use crate::bootstrap::{Bootstrap, listener, meshseal};
use crate::echo::Echo;
use crate::envoy::{Envoy, Options};
use crate::http::{Connection, Request, Response};
use crate::workers::connect_each;
use crate::{build, paths};

/// Number of worker threads of a test's Envoy.
pub const WORKERS: usize = 2;

/// Returns the runtime that all tests of one executable share, so that connections opened by one
/// test stay open for the next.
///
/// # Errors
/// Fails if the system cannot create threads.
pub fn runtime() -> Result<&'static Runtime> {
    static RUNTIME: OnceLock<std::io::Result<Runtime>> = OnceLock::new();
    let made = RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
    });
    made.as_ref()
        .map_err(|error| anyhow::anyhow!("cannot start the tokio runtime: {error}"))
}

/// Runs the body of a test on the shared runtime.
///
/// # Errors
/// Returns the errors of the body.
pub fn run(body: impl Future<Output = Result<()>>) -> Result<()> {
    runtime()?.block_on(body)
}

/// Returns the folder of a test under target/e2e.
pub fn folder(name: &str) -> PathBuf {
    paths::target().join("e2e").join(name)
}

/// A running Envoy with its upstream and kept connections.
#[derive(Debug)]
pub struct Proxy {
    envoy: Envoy,
    echo: Echo,
    listeners: BTreeMap<String, (SocketAddr, Mutex<Vec<Connection>>)>,
}

impl Proxy {
    /// Builds the module and starts Envoy with one listener per plugin configuration and these
    /// clusters besides `echo`.
    ///
    /// # Errors
    /// Fails if the module does not build or Envoy does not come up.
    pub async fn start(
        name: &str,
        plugins: &[(&str, Value)],
        clusters: &[(&str, SocketAddr)],
    ) -> Result<Self> {
        let listeners = plugins
            .iter()
            .map(|(name, plugin)| listener(name, &[meshseal(plugin)], "echo"));
        let bootstrap = listeners.fold(Bootstrap::new(), Bootstrap::listener);
        let bootstrap = clusters.iter().fold(bootstrap, |bootstrap, (name, to)| {
            bootstrap.cluster(name, *to)
        });
        let names: Vec<&str> = plugins.iter().map(|(name, _)| *name).collect();
        Self::start_with(name, bootstrap, &names).await
    }

    /// Starts Envoy with the test's own bootstrap, to which the cluster `echo` is added. Keeps
    /// connections to the named listeners.
    ///
    /// # Errors
    /// Returns the errors of [`Proxy::start`].
    pub async fn start_with(name: &str, bootstrap: Bootstrap, listeners: &[&str]) -> Result<Self> {
        Self::start_with_env(name, bootstrap, listeners, Vec::new()).await
    }

    /// Starts Envoy like [`Proxy::start_with`], with additional environment variables.
    ///
    /// # Errors
    /// Returns the errors of [`Proxy::start`].
    pub async fn start_with_env(
        name: &str,
        bootstrap: Bootstrap,
        listeners: &[&str],
        env: Vec<(OsString, OsString)>,
    ) -> Result<Self> {
        build::wasm()?;
        let echo = Echo::start(0).await?;
        let dir = folder(name);
        let config = dir.join("bootstrap.json");
        bootstrap.cluster("echo", echo.address()).write(&config)?;
        let options = Options {
            config,
            workers: u32::try_from(WORKERS)?,
            node: name.to_owned(),
            dir,
        };
        let envoy = Envoy::start_with_env(&options, env).await?;
        let mut proxy = Self {
            envoy,
            echo,
            listeners: BTreeMap::new(),
        };
        for name in listeners {
            let address = proxy.envoy.listener(name).await?;
            proxy
                .listeners
                .insert((*name).to_owned(), (address, Mutex::default()));
        }
        Ok(proxy)
    }

    /// Envoy itself.
    pub fn envoy(&self) -> &Envoy {
        &self.envoy
    }

    /// The upstream.
    pub fn echo(&self) -> &Echo {
        &self.echo
    }

    /// The address of a listener.
    ///
    /// # Errors
    /// Fails if this proxy keeps no listener of that name.
    pub fn address(&self, listener: &str) -> Result<SocketAddr> {
        Ok(self.entry(listener)?.0)
    }

    fn entry(&self, listener: &str) -> Result<&(SocketAddr, Mutex<Vec<Connection>>)> {
        self.listeners
            .get(listener)
            .with_context(|| format!("no listener {listener}"))
    }

    /// Sends a request to each worker. `make(worker)` returns the request for a worker.
    ///
    /// # Errors
    /// Fails if Envoy does not answer, or if a worker gets no connection.
    pub async fn ask_each_worker(
        &self,
        listener: &str,
        make: impl Fn(usize) -> Request,
    ) -> Result<Vec<Response>> {
        let (address, kept) = self.entry(listener)?;
        // The lock also keeps other tests from connecting while workers are identified.
        let mut connections = kept.lock().await;
        if connections.is_empty() || connections.iter().any(Connection::is_closed) {
            *connections = connect_each(&self.envoy, listener, *address, WORKERS).await?;
        }
        let mut responses = Vec::with_capacity(WORKERS);
        for (worker, connection) in connections.iter_mut().enumerate() {
            responses.push(connection.send(&make(worker)).await?);
        }
        Ok(responses)
    }
}
