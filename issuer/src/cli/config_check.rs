//! `meshseal config check`.

use std::path::PathBuf;
use std::process::ExitCode;

use meshseal_core::policy::Policy;

use super::documents::{self, Found, What};
use super::{Failure, note, print};
use crate::config::{Mistakes, check};

/// Check configuration files, and list every mistake with its path and remedy.
///
/// Reads issuer configurations (YAML) and plugin configurations (JSON or YAML), also inside
/// WasmPlugin, TrafficExtension, EnvoyFilter, ConfigMap, Secret and List documents and Envoy
/// bootstraps. The verdict is that of `meshseal serve` and of the filter. Exit status: 0 if all
/// configurations are valid, 1 if any is invalid, 2 if a file cannot be read or holds no
/// configuration.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshseal config check issuer.yaml plugin.yaml
  meshseal config check istio/issuer/issuer.yaml istio/filter/wasmplugin.yaml envoy-config/*.yaml")]
pub(super) struct Check {
    /// Files to check.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl Check {
    pub(super) fn run(self) -> ExitCode {
        let worst = self.files.iter().map(check_file).max().unwrap_or_default();
        ExitCode::from(worst)
    }
}

/// Checks one file, prints its mistakes, and returns the exit status.
fn check_file(path: &PathBuf) -> u8 {
    let name = path.display();
    let text = match documents::read_text(path) {
        Ok(text) => text,
        Err(Failure { message, exit }) => {
            note(&format!("error: {message}"));
            return exit;
        }
    };
    let found = match documents::find_all(&text, path) {
        Ok(found) => found,
        Err(message) => {
            print(&format!("{name}: {message}"));
            return 1;
        }
    };
    // One invalid configuration makes the file invalid; documents without one do not count.
    let verdicts: Vec<Option<bool>> = found
        .iter()
        .map(|one| verdict(&name.to_string(), one))
        .collect();
    if verdicts.contains(&Some(false)) {
        return 1;
    }
    if verdicts.contains(&Some(true)) {
        return 0;
    }
    note(&format!(
        "error: {name}: nothing to check: holds no configuration of Meshseal; is it the right file?"
    ));
    2
}

/// Prints the mistakes of a configuration and returns whether it is valid. Returns `None` for a
/// document that holds no configuration.
fn verdict(name: &str, found: &Found) -> Option<bool> {
    let place = if found.at.is_empty() {
        String::new()
    } else {
        format!(" at {}", found.at)
    };
    // Validate the configuration as the issuer or the filter does.
    let (kind, mistakes) = match &found.what {
        What::Other(what) => {
            print(&format!("{name}: not checked{place}: {what}"));
            return None;
        }
        What::Broken(message) => {
            let at = if found.at.is_empty() {
                "(document)"
            } else {
                &found.at
            };
            print(&format!("{name}: {at}: {message}"));
            return Some(false);
        }
        What::Issuer(value) => (
            "issuer",
            check(value)
                .err()
                .map(|Mistakes(mistakes)| Mistakes(mistakes).to_string()),
        ),
        What::Plugin(text) => {
            let policy = meshseal_core::config::read_policy(text);
            for warning in policy.iter().flat_map(Policy::warnings) {
                print(&format!("{name}: warning{place}: {warning}"));
            }
            ("plugin", policy.err().map(|errors| errors.to_string()))
        }
    };
    // Print the verdict.
    let Some(mistakes) = mistakes else {
        print(&format!("{name}: ok ({kind} configuration{place})"));
        return Some(true);
    };
    for line in mistakes.lines() {
        print(&format!("{name}: {line}"));
    }
    print(&format!("{name}: WRONG ({kind} configuration{place})"));
    Some(false)
}
