//! `meshseal keys pins`.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::{Failure, Outcome, print, serve};
use crate::clock::SystemClock;
use crate::issuer::Issuer;
use crate::keys::{KeyState, Purpose};
use crate::telemetry::{LogFormat, init_logging};

/// Print the keys that proxies pin: those that sign trust bundles.
///
/// Two are printed: the one that signs and the one that takes its place should it have to be revoked. Put both under
/// `trustBundle.keys` of the plugin's configuration. Makes the database and the keys when they are not there yet, so that
/// proxies can be configured before the issuer's first start.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  meshseal keys pins --config issuer.yaml
    {\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"…\",\"kid\":\"…\",\"alg\":\"EdDSA\",\"use\":\"sig\"}, …]}")]
pub(super) struct Pins {
    /// The issuer's YAML.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Pins {
    pub(super) async fn run(self) -> Outcome {
        init_logging(LogFormat::Plain);
        let config = serve::load(self.config)?;
        let issuer = Issuer::open(config, std::sync::Arc::new(SystemClock::new())).await.map_err(Failure::new)?;
        let published = issuer.publisher.current();
        let bundle_keys = |state: KeyState| {
            let these = published.keys.iter().filter(move |key| key.purpose == Purpose::Bundle && key.state == state);
            these.filter_map(|key| serde_json::from_str::<Value>(&key.public_jwk).ok())
        };
        let keys: Vec<Value> = bundle_keys(KeyState::Active).chain(bundle_keys(KeyState::Next)).collect();
        print(&json!({ "keys": keys }).to_string());
        Ok(ExitCode::SUCCESS)
    }
}
