//! The real issuer as a child process, and a client for its endpoints.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::child::{Child, Program};
use crate::http::{Request, Response, send};
use crate::mint::{b64, sha256, unb64};
use crate::wait::until;
use crate::{build, paths, ports};

const START: Duration = Duration::from_secs(30);

/// Client that may get tokens for `orders` and `billing`.
pub const CLIENT: &str = "shop";
/// Client with administrator rights.
pub const OPERATOR: &str = "operator";

/// An issuer with its own folder, SQLite database and secrets.
#[derive(Debug)]
pub struct Issuer {
    dir: PathBuf,
    port: u16,
    admin_port: u16,
    secret: String,
    operator_secret: String,
    poll_token: String,
    child: Option<Child>,
}

impl Issuer {
    /// Empties the folder and writes a configuration in which tokens live `lifetime_s` seconds.
    /// Does not start the issuer.
    ///
    /// # Errors
    /// Fails if the folder cannot be written.
    pub fn prepare(dir: &Path, port: u16, lifetime_s: u64) -> Result<Self> {
        if dir.exists() {
            fs::remove_dir_all(dir).with_context(|| format!("cannot empty {}", dir.display()))?;
        }
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let (admin_port, poll_token) = (ports::free()?, self::secret()?);
        let (secret, operator_secret) = (self::secret()?, self::secret()?);
        let dir = dir.to_path_buf();
        let issuer = Self {
            dir,
            port,
            admin_port,
            secret,
            operator_secret,
            poll_token,
            child: None,
        };
        fs::write(issuer.config(), issuer.yaml(lifetime_s))?;
        Ok(issuer)
    }

    fn yaml(&self, lifetime_s: u64) -> String {
        format!(
            "issuer: {url}\n\
             listen: 127.0.0.1:{port}\n\
             admin: {{ listen: \"127.0.0.1:{admin}\" }}\n\
             database: sqlite:meshseal.db\n\
             keys: {{ jwksMaxAge: 0s }}\n\
             tokens: {{ lifetime: {lifetime_s}s }}\n\
             bundle: {{ pollTokens: [ \"sha256:{poll}\" ] }}\n\
             services:\n\
             - {{ audience: orders, scopes: [orders.read, orders.write] }}\n\
             - {{ audience: billing, scopes: [billing.read] }}\n\
             clients:\n\
             - clientId: {CLIENT}\n\
             \x20 auth: {{ secrets: [ {{ hash: \"sha256:{client}\" }} ] }}\n\
             \x20 audiences: [orders, billing]\n\
             \x20 scopes: [orders.read, billing.read]\n\
             - clientId: {OPERATOR}\n\
             \x20 auth: {{ secrets: [ {{ hash: \"sha256:{operator}\" }} ] }}\n\
             \x20 admin: true\n",
            url = self.url(),
            port = self.port,
            admin = self.admin_port,
            poll = sha256(self.poll_token.as_bytes()),
            client = sha256(self.secret.as_bytes()),
            operator = sha256(self.operator_secret.as_bytes()),
        )
    }

    /// The path of the configuration file.
    pub fn config(&self) -> PathBuf {
        self.dir.join("issuer.yaml")
    }

    /// The issuer identifier, which is also its address.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The secret of [`CLIENT`].
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// The credential that proxies need to poll.
    pub fn poll_token(&self) -> &str {
        &self.poll_token
    }

