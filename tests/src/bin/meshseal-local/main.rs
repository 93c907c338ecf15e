//! `make run` and `make demo`: run all parts of Meshseal on this machine.

mod run;
mod say;
mod story;

use std::process::ExitCode;

use say::{complain, say};

const HELP: &str = "\
meshseal-local: runs all parts of Meshseal on this machine

  meshseal-local run    start issuer, Envoy with two hops and an echo service; Ctrl-C stops them
  meshseal-local demo   start the same parts on free ports, then show and check every step

`run` uses these ports, which the environment can change:
  MESHSEAL_EDGE_PORT (10000)  MESHSEAL_SIDECAR_PORT (10001)  MESHSEAL_ADMIN_PORT (9901)
  MESHSEAL_ISSUER_PORT (8080)  MESHSEAL_SERVICE_PORT (8090)
ENVOY=/path/to/envoy uses that Envoy instead of the pinned one.";

#[tokio::main]
async fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let result = match (args.next().as_deref(), args.next()) {
        (Some("run"), None) => run::run().await,
        (Some("demo"), None) => story::demo().await,
        (Some("help" | "--help" | "-h"), None) => {
            say(HELP);
            return ExitCode::SUCCESS;
        }
        _ => {
            complain(HELP);
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            complain(&format!("meshseal-local: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
