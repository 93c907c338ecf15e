//! `meshseal proxies forget`.

use std::process::ExitCode;

use serde_json::Value;

use super::remote::AdminRemote;
use super::{Outcome, print};

/// Stop counting workers that have ended, such as those of a deleted pod.
///
/// Receipts and rotations wait for an unreachable worker until its last bundle has expired. Forget
/// a worker only if its process has ended: a running worker may still accept revoked tokens, and a
/// replica that is cut off from the database continues to serve it. The issuer logs the client and
/// the forgotten workers. It rejects the request if all these workers poll.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  meshseal proxies list --client-id operator
  meshseal proxies forget edge-7d9f --client-id operator")]
pub(super) struct Forget {
    /// Worker to forget, or node whose unreachable workers to forget.
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