    /// Returns the public keys that sign bundles, as printed by `meshseal keys pins`. The first
    /// call creates the keys.
    ///
    /// # Errors
    /// Fails if the command fails; the message contains its output.
    pub fn pins(&self) -> Result<Value> {
        let output = Command::new(build::issuer()?)
            .args(["keys", "pins", "--init", "--config"])
            .arg(self.config())
            .current_dir(&self.dir)
            .output()
            .context("cannot run meshseal")?;
        ensure!(
            output.status.success(),
            "meshseal keys pins failed:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let printed: Value =
            serde_json::from_slice(&output.stdout).context("meshseal keys pins printed no JSON")?;
        printed
            .get("keys")
            .cloned()
            .context("meshseal keys pins printed no `keys`")
    }

    /// Starts the issuer and waits until it is ready.
    ///
    /// # Errors
    /// Fails if the issuer ends or does not get ready; the message contains the end of its log.
    pub async fn start(&mut self) -> Result<()> {
        let mut child = Child::start(&Program {
            name: "issuer".to_owned(),
            path: build::issuer()?,
            args: vec!["serve".into(), "--config".into(), self.config().into()],
            env: Vec::new(),
            dir: self.dir.clone(),
            log: self.dir.join("issuer.log"),
        })?;
        let alive = std::cell::RefCell::new(&mut child);
        let ready = until("the issuer to be ready", START, || async {
            if let Err(ended) = alive.borrow_mut().check_alive() {
                return Some(Err(ended));
            }
            let response = self.send(Request::get("/readyz")).await.ok()?;
            (response.status == 200).then_some(Ok(()))
        })
        .await;
        match ready {
            Ok(Ok(())) => {}
            Ok(Err(ended)) => return Err(ended),
            Err(timeout) => bail!("{timeout:#}; the end of its log:\n{}", child.log_tail()),
        }
        self.child = Some(child);
        Ok(())
    }

    /// Kills the issuer, as a crash would.
    pub fn kill(&mut self) {
        self.child = None;
    }

    /// Stops the issuer gracefully.
    pub async fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.stop().await;
        }
    }

    /// Checks that the issuer still runs.
    ///
    /// # Errors
    /// Fails if the issuer has ended; the message contains the end of its log.
    pub fn check_alive(&mut self) -> Result<()> {
        self.child.as_mut().map_or(Ok(()), Child::check_alive)
    }

    /// Sends a request to the issuer.
    ///
    /// # Errors
    /// Fails if the issuer does not answer.
    pub async fn send(&self, request: Request) -> Result<Response> {
        send(ports::loopback(self.port), &request).await
    }

    /// Gets a token with the client credentials grant.
    ///
    /// # Errors
    /// Fails if the issuer rejects the request.
    pub async fn token(&self, audience: &str) -> Result<String> {
        let form = format!("grant_type=client_credentials&audience={audience}");
        let request =
            Request::form("/token", &form).header("authorization", &basic(CLIENT, &self.secret));
        let body = ok(self.send(request).await?)?;
        body.get("access_token")
            .and_then(Value::as_str)
            .map(str::to_owned)
            .context("no access_token")
    }

    /// Sends a request as [`OPERATOR`].
    async fn operate(&self, port: u16, request: Request) -> Result<Value> {
        let request = request.header("authorization", &basic(OPERATOR, &self.operator_secret));
        ok(send(ports::loopback(port), &request).await?)
    }

    /// Starts a rotation. The new key signs once every live proxy has it.
    ///
    /// # Errors
    /// Fails if the issuer rejects the request.
    pub async fn rotate(&self) -> Result<()> {
        self.operate(self.admin_port, Request::form("/admin/keys/rotate", ""))
            .await
            .map(drop)
    }

    /// Returns the `kid` of the key that signs tokens now.
    ///
    /// # Errors
    /// Fails if no key is active.
    pub async fn signing_kid(&self) -> Result<String> {
        let view = self
            .operate(self.admin_port, Request::get("/admin/keys"))
            .await?;
        let keys = view
            .get("keys")
            .and_then(Value::as_array)
            .context("no keys")?;
        let signing = keys.iter().find(|key| {
            let text = |name: &str| key.get(name).and_then(Value::as_str);
            text("purpose") == Some("token") && text("state") == Some("active")
        });
        signing
            .and_then(|key| key.get("kid"))
            .and_then(Value::as_str)
            .map(str::to_owned)
            .context("no active key")
    }

    /// Rotates, waits until the new key signs and returns its `kid`.
    ///
    /// # Errors
    /// Fails if the new key does not sign within `limit`.
    pub async fn rotate_and_wait(&self, limit: Duration) -> Result<String> {
        let old = self.signing_kid().await?;
        self.rotate().await?;
        until("the new key to sign", limit, || async {
            self.signing_kid().await.ok().filter(|kid| *kid != old)
        })
        .await
    }

    /// Revokes a signing key at once. The issuer replaces it with another key.
    ///
    /// # Errors
    /// Fails if the issuer rejects the request.
    pub async fn revoke_key(&self, kid: &str) -> Result<()> {
        self.operate(
            self.admin_port,
            Request::form("/admin/keys/revoke", &format!("kid={kid}")),
        )
        .await
        .map(drop)
    }

    /// Returns the number of live workers of proxies, and the number with the current version.
    ///
    /// # Errors
    /// Fails if the issuer does not list its proxies.
    pub async fn proxies(&self) -> Result<(usize, usize)> {
        let view = self
            .operate(self.admin_port, Request::get("/admin/proxies"))
            .await?;
        let proxies = view
            .get("proxies")
            .and_then(Value::as_array)
            .context("no proxies")?;
        let current = proxies
            .iter()
            .filter(|proxy| proxy.get("current") == Some(&Value::Bool(true)))
            .count();
        Ok((proxies.len(), current))
    }

    /// Waits until at least `count` workers are live and all have the current version.
    ///
    /// # Errors
    /// Fails if this takes longer than `limit`.
    pub async fn wait_for_proxies(&self, count: usize, limit: Duration) -> Result<()> {
        until(
            &format!("{count} workers to confirm the bundle"),
            limit,
            || async {
                self.proxies()
                    .await
                    .ok()
                    .filter(|(live, current)| *live >= count && live == current)
                    .map(drop)
            },
        )
        .await
    }

    /// Revokes, waits up to ten seconds for the proxies and returns the receipt.
    ///
    /// # Errors
    /// Fails if the issuer rejects the request.
    pub async fn revoke(&self, what: &str) -> Result<Value> {
        self.revoke_within(what, 10).await
    }

    /// Revokes, waits up to `wait_s` seconds for the proxies and returns the receipt.
    ///
    /// # Errors
    /// Fails if the issuer rejects the request.
    pub async fn revoke_within(&self, what: &str, wait_s: u32) -> Result<Value> {
        self.operate(
            self.port,
            Request::form("/revoke", &format!("{what}&wait={wait_s}")),
        )
        .await
    }

    /// Declares the workers of a node gone.
    ///
    /// # Errors
    /// Fails if the issuer rejects the request.
    pub async fn forget_proxy(&self, node: &str) -> Result<()> {
        self.operate(
            self.admin_port,
            Request::form("/admin/proxies/forget", &format!("name={node}")),
        )
        .await
        .map(drop)
    }

    /// Gets the published key set.
    ///
    /// # Errors
    /// Fails if the issuer does not answer.
    pub async fn jwks(&self) -> Result<Value> {
        ok(self.send(Request::get("/jwks")).await?)
    }
}

/// Returns an `Authorization: Basic` value (RFC 6749 §2.3.1). These ids and secrets need no
/// encoding.
fn basic(id: &str, secret: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")))
}

/// Returns the JSON body of a successful response.
fn ok(response: Response) -> Result<Value> {
    ensure!(
        (200..300).contains(&response.status),
        "the issuer answered {}: {}",
        response.status,
        response.text()
    );
    Ok(response.json())
}

fn secret() -> Result<String> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes)?;
    Ok(b64(bytes))
}

/// Returns the `kid` in a token's header.
///
/// # Errors
/// Fails if the text is not a token.
pub fn kid_of(token: &str) -> Result<String> {
    let header: Value =
        serde_json::from_slice(&unb64(token.split('.').next().unwrap_or_default())?)?;
    header
        .get("kid")
        .and_then(Value::as_str)
        .map(str::to_owned)
        .context("no kid")
}

/// Returns a folder for the state of the runner or a test.
pub fn state_folder(name: &str) -> PathBuf {
    paths::target().join("run").join(name)
}
