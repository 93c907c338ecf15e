//! The complete local stack: the issuer, an echo service, and Envoy with the two hops of
//! envoy-config/two-hops.yaml.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::bootstrap::write_whole;
use crate::echo::Echo;
use crate::envoy::{Envoy, Options};
use crate::issuer::Issuer;
use crate::{build, paths, ports};

/// Number of Envoy's worker threads.
pub const WORKERS: usize = 2;
/// Number of trust stores that poll: one per thread and hop. Envoy also runs a filter on its main
/// thread, which serves no requests.
pub const POLLERS: usize = (WORKERS + 1) * 2;

/// Placeholder credential in two-hops.yaml, which no issuer accepts.
const POLL_TOKEN: &str = "mss_replace-me";

/// Ports: purpose, number in two-hops.yaml, and the environment variable that changes it.
pub const PORTS: [(&str, u16, &str); 5] = [
    ("edge", 10_000, "MESHSEAL_EDGE_PORT"),
    ("sidecar", 10_001, "MESHSEAL_SIDECAR_PORT"),
    ("Envoy admin", 9_901, "MESHSEAL_ADMIN_PORT"),
    ("issuer", 8_080, "MESHSEAL_ISSUER_PORT"),
    ("service", 8_090, "MESHSEAL_SERVICE_PORT"),
];

/// The ports in use, in the order of [`PORTS`].
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// The first hop.
    pub edge: u16,
    /// The second hop.
    pub sidecar: u16,
    /// Envoy's admin interface.
    pub admin: u16,
    /// The issuer.
    pub issuer: u16,
    /// The echo service.
    pub service: u16,
}

impl Ports {
    /// Returns free ports.
    ///
    /// # Errors
    /// Fails if the system has no free port.
    pub fn free() -> Result<Self> {
        Ok(Self {
            edge: ports::free()?,
            sidecar: ports::free()?,
            admin: ports::free()?,
            issuer: ports::free()?,
            service: ports::free()?,
        })
    }

    /// Returns the ports of two-hops.yaml, changed by the environment.
    ///
    /// # Errors
    /// Fails if a variable is not a port number or a port is taken. The message lists all such
    /// ports with the remedy.
    pub fn from_environment() -> Result<Self> {
        Self::chosen(|variable| std::env::var(variable).ok())
    }

    fn chosen(given: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let mut complaints = Vec::new();
        let [edge, sidecar, admin, issuer, service] = PORTS.map(|(what, usual, variable)| {
            let text = given(variable);
            let port = text
                .as_deref()
                .map_or(Ok(usual), str::parse)
                .unwrap_or_else(|_| {
                    complaints.push(format!("{variable}: not a port number; use 1 to 65535"));
                    usual
                });
            if ports::is_busy(port) {
                complaints.push(format!(
                    "port {port} ({what}) is taken; stop the process that listens on it, \
                     or choose another port: {variable}=…"
                ));
            }
            port
        });
        ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
        Ok(Self {
            edge,
            sidecar,
            admin,
            issuer,
            service,
        })
    }

    /// Maps the port numbers of two-hops.yaml to the ports in use.
    fn usual_to_used(self) -> HashMap<u16, u16> {
        let used = [
            self.edge,
            self.sidecar,
            self.admin,
            self.issuer,
            self.service,
        ];
        PORTS
            .iter()
            .zip(used)
            .map(|((_, usual, _), used)| (*usual, used))
            .collect()
    }
}

/// The running parts.
#[derive(Debug)]
pub struct Stack {
    /// The issuer.
    pub issuer: Issuer,
    /// The echo service.
    pub echo: Echo,
    /// Both hops.
    pub envoy: Envoy,
    /// The ports in use.
    pub ports: Ports,
}

impl Stack {
    /// Builds and starts all parts in an emptied folder and reports each step with `say`. Returns
    /// when every worker has the first bundle.
    ///
    /// # Errors
    /// Fails if a part does not build or start; the message contains the part's own error.
    pub async fn start(
        dir: &Path,
        ports: Ports,
        lifetime_s: u64,
        say: impl Fn(&str),
    ) -> Result<Self> {
        say("building the filter (target/meshseal.wasm)");
        build::wasm()?;
        say("building the issuer (meshseal)");
        build::issuer()?;
        say("looking for Envoy");
        build::envoy()?;
        say(&format!(
            "starting the issuer on embedded SQLite, port {}",
            ports.issuer
        ));
        let mut issuer = Issuer::prepare(dir, ports.issuer, lifetime_s)?;
        let pins = issuer.pins()?;
        issuer.start().await?;
        say(&format!(
            "starting the echo service, port {}",
            ports.service
        ));
        let echo = Echo::start(ports.service).await?;
        say(&format!(
            "starting Envoy with two hops, ports {} and {}",
            ports.edge, ports.sidecar
        ));
        let config = write_config(dir, ports, &pins, issuer.poll_token())?;
        let options = Options {
            config,
            workers: u32::try_from(WORKERS)?,
            node: "local".to_owned(),
            dir: dir.to_path_buf(),
        };
        let envoy = Envoy::start(&options).await?;
        say("waiting until every worker has confirmed the issuer's keys");
        issuer
            .wait_for_proxies(POLLERS, Duration::from_secs(30))
            .await?;
        Ok(Self {
            issuer,
            echo,
            envoy,
            ports,
        })
    }

