//! `meshseal keys rotate`.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use super::remote::{AdminRemote, Connection};
use super::{Failure, Outcome, note, print};
use crate::admin::{KeyView, KeysView};

/// Interval between two queries of the progress.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Rotate the signing key to the standby key.
///
/// The standby key signs once no reader of /jwks keeps an older document (`keys.jwksMaxAge`) and
/// every proxy has confirmed that it holds the key. If a proxy does not confirm within
/// `keys.ackTimeout` after that, the key signs anyway; the issuer counts that and logs an error.
/// Prints the id of the new key once it signs.
///
/// With --bundle, rotates the bundle key. Its standby key signs only once every proxy states that
/// it pins the key, so put the output of `meshseal keys pins` into the plugin configurations first.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  MESHSEAL_CLIENT_SECRET=mss_… meshseal keys rotate --client-id operator
  meshseal keys rotate --client-id operator --bundle")]
pub(super) struct Rotate {
    #[command(flatten)]
    remote: AdminRemote,
    /// Rotate the bundle key instead of the token key.
    #[arg(long)]
    bundle: bool,
    /// Rotate at once. Verifiers that do not have the key reject everything that it signs.
    #[arg(long)]
    force: bool,
    /// Request the rotation and do not wait for it.
    #[arg(long)]
    no_wait: bool,
}

impl Rotate {
    pub(super) async fn run(self) -> Outcome {
        // Remember the active key, and request the rotation.
        let issuer = self.remote.connect()?;
        let purpose = if self.bundle { "bundle" } else { "token" };
        let before = look(&issuer)?;
        let force = if self.force { "true" } else { "false" };
        let _accepted: Value = issuer.post(
            "/admin/keys/rotate",
            &[("purpose", purpose), ("force", force)],
        )?;
        if self.no_wait {
            note("rotation requested; see `meshseal keys list`");
            return Ok(ExitCode::SUCCESS);
        }
        // Wait for another active key, and report progress when it changes.
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
                    "the rotation request was dropped and the key did not change; see the \
                     issuer's log",
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

/// Describes the condition that the rotation waits for.
fn progress(view: &KeysView, purpose: &str) -> String {
    let Some(next) = find(view, purpose, "next") else {
        return "waiting: the issuer creates the next key".to_owned();
    };
    let (all, kid) = (view.proxies, &next.kid);
    if purpose == "bundle" {
        return format!("waiting: {} of {all} proxies pin key {kid}", next.pinned);
    }
    let confirmed = next.confirmed;
    format!(
        "waiting: {confirmed} of {all} proxies hold key {kid}; all readers of /jwks have it at {} \
         (Unix seconds)",
        next.ready_at
    )
}
