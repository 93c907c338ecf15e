//! `meshseal config check`.

use std::path::PathBuf;
use std::process::ExitCode;

use meshseal_core::policy::Policy;

use super::documents::{self, Found, What};
use super::{Failure, note, print};
use crate::config::{Mistakes, check};

/// Check configuration files: every mistake, with its path and the remedy.
///
/// Knows the issuer's YAML and the plugin's configuration (JSON or YAML), also inside WasmPlugin,
/// TrafficExtension, EnvoyFilter, ConfigMap, Secret and List documents and Envoy bootstraps. The
/// verdict is that of `meshseal serve` and of the filter. Exit status: 0 when all are right, 1 when
/// any is wrong, 2 when a file cannot be read or holds nothing to check.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshseal config check issuer.yaml plugin.yaml
  meshseal config check istio/issuer/issuer.yaml istio/filter/wasmplugin.yaml envoy-config/*.yaml")]
pub(super) struct Check {
    /// The files.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl Check {
    pub(super) fn run(self) -> ExitCode {
        let worst = self.files.iter().map(check_file).max().unwrap_or_default();
        ExitCode::from(worst)
    }
}

/// Prints what is wrong; returns the exit status.
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

/// Returns whether a configuration is right; none for a document that is no configuration.
fn verdict(name: &str, found: &Found) -> Option<bool> {
    let place = if found.at.is_empty() {
        String::new()
    } else {
        format!(" at {}", found.at)
    };
    let (sort, wrong) = match &found.what {
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
    let Some(wrong) = wrong else {
        print(&format!("{name}: ok ({sort} configuration{place})"));
        return Some(true);
    };
    for line in wrong.lines() {
        print(&format!("{name}: {line}"));
    }
    print(&format!("{name}: WRONG ({sort} configuration{place})"));
    Some(false)
}
