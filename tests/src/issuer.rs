//! The real issuer as a child process, with a client for what the runner and the tests ask of it.

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

/// A client that may have tokens for `orders` and `billing`.
pub const CLIENT: &str = "shop";
/// A client that may do everything an administrator does.
pub const OPERATOR: &str = "operator";

/// An issuer with its own folder, SQLite file and secrets.
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
    /// Writes a configuration into an emptied folder; tokens for `orders` live `lifetime_s`
    /// seconds. Starts nothing.
    ///
    /// # Errors
    /// When the folder cannot be written.
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
        let hash = |secret: &str| format!("sha256:{}", sha256(secret.as_bytes()));
        format!(
            "issuer: {url}\n\
             listen: 127.0.0.1:{port}\n\
             admin: {{ listen: \"127.0.0.1:{admin}\" }}\n\
             database: sqlite:meshseal.db\n\
             keys: {{ jwksMaxAge: 0s }}\n\
             tokens: {{ lifetime: {lifetime_s}s }}\n\
             bundle: {{ pollTokens: [ \"{poll}\" ] }}\n\
             services:\n\
             - {{ audience: orders, scopes: [orders.read, orders.write] }}\n\
             - {{ audience: billing, scopes: [billing.read] }}\n\
             clients:\n\
             - clientId: {CLIENT}\n\
             \x20 auth: {{ secrets: [ {{ hash: \"{client}\" }} ] }}\n\
             \x20 audiences: [orders, billing]\n\
             \x20 scopes: [orders.read, billing.read]\n\
             - clientId: {OPERATOR}\n\
             \x20 auth: {{ secrets: [ {{ hash: \"{operator}\" }} ] }}\n\
             \x20 admin: true\n",
            url = self.url(),
            port = self.port,
            admin = self.admin_port,
            poll = hash(&self.poll_token),
            client = hash(&self.secret),
            operator = hash(&self.operator_secret),
        )
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.dir.join("issuer.yaml")
    }

    /// Its identifier, which is its address too.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The secret of [`CLIENT`].
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// The credential with which proxies poll.
    pub fn poll_token(&self) -> &str {
        &self.poll_token
    }

    /// The public keys that sign bundles, as `meshseal keys pins` prints them; makes them when this
    /// is the first call.
    ///
    /// # Errors
    /// When the command fails; with what it said.
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

    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// When it ends or does not get ready; with the end of its log.
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

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.child = None;
    }

    /// Ends it in order.
    pub async fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.stop().await;
        }
    }

    /// An error when it has ended by itself.
    ///
    /// # Errors
    /// With the end of its log.
    pub fn check_alive(&mut self) -> Result<()> {
        self.child.as_mut().map_or(Ok(()), Child::check_alive)
    }

    /// A request to it.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn send(&self, request: Request) -> Result<Response> {
        send(ports::loopback(self.port), &request).await
    }

    /// A token by client credentials.
    ///
    /// # Errors
    /// When it refuses.
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

    async fn operate(&self, port: u16, request: Request) -> Result<Value> {
        let request = request.header("authorization", &basic(OPERATOR, &self.operator_secret));
        ok(send(ports::loopback(port), &request).await?)
    }

    /// Asks for a new signing key. It signs once every live proxy has it.
    ///
    /// # Errors
    /// When the issuer refuses.
    pub async fn rotate(&self) -> Result<()> {
        self.operate(self.admin_port, Request::form("/admin/keys/rotate", ""))
            .await
            .map(drop)
    }

    /// The `kid` of the key that signs tokens now.
    ///
    /// # Errors
    /// When there is none.
    pub async fn signing_kid(&self) -> Result<String> {
        let view = self
            .operate(self.admin_port, Request::get("/admin/keys"))
            .await?;
        let keys = view
            .get("keys")
            .and_then(Value::as_array)
            .context("no keys")?;
        let is = |key: &Value, name: &str, value: &str| {
            key.get(name).and_then(Value::as_str) == Some(value)
        };
        let signing = keys
            .iter()
            .find(|key| is(key, "purpose", "token") && is(key, "state", "active"));
        signing
            .and_then(|key| key.get("kid"))
            .and_then(Value::as_str)
            .map(str::to_owned)
            .context("no active key")
    }

    /// Rotates and waits until the new key signs; its `kid`.
    ///
    /// # Errors
    /// When it does not within `limit`.
    pub async fn rotate_and_wait(&self, limit: Duration) -> Result<String> {
        let old = self.signing_kid().await?;
        self.rotate().await?;
        until("the new key to sign", limit, || async {
            self.signing_kid().await.ok().filter(|kid| *kid != old)
        })
        .await
    }

    /// Revokes a signing key at once; another takes its place.
    ///
    /// # Errors
    /// When the issuer refuses.
    pub async fn revoke_key(&self, kid: &str) -> Result<()> {
        self.operate(
            self.admin_port,
            Request::form("/admin/keys/revoke", &format!("kid={kid}")),
        )
        .await
        .map(drop)
    }

    /// How many workers of proxies are live, and how many of them have the present version.
    ///
    /// # Errors
    /// When the issuer does not say.
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

    /// Waits until that many workers are live and all of them have the present version.
    ///
    /// # Errors
    /// When they have not within `limit`.
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

    /// Revokes, waits for the proxies, and returns the receipt.
    ///
    /// # Errors
    /// When the issuer refuses.
    pub async fn revoke(&self, what: &str) -> Result<Value> {
        self.revoke_within(what, 10).await
    }

    /// As [`revoke`](Self::revoke), with the seconds to wait.
    ///
    /// # Errors
    /// When the issuer refuses.
    pub async fn revoke_within(&self, what: &str, wait_s: u32) -> Result<Value> {
        self.operate(
            self.port,
            Request::form("/revoke", &format!("{what}&wait={wait_s}")),
        )
        .await
    }

    /// Declares a node's workers gone.
    ///
    /// # Errors
    /// When the issuer refuses.
    pub async fn forget_proxy(&self, node: &str) -> Result<()> {
        self.operate(
            self.admin_port,
            Request::form("/admin/proxies/forget", &format!("name={node}")),
        )
        .await
        .map(drop)
    }

    /// The public keys that it publishes.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn jwks(&self) -> Result<Value> {
        ok(self.send(Request::get("/jwks")).await?)
    }
}

/// `Authorization: Basic` (RFC 6749 §2.3.1); ids and secrets here need no encoding.
fn basic(id: &str, secret: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")))
}

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

/// The `kid` in a token's header.
///
/// # Errors
/// When it is no token.
pub fn kid_of(token: &str) -> Result<String> {
    let header: Value =
        serde_json::from_slice(&unb64(token.split('.').next().unwrap_or_default())?)?;
    header
        .get("kid")
        .and_then(Value::as_str)
        .map(str::to_owned)
        .context("no kid")
}

/// Where the runner and the end-to-end tests keep their state.
pub fn state_folder(name: &str) -> PathBuf {
    paths::target().join("run").join(name)
}
