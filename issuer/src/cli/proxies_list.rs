//! `meshseal proxies list`.

use std::process::ExitCode;

use super::remote::AdminRemote;
use super::table::print_table;
use super::{Failure, Outcome, print};
use crate::admin::ProxiesView;

/// List the proxy workers that count: those that poll, and those that may still act on an older
/// bundle.
///
/// `until` is the time (Unix seconds) until which an unreachable worker may act on the version that
/// it holds.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  meshseal proxies list --client-id operator
  meshseal proxies list --client-id operator --json |
    jq '.proxies[] | select(.state == \"unreachable\")'")]
pub(super) struct List {
    #[command(flatten)]
    remote: AdminRemote,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl List {
    pub(super) fn run(self) -> Outcome {
        let view: ProxiesView = self.remote.connect()?.get("/admin/proxies")?;
        if self.json {
            print(&serde_json::to_string(&view).map_err(Failure::new)?);
            return Ok(ExitCode::SUCCESS);
        }
        let rows = view
            .proxies
            .into_iter()
            .map(|proxy| {
                let until = proxy
                    .accepts_until
                    .map_or_else(|| "unbounded".to_owned(), |until| until.to_string());
                [
                    proxy.worker,
                    proxy.state,
                    proxy.version.to_string(),
                    until,
                    proxy.node,
                ]
            })
            .collect();
        print_table(["worker", "state", "version", "until", "node"], rows);
        Ok(ExitCode::SUCCESS)
    }
}
