//! The real Envoy as a child process.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::child::{Child, Program};
use crate::http::{Request, Response, send};
use crate::wait::until;
use crate::{build, paths};

/// Maximum time that Envoy may take to compile the module in every worker and listen.
const START: Duration = Duration::from_secs(60);

/// Options for starting Envoy.
#[derive(Clone, Debug)]
pub struct Options {
    /// The bootstrap file.
    pub config: PathBuf,
    /// Number of worker threads.
    pub workers: u32,
    /// The node id, which the issuer shows among the proxies.
    pub node: String,
    /// The folder for the log and the file with the admin address.
    pub dir: PathBuf,
}

/// A running Envoy. It is killed when dropped.
#[derive(Debug)]
pub struct Envoy {
    child: Child,
    admin: SocketAddr,
    log: PathBuf,
}

impl Envoy {
    /// Starts Envoy from the repository's root (the shipped bootstraps name the module relative to
    /// it) and waits until it is live.
    ///
    /// # Errors
    /// Fails if Envoy ends, or is not live after a minute; the message contains the end of its log.
    pub async fn start(options: &Options) -> Result<Self> {
        Self::start_with_env(options, Vec::new()).await
    }

    /// Starts Envoy like [`Envoy::start`], with additional environment variables.
    ///
    /// # Errors
    /// Returns the errors of [`Envoy::start`].
    pub async fn start_with_env(options: &Options, env: Vec<(OsString, OsString)>) -> Result<Self> {
        let address_file = options.dir.join("envoy.admin");
        drop(fs::remove_file(&address_file));
        let log = options.dir.join("envoy.log");
        let mut args: Vec<OsString> = vec!["--disable-hot-restart".into()];
        // Replaced listeners end after a second instead of Envoy's default of ten minutes.
        args.extend(["--drain-time-s".into(), "1".into()]);
        args.extend(["--log-level".into(), "warn".into()]);
        args.extend(["--component-log-level".into(), "wasm:info".into()]);
        args.extend([
            "-c".into(),
            options.config.clone().into(),
            "--admin-address-path".into(),
            address_file.clone().into(),
        ]);
        args.extend(["--concurrency".into(), options.workers.to_string().into()]);
        args.extend([
            "--service-node".into(),
            options.node.clone().into(),
            "--service-cluster".into(),
            "meshseal".into(),
        ]);
        let mut child = Child::start(&Program {
            name: "envoy".to_owned(),
            path: build::envoy()?,
            args,
            env,
            dir: paths::root(),
            log: log.clone(),
        })?;
        let admin = wait_live(&mut child, &address_file).await?;
        Ok(Self { child, admin, log })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Checks that Envoy still runs.
    ///
    /// # Errors
    /// Fails if Envoy has ended; the message contains the end of its log.
    pub fn check_alive(&mut self) -> Result<()> {
        self.child.check_alive()
    }

    /// Stops Envoy gracefully.
    pub async fn stop(&mut self) {
        self.child.stop().await;
    }

    /// The address of the admin interface.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Returns the whole log.
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Sends a GET request to the admin interface.
    ///
    /// # Errors
    /// Fails if the admin interface does not answer.
    pub async fn admin_get(&self, path: &str) -> Result<Response> {
        send(self.admin, &Request::get(path)).await
    }

    /// Returns the counters and gauges whose names match `filter`, a regular expression.
    ///
    /// # Errors
    /// Fails if the admin interface does not answer.
    pub async fn stats(&self, filter: &str) -> Result<BTreeMap<String, u64>> {
        let response = self.admin_get(&format!("/stats?filter={filter}")).await?;
        let text = response.text();
        let pairs = text.lines().filter_map(|line| line.split_once(": "));
        Ok(pairs
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect())
    }

    /// Returns a counter or gauge; 0 if it does not exist yet.
    ///
    /// # Errors
    /// Fails if the admin interface does not answer.
    pub async fn stat(&self, name: &str) -> Result<u64> {
        Ok(self
            .stats(&format!("^{}$", name.replace('.', "\\.")))
            .await?
            .get(name)
            .copied()
            .unwrap_or(0))
    }

    /// Returns the address that a listener has bound, because its configuration may say port 0.
    ///
    /// # Errors
    /// Fails if Envoy has no listener of that name.
    pub async fn listener(&self, name: &str) -> Result<SocketAddr> {
        let listeners = self.admin_get("/listeners?format=json").await?.json();
        listener_address(&listeners, name)
            .with_context(|| format!("Envoy has no listener {name}: {listeners}"))
    }

    /// Returns the number of connections that each worker of a listener has accepted, by the name
    /// of the worker's counter. Statistics name a listener by its `stat_prefix`, or else by the
    /// address in its configuration, such as `127.0.0.1_10000`.
    ///
    /// # Errors
    /// Fails if the admin interface does not answer.
    pub async fn connections(&self, listener: &str) -> Result<BTreeMap<String, u64>> {
        self.stats(&format!(
            "^listener\\.{listener}\\.worker_.*downstream_cx_total$"
        ))
        .await
    }
}

fn listener_address(listeners: &Value, name: &str) -> Option<SocketAddr> {
    let all = listeners.get("listener_statuses")?.as_array()?;
    let one = all
        .iter()
        .find(|status| status.get("name").and_then(Value::as_str) == Some(name))?;
    let socket = one.pointer("/local_address/socket_address")?;
    let port = u16::try_from(socket.get("port_value")?.as_u64()?).ok()?;
    format!("{}:{port}", socket.get("address")?.as_str()?)
        .parse()
        .ok()
}

async fn wait_live(child: &mut Child, address_file: &Path) -> Result<SocketAddr> {
    let child = std::cell::RefCell::new(child);
    let live = until("Envoy to be live", START, || async {
        if let Err(ended) = child.borrow_mut().check_alive() {
            return Some(Err(ended));
        }
        let admin = fs::read_to_string(address_file)
            .ok()?
            .trim()
            .parse::<SocketAddr>()
            .ok()?;
        let ready = send(admin, &Request::get("/ready")).await.ok()?;
        (ready.status == 200).then_some(Ok(admin))
    })
    .await;
    match live {
        Ok(result) => result,
        Err(timeout) => bail!(
            "{timeout:#}; the end of its log:\n{}",
            child.borrow().log_tail()
        ),
    }
}

/// Validates a bootstrap with Envoy, without starting a server.
///
/// # Errors
/// Fails if Envoy rejects the bootstrap; the message contains Envoy's output.
pub fn validate(config: &Path) -> Result<()> {
    let output = Command::new(build::envoy()?)
        .args(["--mode", "validate", "--log-level", "warn", "-c"])
        .arg(config)
        .current_dir(paths::root())
        .output()
        .context("cannot run Envoy")?;
    if !output.status.success() {
        bail!(
            "Envoy rejects {}:\n{}",
            config.display(),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}
