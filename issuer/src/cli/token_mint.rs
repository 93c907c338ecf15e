//! `meshseal token mint`.

use std::process::ExitCode;

use serde::Deserialize;

use super::remote::Remote;
use super::{Outcome, note, print};

/// Request a token from a running issuer.
///
/// Prints only the token, so that the output can be piped. Tokens come from the issuer, because a
/// token that is signed elsewhere has no index and cannot be revoked.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  export MESHSEAL_CLIENT_SECRET=mss_…
  meshseal token mint --client-id checkout --audience orders --scope orders.read > token.txt")]
pub(super) struct Mint {
    #[command(flatten)]
    remote: Remote,
    /// Service that the token is for; optional if the client may use only one.
    #[arg(long, value_name = "AUD")]
    audience: Option<String>,
    /// Scopes, separated by spaces; default: all scopes of the client.
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
            "expires in {} s, scope: {}",
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
