//! `meshseal client secret`.

use std::process::ExitCode;

use super::{Failure, Outcome, print};
use crate::clients::{NewSecret, SecretHash};

/// Make a client secret and its hash.
///
/// The secret (256 random bits) goes to the client, the hash into the issuer's YAML. The secret is shown only now. A client
/// may have two hashes while one secret replaces the other. Better still, give it keys (`auth.jwks`, private_key_jwt).
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  meshseal client secret
    secret: mss_…
    hash: sha256:…
  # issuer.yaml
  clients:
  - clientId: checkout
    auth: { secrets: [ { hash: \"sha256:…\" } ] }
    audiences: [orders]
    scopes: [orders.read]")]
pub(super) struct Secret {}

impl Secret {
    #[expect(clippy::unused_self, reason = "every verb is run the same way")]
    pub(super) fn run(self) -> Outcome {
        let NewSecret(secret) = NewSecret::generate().ok_or_else(|| Failure::new("the system gives no randomness"))?;
        print(&format!("secret: {}\nhash: {}", secret.as_str(), SecretHash::of(&secret)));
        Ok(ExitCode::SUCCESS)
    }
}
