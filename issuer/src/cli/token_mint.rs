//! `meshseal token mint`.

use std::process::ExitCode;

use serde::Deserialize;

use super::remote::Remote;
use super::{Outcome, note, print};

/// Get a token from a running issuer.
///
/// Prints the token alone, so that it can be piped. Tokens come from an issuer only: one that was
/// signed past it would have no index, and so could not be revoked.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  export MESHSEAL_CLIENT_SECRET=mss_…
  meshseal token mint --client-id checkout --audience orders --scope 'orders.read' > token.txt")]
pub(super) struct Mint {
    #[command(flatten)]
    remote: Remote,
    /// The service that the token is for; may be left out when the client has only one.
    #[arg(long, value_name = "AUD")]
    audience: Option<String>,
    /// Scopes, separated by spaces; default: all that the client may have.
    #[arg(long, value_name = "SCOPES")]
    scope: Option<String>,
}

#[derive(Deserialize)]
struct Answer {
    access_token: String,
    expires_in: u64,
    #[serde(default)]
    scope: String,
}

impl Mint {
    pub(super) fn run(self) -> Outcome {
        let mut form = vec![("grant_type", "client_credentials")];
        form.extend(
            self.audience
                .as_deref()
                .map(|audience| ("resource", audience)),
        );
        form.extend(self.scope.as_deref().map(|scope| ("scope", scope)));
        let answer: Answer = self.remote.connect()?.post("/token", &form)?;
        print(&answer.access_token);
        note(&format!(
            "good for {} s, scope: {}",
            answer.expires_in,
            if answer.scope.is_empty() {
                "none"
            } else {
                &answer.scope
            }
        ));
        Ok(ExitCode::SUCCESS)
    }
}
