//! `meshseal migrate`.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{Failure, Outcome, print, serve};
use crate::store::{Location, migrate};
use crate::telemetry::{LogFormat, init_logging};

/// Create or update the tables of the database.
///
/// `meshseal serve` does it by itself where its role may create tables. Where it may not, run this
/// verb before each upgrade with a role that may. Keys and revocations stay as they are.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  PGPASSWORD=… meshseal migrate --config issuer.yaml --database postgres://owner@db/meshseal --grant-to meshseal")]
pub(super) struct Migrate {
    /// The issuer's YAML.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Database to use instead of the one in the configuration, such as one with another user.
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// Role that may then read and write the tables (PostgreSQL only).
    #[arg(long, value_name = "ROLE")]
    grant_to: Option<String>,
}

impl Migrate {
    pub(super) async fn run(self) -> Outcome {
        init_logging(LogFormat::Plain);
        let location = match &self.database {
            Some(url) => Location::parse(url)
                .map_err(|error| Failure::usage(format!("--database: {error}")))?,
            None => serve::load(self.config)?.database,
        };
        if self.grant_to.is_some() && location.file().is_some() {
            return Err(Failure::usage(
                "--grant-to: a SQLite file has no roles; set owner and mode of the file",
            ));
        }
        migrate(&location, self.grant_to.as_deref())
            .await
            .map_err(Failure::new)?;
        print(&format!("{location}: the tables are up to date"));
        Ok(ExitCode::SUCCESS)
    }
}
