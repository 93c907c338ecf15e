//! `meshseal migrate`.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{Failure, Outcome, print, serve};
use crate::store::{Location, migrate};
use crate::telemetry::{LogFormat, init_logging};

/// Create or update the tables of the database.
///
/// `meshseal serve` does this itself if its role may create tables. Otherwise run this verb before
/// each upgrade, with a role that may create them. Keys and revocations stay unchanged.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  PGPASSWORD=… meshseal migrate --database postgres://owner@db/meshseal --grant-to meshseal")]
pub(super) struct Migrate {
    /// Configuration of the issuer (YAML).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Database URL to use instead of the one in the configuration, for example with another user.
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// Role that gets the right to read and write the tables (PostgreSQL only).
    #[arg(long, value_name = "ROLE")]
    grant_to: Option<String>,
}

impl Migrate {
    pub(super) async fn run(self) -> Outcome {
        init_logging(LogFormat::Plain);
        // --database overrides the URL, because the owner of the tables is usually another role.
        let location = match &self.database {
            Some(url) => Location::parse(url)
                .map_err(|error| Failure::usage(format!("--database: {error}")))?,
            None => serve::load(self.config)?.database,
        };
        if self.grant_to.is_some() && location.file().is_some() {
            return Err(Failure::usage(
                "--grant-to: a SQLite file has no roles; set the owner and mode of the file",
            ));
        }
        migrate(&location, self.grant_to.as_deref())
            .await
            .map_err(Failure::new)?;
        print(&format!("{location}: the tables are up to date"));
        Ok(ExitCode::SUCCESS)
    }
}
