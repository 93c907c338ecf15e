//! `meshseal client secret`.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{Failure, Outcome, note, print, serve};
use crate::clients::{NewSecret, SecretHash, SecretHasher};
use crate::keys::MasterKey;

/// Create a client secret and its hash.
///
/// Give the secret (256 random bits) to the client, and put the hash into the issuer's
/// configuration. The secret is not stored and cannot be shown again. A client may have two hashes
/// while one secret replaces the other. With --config, the hash is keyed with the issuer's master
/// key, so that the configuration reveals nothing about the secret. Client keys (`auth.jwks`,
/// private_key_jwt) are safer than secrets.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  meshseal client secret --config issuer.yaml
    secret: mss_…
    hash: hmac-sha256:…
  # issuer.yaml
  clients:
  - clientId: checkout
    auth: { secrets: [ { hash: \"hmac-sha256:…\" } ] }
    audiences: [orders]
    scopes: [orders.read]")]
pub(super) struct Secret {
    /// Configuration of the issuer (YAML), which names the master key. The key must exist: start
    /// the issuer once, or create the key.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Secret {
    pub(super) fn run(self) -> Outcome {
        let NewSecret(secret) = NewSecret::generate()
            .ok_or_else(|| Failure::new("could not read random bytes from the operating system"))?;
        let hash = match self.config {
            Some(path) => {
                let config = serve::load(Some(path))?;
                let master = MasterKey::existing(&config.master_key, &config.database)
                    .map_err(Failure::new)?;
                SecretHasher::new(&master).keyed(&secret)
            }
            None => {
                note(
                    "note: the hash is not keyed with the master key; for a keyed hash, give \
                     --config issuer.yaml",
                );
                SecretHash::of(&secret)
            }
        };
        print(&format!("secret: {}\nhash: {hash}", secret.as_str()));
        Ok(ExitCode::SUCCESS)
    }
}
