//! `meshseal incident`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

use super::remote::AdminRemote;
use super::{Failure, Outcome, note, print, serve};
use crate::admin::IncidentView;
use crate::clock::SystemClock;
use crate::issuer::Issuer;
use crate::telemetry::{LogFormat, init_logging};

/// Verbs about lost or forged state.
#[derive(Debug, Subcommand)]
pub(super) enum IncidentVerb {
    Show(Show),
    Declare(Declare),
    End(End),
    Repair(Repair),
}

impl IncidentVerb {
    pub(super) async fn run(self) -> Outcome {
        match self {
            Self::Show(show) => show.run(),
            Self::Declare(declare) => declare.run(),
            Self::End(end) => end.run(),
            Self::Repair(repair) => repair.run().await,
        }
    }
}

/// Show the current incident.
///
/// Prints JSON. The exit status is 1 during an incident, else 0.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  MESHSEAL_CLIENT_SECRET=mss_… meshseal incident show --client-id operator")]
pub(super) struct Show {
    #[command(flatten)]
    remote: AdminRemote,
}

impl Show {
    fn run(self) -> Outcome {
        let view: IncidentView = self.remote.connect()?.get("/admin/incident")?;
        print(&serde_json::to_string(&view).map_err(Failure::new)?);
        let is_over = view.incident.is_none() && view.tampered.is_none();
        Ok(if is_over {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// Declare that the database lost state, for example after a restored backup.
///
/// Revokes every token issued so far, because some of them may have been revoked in the lost state.
/// New token indices start above all that may have been used.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  MESHSEAL_CLIENT_SECRET=mss_… meshseal incident declare --client-id operator \\
    --reason 'restored the backup of 3 May'")]
pub(super) struct Declare {
    /// Reason, for the log and for `meshseal incident show`.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    remote: AdminRemote,
}

impl Declare {
    fn run(self) -> Outcome {
        let answer: Value = self
            .remote
            .connect()?
            .post("/admin/incident/declare", &[("reason", &self.reason)])?;
        print(&answer.to_string());
        Ok(ExitCode::SUCCESS)
    }
}

/// End the current incident, after its cause was found and removed.
///
/// Revocations that the incident caused stay in effect.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  MESHSEAL_CLIENT_SECRET=mss_… meshseal incident end --client-id operator")]
pub(super) struct End {
    #[command(flatten)]
    remote: AdminRemote,
}

impl End {
    fn run(self) -> Outcome {
        let answer: Value = self.remote.connect()?.post("/admin/incident/end", &[])?;
        print(&answer.to_string());
        Ok(ExitCode::SUCCESS)
    }
}

/// Remove rows that were written or changed without the master key.
///
/// Revoke the other program's access to the database first. This verb works directly on the
/// database. It revokes every token issued so far, because removed rows may have been revocations.
/// A running replica restores the revocations that it remembers.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  meshseal incident repair --config issuer.yaml")]
pub(super) struct Repair {
    /// Configuration of the issuer (YAML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Repair {
    async fn run(self) -> Outcome {
        init_logging(LogFormat::Plain);
        let config = serve::load(self.config)?;
        let removed = Issuer::repair(&config, &SystemClock::new())
            .await
            .map_err(Failure::new)?;
        removed.iter().for_each(|row| print(row));
        note(&format!(
            "removed {} rows and revoked every token issued so far",
            removed.len()
        ));
        Ok(ExitCode::SUCCESS)
    }
}
