//! `meshseal keys rotate`.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use super::remote::{AdminRemote, Connection};
use super::{Failure, Outcome, note, print};
use crate::admin::{KeyView, KeysView};

/// How often progress is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Sign with the next key.
///
/// The issuer changes over as soon as every live proxy has confirmed that it has the next key, or, loudly, when
/// `keys.ackTimeout` is over. Prints the new key's id once it signs.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  MESHSEAL_CLIENT_SECRET=mss_… meshseal keys rotate --client-id operator")]
pub(super) struct Rotate {
    #[command(flatten)]
    remote: AdminRemote,
    /// Ask for it and do not wait.
    #[arg(long)]
    no_wait: bool,
}

impl Rotate {
    pub(super) async fn run(self) -> Outcome {
        let issuer = self.remote.connect()?;
        let before = look(&issuer)?;
        let _accepted: Value = issuer.post("/admin/keys/rotate", &[])?;
        if self.no_wait {
            note("asked for; see `meshseal keys list`");
            return Ok(ExitCode::SUCCESS);
        }
        let old = active(&before).map(|key| key.kid.clone());
        let mut told = String::new();
        loop {
            let view = look(&issuer)?;
            if let Some(key) = active(&view).filter(|key| Some(&key.kid) != old.as_ref()) {
                print(&key.kid);
                return Ok(ExitCode::SUCCESS);
            }
            if view.rotation_requested.is_none() {
                return Err(Failure::new("the request is gone, but the key did not change; see the issuer's log"));
            }
            let progress = progress(&view);
            if progress != told {
                note(&progress);
                told = progress;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

fn look(issuer: &Connection) -> Result<KeysView, Failure> {
    issuer.get("/admin/keys")
}

fn find<'v>(view: &'v KeysView, state: &str) -> Option<&'v KeyView> {
    view.keys.iter().find(|key| key.purpose == "token" && key.state == state)
}

fn active(view: &KeysView) -> Option<&KeyView> {
    find(view, "active")
}

fn progress(view: &KeysView) -> String {
    match find(view, "next") {
        Some(next) => format!("waiting: {} of {} proxies have key {}", next.confirmed, view.proxies, next.kid),
        None => "waiting: the next key is being made".to_owned(),
    }
}
