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
/// The issuer changes over as soon as every live proxy has confirmed that it has the next key, and
/// no reader of /jwks keeps an older document (`keys.jwksMaxAge`); or, loudly, when
/// `keys.ackTimeout` is over after that. Prints the new key's id once it signs.
///
/// With --bundle: the key that signs trust bundles. It changes only when every proxy states that it
/// pins the next one; put the output of `meshseal keys pins` into the plugins' configuration first.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  MESHSEAL_CLIENT_SECRET=mss_… meshseal keys rotate --client-id operator
  meshseal keys rotate --client-id operator --bundle")]
pub(super) struct Rotate {
    #[command(flatten)]
    remote: AdminRemote,
    /// Rotate the key that signs trust bundles.
    #[arg(long)]
    bundle: bool,
    /// Change over at once. Verifiers that do not have the key reject what it signs.
    #[arg(long)]
    force: bool,
    /// Ask for it and do not wait.
    #[arg(long)]
    no_wait: bool,
}

impl Rotate {
    pub(super) async fn run(self) -> Outcome {
        let issuer = self.remote.connect()?;
        let purpose = if self.bundle { "bundle" } else { "token" };
        let before = look(&issuer)?;
        let force = if self.force { "true" } else { "false" };
        let _accepted: Value = issuer.post(
            "/admin/keys/rotate",
            &[("purpose", purpose), ("force", force)],
        )?;
        if self.no_wait {
            note("asked for; see `meshseal keys list`");
            return Ok(ExitCode::SUCCESS);
        }
        let old = active(&before, purpose).map(|key| key.kid.clone());
        let mut told = String::new();
        loop {
            let view = look(&issuer)?;
            if let Some(key) = active(&view, purpose).filter(|key| Some(&key.kid) != old.as_ref()) {
                print(&key.kid);
                return Ok(ExitCode::SUCCESS);
            }
            let requested = if self.bundle {
                view.bundle_rotation_requested
            } else {
                view.rotation_requested
            };
            if requested.is_none() {
                return Err(Failure::new(
                    "the request is gone, but the key did not change; see the issuer's log",
                ));
            }
            let progress = progress(&view, purpose);
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

fn find<'v>(view: &'v KeysView, purpose: &str, state: &str) -> Option<&'v KeyView> {
    view.keys
        .iter()
        .find(|key| key.purpose == purpose && key.state == state)
}

fn active<'v>(view: &'v KeysView, purpose: &str) -> Option<&'v KeyView> {
    find(view, purpose, "active")
}

fn progress(view: &KeysView, purpose: &str) -> String {
    let Some(next) = find(view, purpose, "next") else {
        return "waiting: the next key is being made".to_owned();
    };
    let (all, kid) = (view.proxies, &next.kid);
    if purpose == "bundle" {
        return format!("waiting: {} of {all} proxies pin key {kid}", next.pinned);
    }
    let confirmed = next.confirmed;
    format!(
        "waiting: {confirmed} of {all} proxies have key {kid}; readers of /jwks have it from {} on",
        next.ready_at
    )
}
