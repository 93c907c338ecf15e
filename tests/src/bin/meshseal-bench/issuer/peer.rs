//! The peer: `oidc-provider` with the version of Node that it requires. The script
//! `tests/scripts/oidc-provider.sh` installs both.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use meshseal_tests::child::{Child, Program};
use meshseal_tests::issuer::state_folder;
use meshseal_tests::wait::until;
use meshseal_tests::{paths, ports};
use serde_json::json;

use super::server::Credentials;
use crate::report::said;

/// Form of a token request to the peer.
pub(crate) const GRANT: &str =
    "grant_type=client_credentials&resource=urn%3Aorders&scope=orders.read";

/// A running peer.
pub(crate) struct Peer {
    port: u16,
    child: Child,
    /// Name and versions, for the report.
    pub(crate) version: String,
}

impl Peer {
    /// Starts the peer. Returns `None` if it is not installed.
    pub(crate) async fn start(credentials: &Credentials) -> Result<Option<Self>> {
        let dir = paths::target().join("bench").join("oidc-provider");
        let node = dir.join("node");
        if !node.exists() {
            return Ok(None);
        }
        let port = ports::free()?;
        let settings = json!({
            "port": port, "keys": [credentials.public_key()?], "secret": credentials.secret(),
        });
        let child = Child::start(&Program {
            name: "oidc-provider".to_owned(),
            path: node.clone(),
            args: vec!["oidc-provider.mjs".into(), settings.to_string().into()],
            env: vec![("NODE_ENV".into(), "production".into())],
            dir: dir.clone(),
            log: state_folder("bench").join("oidc-provider.log"),
        })?;
        let mut peer = Self {
            port,
            child,
            version: String::new(),
        };
        until(
            "oidc-provider to listen",
            Duration::from_secs(30),
            || async {
                tokio::net::TcpStream::connect(peer.address())
                    .await
                    .ok()
                    .map(drop)
            },
        )
        .await?;
        peer.child.check_alive()?;
        let manifest = std::fs::read(dir.join("node_modules/oidc-provider/package.json"))?;
        let manifest: serde_json::Value = serde_json::from_slice(&manifest)?;
        let version = manifest
            .get("version")
            .and_then(serde_json::Value::as_str)
            .unwrap_or_default();
        peer.version = format!(
            "oidc-provider {version} on Node {}",
            said(&node.display().to_string(), "--version")?
        );
        Ok(Some(peer))
    }

    pub(crate) fn address(&self) -> SocketAddr {
        ports::loopback(self.port)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// The issuer identifier, which is the audience of assertions.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) async fn stop(mut self) {
        self.child.stop().await;
    }
}
