//! The issuer as a release build, and requests of its clients.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meshseal_tests::child::{Child, Program};
use meshseal_tests::clock::unix_now;
use meshseal_tests::issuer::state_folder;
use meshseal_tests::mint::{Key, Kind, Token, b64, sha256, unb64};
use meshseal_tests::wait::until;
use meshseal_tests::{paths, ports};
use serde_json::{Value, json};

use crate::drive::{Client, Requests};

/// Client that authenticates with assertions (`private_key_jwt`).
pub(crate) const ASSERTIVE: &str = "assertive";
/// Client that authenticates with a secret and has administrator rights.
pub(crate) const SECRETIVE: &str = "secretive";

/// Credentials of the clients, the same for the issuer and its peer.
pub(crate) struct Credentials {
    key: Key,
    secret: String,
}

impl Credentials {
    pub(crate) fn new() -> Result<Self> {
        let mut secret = [0; 32];
        aws_lc_rs::rand::fill(&mut secret)?;
        Ok(Self {
            key: Key::generate(Kind::Ed25519, "assertions")?,
            secret: b64(secret),
        })
    }

    pub(crate) fn public_key(&self) -> Result<Value> {
        self.key.jwk()
    }

    pub(crate) fn secret(&self) -> &str {
        &self.secret
    }

    /// Returns a POST request with a form, from the client with the secret.
    pub(crate) fn with_secret(&self, path: &str, form: &str) -> Vec<u8> {
        let login = STANDARD.encode(format!("{SECRETIVE}:{}", self.secret));
        post(path, &format!("authorization: Basic {login}\r\n"), form)
    }

    /// Returns token requests with the given form. Each has its own assertion, because an assertion
    /// is valid only once.
    pub(crate) fn with_assertions(
        &self,
        audience: &str,
        form: &str,
        count: usize,
    ) -> Result<Requests> {
        let now = unix_now();
        let kind = "urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer";
        let mut requests = Vec::with_capacity(count);
        for _ in 0..count {
            let token = Token::new(ASSERTIVE, audience, now)
                .without("scope")
                .without("client_id");
            let token = token.claim("sub", ASSERTIVE).claim("exp", now + 240);
            let assertion = token
                .header("typ", "client-authentication+jwt")
                .sign(&self.key)?;
            let form = format!("{form}&client_assertion_type={kind}&client_assertion={assertion}");
            requests.push(post("/token", "", &form));
        }
        Ok(Arc::new(requests))
    }
}

fn post(path: &str, headers: &str, form: &str) -> Vec<u8> {
    let length = form.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: bench\r\n{headers}\
         content-type: application/x-www-form-urlencoded\r\n"
    );
    format!("{head}content-length: {length}\r\n\r\n{form}").into_bytes()
}

/// Form of a token request to the issuer.
pub(crate) const GRANT: &str = "grant_type=client_credentials&audience=orders&scope=orders.read";

/// A running issuer.
pub(crate) struct Server {
    dir: PathBuf,
    port: u16,
    admin_port: u16,
    child: Child,
    client: Client,
}

impl Server {
    /// Starts an issuer with an empty database.
    pub(crate) async fn start(name: &str, credentials: &Credentials) -> Result<Self> {
        let dir = state_folder("bench").join(name);
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        let (port, admin_port) = (ports::free()?, ports::free()?);
        fs::write(
            dir.join("issuer.yaml"),
            configuration(port, admin_port, credentials)?,
        )?;
        let (child, client) = launch(&dir, port).await?;
        Ok(Self {
            dir,
            port,
            admin_port,
            child,
            client,
        })
    }

    /// Stops the issuer, runs `between` on its database and starts it again.
    pub(crate) async fn restart(
        &mut self,
        between: impl Future<Output = Result<()>>,
    ) -> Result<()> {
        self.child.stop().await;
        between.await?;
        (self.child, self.client) = launch(&self.dir, self.port).await?;
        Ok(())
    }

    pub(crate) async fn stop(mut self) {
        self.child.stop().await;
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.pid()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        ports::loopback(self.port)
    }

    /// The address of the admin listener.
    pub(crate) fn admin_address(&self) -> SocketAddr {
        ports::loopback(self.admin_port)
    }

