//! Everything at once: the issuer, an echo service, and Envoy with the two hops of
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

/// Envoy's worker threads.
pub const WORKERS: usize = 2;
/// Envoy runs a filter on its main thread too, where it serves nothing. Every thread has a trust
/// store for each hop, and each polls for itself.
pub const POLLERS: usize = (WORKERS + 1) * 2;

/// The credential in two-hops.yaml, which no issuer takes.
const POLL_TOKEN: &str = "mss_replace-me";

/// A port: what it is for, what two-hops.yaml says, and the environment variable that changes it.
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
    /// Free ones.
    ///
    /// # Errors
    /// When the system has none.
    pub fn free() -> Result<Self> {
        let port = || ports::free();
        Ok(Self {
            edge: port()?,
            sidecar: port()?,
            admin: port()?,
            issuer: port()?,
            service: port()?,
        })
    }

    /// Those of two-hops.yaml, unless the environment says otherwise.
    ///
    /// # Errors
    /// When a variable is no port, or a port is taken: all such ports at once, each with the
    /// remedy.
    pub fn from_environment() -> Result<Self> {
        Self::chosen(|variable| std::env::var(variable).ok())
    }

    fn chosen(given: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let mut complaints = Vec::new();
        let [edge, sidecar, admin, issuer, service] = PORTS.map(|(what, usual, variable)| {
            let text = given(variable);
            let port = text.as_deref().map_or(Ok(usual), str::parse).unwrap_or_else(|_| {
                complaints.push(format!("{variable} is no port number; use 1 to 65535"));
                usual
            });
            if ports::is_busy(port) {
                complaints.push(format!(
                    "port {port} ({what}) is taken; stop what listens there, or choose another: {variable}=…"
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
    /// Where everything listens.
    pub ports: Ports,
}

impl Stack {
    /// Builds and starts all of it in an emptied folder, saying each step; returns when every
    /// worker has the first bundle.
    ///
    /// # Errors
    /// When a part does not build or come up; with its own words.
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

    /// Ends everything in order.
    pub async fn stop(&mut self) {
        self.envoy.stop().await;
        self.issuer.stop().await;
    }
}

/// two-hops.yaml with these ports, pins and credential, beside the rest of the state.
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

/// Replaces whole numbers.
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

/// Replaces each list of keys that holds the example's pin.
fn with_pins(text: &str, pins: &Value) -> String {
    let line = |line: &str| match line.split_once("\"keys\": [") {
        Some((before, rest)) if rest.contains("\"kid\": \"example\"") => {
            format!("{before}\"keys\": {pins}\n")
        }
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_numbers_are_ports() {
        let ports = HashMap::from([(80, 1_080), (1_080, 7)]);
        assert_eq!(
            with_ports("a:80 800 x80 1080/80", &ports),
            "a:1080 800 x80 7/1080"
        );
    }

    #[test]
    fn pins_replace_the_example() {
        let text = "a\n  \"keys\": [{\"kid\": \"example\"}]\n  \"keys\": [b]\n";
        assert_eq!(
            with_pins(text, &serde_json::json!([{"x": 2}])),
            "a\n  \"keys\": [{\"x\":2}]\n  \"keys\": [b]\n"
        );
    }

    #[test]
    fn every_port_that_cannot_be_used_is_named_with_the_remedy() -> Result<()> {
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
            "MESHSEAL_SERVICE_PORT is no port number",
        ] {
            ensure!(text.contains(part), "{part} in {text}");
        }
        drop(taken);
        let ports = chosen(&port.to_string(), &ports::free()?.to_string())?;
        ensure!((ports.edge, ports.issuer) == (edge, port), "{ports:?}");
        Ok(())
    }
}
