//! `meshseal config check`.

use std::path::PathBuf;
use std::process::ExitCode;

use meshseal_core::policy::Policy;

use super::documents::{self, Found};
use super::{Failure, note, print};
use crate::config::{Mistakes, check};

/// Check configuration files: every mistake, with its path and the remedy.
///
/// Knows the issuer's YAML and the plugin's configuration (JSON or YAML), also inside WasmPlugin, TrafficExtension and
/// ConfigMap documents and Envoy bootstraps. Exit status: 0 when all are right, 1 when any is wrong, 2 when a file cannot be
/// read.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshseal config check issuer.yaml plugin.yaml
  meshseal config check istio/*.yaml envoy-config/*.yaml")]
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
    if found.is_empty() {
        print(&format!("{name}: holds no configuration of meshseal"));
    }
    found.iter().map(|one| u8::from(!is_right(&name.to_string(), one))).max().unwrap_or_default()
}

fn is_right(name: &str, found: &Found) -> bool {
    let (sort, wrong) = match found {
        Found::Broken(at, message) => {
            print(&format!("{name}: {at}: {message}"));
            return false;
        }
        Found::Issuer(value) => (
            "issuer configuration".to_owned(),
            check(value).err().map(|Mistakes(mistakes)| Mistakes(mistakes).to_string()),
        ),
        Found::Plugin(at, value) => {
            let place = if at.is_empty() { String::new() } else { format!(" at {at}") };
            (
                format!("plugin configuration{place}"),
                Policy::from_json(&value.to_string()).err().map(|errors| errors.to_string()),
            )
        }
    };
    let Some(wrong) = wrong else {
        print(&format!("{name}: ok ({sort})"));
        return true;
    };
    for line in wrong.lines() {
        print(&format!("{name}: {line}"));
    }
    print(&format!("{name}: WRONG ({sort})"));
    false
}
