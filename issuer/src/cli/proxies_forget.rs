//! `meshseal proxies forget`.

use std::process::ExitCode;

use serde_json::Value;

use super::remote::AdminRemote;
use super::{Outcome, print};

/// Stop counting workers that are known to be gone, such as those of a deleted pod.
///
/// Receipts and rotations wait for an unreachable worker until the last bundle that it was given
/// has expired. Forget it only if its process has ended: a worker that runs may still accept what
/// was revoked, and a replica that is cut off from the database goes on serving it. The issuer logs
/// who forgot what. A worker that polls is not forgotten.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  meshseal proxies list --client-id operator
  meshseal proxies forget edge-7d9f --client-id operator")]
pub(super) struct Forget {
    /// A node, for all its unreachable workers, or one worker.
    #[arg(value_name = "NODE|WORKER")]
    name: String,
    #[command(flatten)]
    remote: AdminRemote,
}

impl Forget {
    pub(super) fn run(self) -> Outcome {
        let answer: Value = self
            .remote
            .connect()?
            .post("/admin/proxies/forget", &[("name", &self.name)])?;
        print(&answer.to_string());
        Ok(ExitCode::SUCCESS)
    }
}
