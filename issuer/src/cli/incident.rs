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

/// Show the present incident.
///
/// Prints JSON. The exit status is 1 during an incident.
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

/// Declare that the database lost state, as after a restored backup.
///
/// Every token issued so far is revoked, because some of them may have been revoked in the lost
/// state. Token indices jump past all that may have been used.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  MESHSEAL_CLIENT_SECRET=mss_… meshseal incident declare --reason 'restored last night’s backup' --client-id operator")]
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

/// End the present incident: its cause is known and removed.
///
/// Revocations that the incident made stay in force.
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

/// Remove the rows that a program without the master key wrote or changed.
///
/// Works on the database itself. Removed rows may have been revocations, so every token issued so
/// far is revoked; a running replica puts back the revocations that it remembers. Take away the
/// other program's access first.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  meshseal incident repair --config issuer.yaml")]
pub(super) struct Repair {
    /// The issuer's YAML.
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
            "{} rows removed; every token issued so far is revoked",
            removed.len()
        ));
        Ok(ExitCode::SUCCESS)
    }
}