    /// The issuer identifier.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.dir.join("meshseal.db")
    }

    /// Returns the public keys that sign bundles.
    pub(crate) fn pins(&self) -> Result<Value> {
        let mut command = std::process::Command::new(binary());
        let command = command
            .args(["keys", "pins", "--init", "--config", "issuer.yaml"])
            .current_dir(&self.dir);
        let output = command.output().context("cannot run meshseal")?;
        ensure!(
            output.status.success(),
            "meshseal keys pins: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let printed: Value = serde_json::from_slice(&output.stdout)?;
        printed.get("keys").cloned().context("no keys")
    }

    /// Sends a request on a kept connection and returns the body of the response.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> Result<&[u8]> {
        self.client.ask(request, 200).await
    }

    /// Gets a token for the client with the secret.
    pub(crate) async fn token(&mut self, credentials: &Credentials) -> Result<String> {
        let answer: Value =
            serde_json::from_slice(self.ask(&credentials.with_secret("/token", GRANT)).await?)?;
        answer
            .get("access_token")
            .and_then(Value::as_str)
            .map(str::to_owned)
            .context("no access_token")
    }

    /// Gets the full bundle.
    pub(crate) async fn bundle(&mut self) -> Result<String> {
        let body = self
            .ask(b"GET /bundle HTTP/1.1\r\nhost: bench\r\n\r\n")
            .await?;
        Ok(String::from_utf8_lossy(body).into_owned())
    }

    /// Returns the number of waiting polls.
    pub(crate) async fn polls(&mut self) -> Result<u64> {
        let mut operator = Client::connect(self.admin_address()).await?;
        let body = operator
            .ask(b"GET /metrics HTTP/1.1\r\nhost: bench\r\n\r\n", 200)
            .await?;
        let text = String::from_utf8_lossy(body);
        let line = text
            .lines()
            .find(|line| !line.starts_with('#') && line.contains("polls_waiting"));
        let count = line
            .and_then(|line| line.rsplit_once(' '))
            .and_then(|(_, count)| count.parse().ok());
        count.context("no polls_waiting among the metrics")
    }
}

/// Returns the version of a bundle.
pub(crate) fn version_of(bundle: &str) -> Result<u64> {
    let payload = unb64(bundle.split('.').nth(1).unwrap_or_default())?;
    let payload: Value = serde_json::from_slice(&payload)?;
    payload
        .get("ver")
        .and_then(Value::as_u64)
        .context("a bundle without version")
}

fn binary() -> PathBuf {
    paths::target().join("release").join("meshseal")
}

async fn launch(dir: &Path, port: u16) -> Result<(Child, Client)> {
    let mut child = Child::start(&Program {
        name: "issuer".to_owned(),
        path: binary(),
        args: vec!["serve".into(), "--config".into(), "issuer.yaml".into()],
        env: Vec::new(),
        dir: dir.to_path_buf(),
        log: dir.join("issuer.log"),
    })?;
    let ready = until(
        "the issuer to be ready",
        Duration::from_secs(30),
        || async {
            let mut client = Client::connect(ports::loopback(port)).await.ok()?;
            client
                .ask(b"GET /readyz HTTP/1.1\r\nhost: bench\r\n\r\n", 200)
                .await
                .ok()?;
            Some(client)
        },
    );
    let ready = ready.await;
    child.check_alive()?;
    Ok((child, ready?))
}

/// Returns the configuration as JSON, which is valid YAML. Its limits are very high, because one
/// client here makes the requests of many.
fn configuration(port: u16, admin_port: u16, credentials: &Credentials) -> Result<String> {
    let url = format!("http://127.0.0.1:{port}");
    let hash = format!("sha256:{}", sha256(credentials.secret.as_bytes()));
    let keys = json!({"keys": [credentials.public_key()?]});
    let jwks = json!({"jwks": keys});
    let secrets = json!({"secrets": [{"hash": hash}]});
    let clients =
        [(ASSERTIVE, jwks, false), (SECRETIVE, secrets, true)].map(|(id, auth, admin)| {
            json!({
                "clientId": id, "auth": auth, "admin": admin,
                "audiences": ["orders"], "scopes": ["orders.read"],
            })
        });
    let configuration = json!({
        "issuer": url,
        "listen": format!("127.0.0.1:{port}"),
        "admin": {"listen": format!("127.0.0.1:{admin_port}")},
        "database": "sqlite:meshseal.db",
        "limits": {"requestsPerSecond": 10_000_000, "connections": 50_000},
        "services": [{"audience": "orders", "scopes": ["orders.read"]}],
        "clients": clients,
    });
    Ok(configuration.to_string())
}
