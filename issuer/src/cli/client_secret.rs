//! `meshseal client secret`.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{Failure, Outcome, note, print, serve};
use crate::clients::{NewSecret, SecretHash, SecretHasher};
use crate::keys::MasterKey;

/// Make a client secret and its hash.
///
/// The secret (256 random bits) goes to the client, the hash into the issuer's YAML. The secret is
/// shown only now. A client may have two hashes while one secret replaces the other. With --config
/// the hash is keyed with the issuer's master key, so that the YAML alone says nothing about the
/// secret. Better still, give the client keys (`auth.jwks`, private_key_jwt).
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
    /// The issuer's YAML, which says where the master key is. The issuer must have been started
    /// once, or given a key.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Secret {
    pub(super) fn run(self) -> Outcome {
        let NewSecret(secret) =
            NewSecret::generate().ok_or_else(|| Failure::new("the system gives no randomness"))?;
        let hash = match self.config {
            Some(path) => {
                let config = serve::load(Some(path))?;
                let master = MasterKey::existing(&config.master_key, &config.database)
                    .map_err(Failure::new)?;
                SecretHasher::new(&master).keyed(&secret)
            }
            None => {
                note(
                    "note: the hash is not keyed with the master key; for one that is, give --config issuer.yaml",
                );
                SecretHash::of(&secret)
            }
        };
        print(&format!("secret: {}\nhash: {hash}", secret.as_str()));
        Ok(ExitCode::SUCCESS)
    }
}
