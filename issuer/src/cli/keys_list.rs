//! `meshseal keys list`.

use std::process::ExitCode;

use super::remote::AdminRemote;
use super::table::print_table;
use super::{Failure, Outcome, print};
use crate::admin::KeysView;

/// List the keys of a running issuer with their state and the number of proxies that hold them.
///
/// A key is created and published (next), signs (active), is kept until its last token has expired
/// (draining), and is no longer published (retired).
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  MESHSEAL_CLIENT_SECRET=mss_… meshseal keys list --client-id operator
  meshseal keys list --client-id operator --json | jq '.keys[] | select(.state == \"active\")'")]
pub(super) struct List {
    #[command(flatten)]
    remote: AdminRemote,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl List {
    pub(super) fn run(self) -> Outcome {
        let view: KeysView = self.remote.connect()?.get("/admin/keys")?;
        if self.json {
            print(&serde_json::to_string(&view).map_err(Failure::new)?);
            return Ok(ExitCode::SUCCESS);
        }
        let rows = view
            .keys
            .into_iter()
            .map(|key| {
                let confirmed = format!("{}/{}", key.confirmed, view.proxies);
                [
                    key.kid,
                    key.purpose,
                    key.algorithm,
                    key.state,
                    key.since.to_string(),
                    confirmed,
                ]
            })
            .collect();
        let headings = ["kid", "signs", "alg", "state", "since", "confirmed"];
        print_table(headings, rows);
        Ok(ExitCode::SUCCESS)
    }
}
