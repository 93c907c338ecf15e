//! `meshseal keys revoke`.

use std::process::ExitCode;

use serde_json::Value;

use super::remote::AdminRemote;
use super::{Outcome, note, print};

/// Take a key out of use at once: for a key that was, or may have been, stolen.
///
/// It leaves the bundle, so that every token it signed is refused everywhere; the standby signs
/// from now on, whether or not every proxy has it yet. For a planned change use `meshseal keys
/// rotate`, which loses no token.
#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    disable_version_flag = true,
    after_help = "Example:
  meshseal keys list --client-id operator
  MESHSEAL_CLIENT_SECRET=mss_… meshseal keys revoke KID --client-id operator"
)]
pub(super) struct Revoke {
    /// The key's id, as `meshseal keys list` shows it.
    // One in 64 begins with a hyphen, and one of those in 64 goes on like a short flag.
    #[arg(allow_hyphen_values = true)]
    kid: String,
    /// Print help.
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    #[command(flatten)]
    remote: AdminRemote,
    /// Revoke a bundle key although a proxy does not pin the one that takes its place. Such a proxy
    /// stops when its bundle ends.
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
            "if it was a bundle key: pin the new ones (`meshseal keys pins`) in the plugin's configuration",
        );
        Ok(ExitCode::SUCCESS)
    }
}
