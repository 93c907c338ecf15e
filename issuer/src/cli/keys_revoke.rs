//! `meshseal keys revoke`.

use std::process::ExitCode;

use serde_json::Value;

use super::remote::AdminRemote;
use super::{Outcome, note, print};

/// Take a key out of use at once, because it was or may have been stolen.
///
/// Removes the key from the bundle, so that all proxies reject every token that it signed. The
/// standby key signs from now on, even if some proxy does not have it yet. For a planned change use
/// `meshseal keys rotate`, which invalidates no token.
#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    disable_version_flag = true,
    after_help = "Example:
  meshseal keys list --client-id operator
  MESHSEAL_CLIENT_SECRET=mss_… meshseal keys revoke KID --client-id operator"
)]
pub(super) struct Revoke {
    /// Key id, as shown by `meshseal keys list`.
    // One id in 64 begins with a hyphen, and one in 64 of those continues like a short flag.
    #[arg(allow_hyphen_values = true)]
    kid: String,
    /// Print help.
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    #[command(flatten)]
    remote: AdminRemote,
    /// Revoke a bundle key even if some proxy does not pin its successor. Such a proxy rejects
    /// requests after its bundle has expired.
    #[arg(long)]
    force: bool,
}

impl Revoke {
    pub(super) fn run(self) -> Outcome {
        let force = if self.force { "true" } else { "false" };
        let answer: Value = self.remote.connect()?.post(
            "/admin/keys/revoke",
            &[("kid", &self.kid), ("force", force)],
        )?;
        print(&answer.to_string());
        note(
            "after the revocation of a bundle key, put the output of `meshseal keys pins` into the \
             plugin configuration",
        );
        Ok(ExitCode::SUCCESS)
    }
}