    /// Stops all parts gracefully.
    pub async fn stop(&mut self) {
        self.envoy.stop().await;
        self.issuer.stop().await;
    }
}

/// Writes two-hops.yaml with these ports, pins and credential into `dir` and returns its path.
fn write_config(dir: &Path, ports: Ports, pins: &Value, poll_token: &str) -> Result<PathBuf> {
    let shipped = paths::envoy_config().join("two-hops.yaml");
    let text = fs::read_to_string(&shipped)
        .with_context(|| format!("cannot read {}", shipped.display()))?;
    let text = with_pins(&with_ports(&text, &ports.usual_to_used()), pins);
    ensure!(
        text.contains(&pins.to_string()),
        "{} has no pin to replace: a line with \"keys\" and the kid \"example\"",
        shipped.display()
    );
    ensure!(
        text.contains(POLL_TOKEN),
        "{} has no pollToken {POLL_TOKEN} to replace",
        shipped.display()
    );
    let text = text.replace(POLL_TOKEN, poll_token);
    let text = text.replace("target/meshseal.wasm", &paths::wasm().display().to_string());
    let file = dir.join("envoy.yaml");
    write_whole(&file, &text)?;
    Ok(file)
}

/// Replaces port numbers, but only where they are whole words.
fn with_ports(text: &str, ports: &HashMap<u16, u16>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(|letter: char| letter.is_ascii_alphanumeric()) {
        let (before, from) = rest.split_at(start);
        let (word, after) = from.split_at(
            from.find(|letter: char| !letter.is_ascii_alphanumeric())
                .unwrap_or(from.len()),
        );
        out.push_str(before);
        match word.parse().ok().and_then(|port: u16| ports.get(&port)) {
            Some(port) => out.push_str(&port.to_string()),
            None => out.push_str(word),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Replaces each list of keys that contains the example pin.
fn with_pins(text: &str, pins: &Value) -> String {
    let mut out = String::new();
    for line in text.lines() {
        match line.split_once("\"keys\": [") {
            Some((before, rest)) if rest.contains("\"kid\": \"example\"") => {
                out += &format!("{before}\"keys\": {pins}\n");
            }
            _ => out += &format!("{line}\n"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_only_whole_numbers_as_ports() {
        let ports = HashMap::from([(80, 1_080), (1_080, 7)]);
        assert_eq!(
            with_ports("a:80 800 x80 1080/80", &ports),
            "a:1080 800 x80 7/1080"
        );
    }

    #[test]
    fn generated_pins_replace_example_pins() {
        let text = "a\n  \"keys\": [{\"kid\": \"example\"}]\n  \"keys\": [b]\n";
        assert_eq!(
            with_pins(text, &serde_json::json!([{"x": 2}])),
            "a\n  \"keys\": [{\"x\":2}]\n  \"keys\": [b]\n"
        );
    }

    #[test]
    fn names_each_unusable_port_and_its_remedy() -> Result<()> {
        let taken = std::net::TcpListener::bind(ports::loopback(0))?;
        let port = taken.local_addr()?.port();
        let Ports {
            edge,
            sidecar,
            admin,
            ..
        } = Ports::free()?;
        let chosen = |issuer: &str, service: &str| {
            Ports::chosen(|variable| match variable {
                "MESHSEAL_EDGE_PORT" => Some(edge.to_string()),
                "MESHSEAL_SIDECAR_PORT" => Some(sidecar.to_string()),
                "MESHSEAL_ADMIN_PORT" => Some(admin.to_string()),
                "MESHSEAL_ISSUER_PORT" => Some(issuer.to_owned()),
                _ => Some(service.to_owned()),
            })
        };
        let Err(refused) = chosen(&port.to_string(), "http") else {
            anyhow::bail!("taken")
        };
        let text = refused.to_string();
        let issuer = format!("port {port} (issuer) is taken");
        for part in [
            issuer.as_str(),
            "MESHSEAL_ISSUER_PORT=",
            "MESHSEAL_SERVICE_PORT: not a port number",
        ] {
            ensure!(text.contains(part), "{part} in {text}");
        }
        drop(taken);
        let ports = chosen(&port.to_string(), &ports::free()?.to_string())?;
        ensure!((ports.edge, ports.issuer) == (edge, port), "{ports:?}");
        Ok(())
    }
}
