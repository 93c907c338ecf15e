//! `meshseal keys pins`.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::{Failure, Outcome, print, serve};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::issuer::Issuer;
use crate::keys::{KeyRecord, KeyState, MasterKey, Purpose};
use crate::store::Peek;
use crate::telemetry::{LogFormat, init_logging};

/// Print the bundle keys that proxies pin.
///
/// Prints two keys: the active one, and the standby that replaces it after a rotation or
/// revocation. Put both under `trustBundle.keys` of the plugin configuration. Without --init, reads
/// an existing database and changes nothing. With --init, creates a missing database and its keys,
/// so that proxies can be configured before the issuer's first start.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  meshseal keys pins --config issuer.yaml
    {\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"…\",\"kid\":\"…\",…}, …]}")]
pub(super) struct Pins {
    /// Configuration of the issuer (YAML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Create the database and the keys if they do not exist.
    #[arg(long)]
    init: bool,
}

impl Pins {
    pub(super) async fn run(self) -> Outcome {
        init_logging(LogFormat::Plain);
        let config = serve::load(self.config)?;
        let known = if self.init {
            let issuer = Issuer::open(config, std::sync::Arc::new(SystemClock::new()))
                .await
                .map_err(Failure::new)?;
            issuer.publisher.current().keys.clone()
        } else {
            existing(&config).await?
        };
        let bundle_keys = |state: KeyState| {
            let these = known
                .iter()
                .filter(move |key| key.purpose == Purpose::Bundle && key.state == state);
            these.filter_map(|key| serde_json::from_str::<Value>(&key.public_jwk).ok())
        };
        // After a restored backup two standby keys may exist; the older one becomes active next.
        let keys: Vec<Value> = bundle_keys(KeyState::Active)
            .chain(bundle_keys(KeyState::Next).take(1))
            .collect();
        if keys.is_empty() {
            return Err(Failure::new(
                "the database holds no keys yet: start the issuer, or create them with --init",
            ));
        }
        print(&json!({ "keys": keys }).to_string());
        Ok(ExitCode::SUCCESS)
    }
}

/// Returns the keys of an existing database, without changing it.
async fn existing(config: &Config) -> Result<Vec<KeyRecord>, Failure> {
    if let Some(file) = config.database.file().filter(|file| !file.exists()) {
        let remedy = "start the issuer, or create the database and the keys with --init";
        return Err(Failure::new(format!(
            "{} does not exist: {remedy}",
            file.display()
        )));
    }
    let mut peek = Peek::open(&config.database).await.map_err(Failure::new)?;
    if peek.is_new().await.map_err(Failure::new)? {
        return Ok(Vec::new());
    }
    let master = MasterKey::existing(&config.master_key, &config.database).map_err(Failure::new)?;
    // Check the master key first: with a wrong one, every row would look tampered.
    let kept = peek
        .constant(MasterKey::CHECK)
        .await
        .map_err(Failure::new)?;
    master
        .prove(&kept.unwrap_or_default())
        .map_err(Failure::new)?;
    Ok(peek.load(&master).await.map_err(Failure::new)?.keys)
}
