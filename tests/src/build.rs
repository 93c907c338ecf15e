//! Builds what the tests run, so that no stale artifact is ever tested.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, Result, bail};

use crate::paths;

/// Builds the filter and trims its exports, once per process; the path of the module.
///
/// # Errors
/// When it does not build; the message is the compiler's.
pub fn wasm() -> Result<PathBuf> {
    static DONE: OnceLock<Result<(), String>> = OnceLock::new();
    once(&DONE, "tests/scripts/wasm.sh")?;
    Ok(paths::wasm())
}

/// Builds the issuer, once per process; the path of the binary `meshseal`.
///
/// # Errors
/// When it does not build; the message is the compiler's.
pub fn issuer() -> Result<PathBuf> {
    static DONE: OnceLock<Result<(), String>> = OnceLock::new();
    once(&DONE, "tests/scripts/issuer.sh")?;
    Ok(paths::target().join("debug").join("meshseal"))
}

/// The Envoy to use: `$ENVOY`, or the pinned one, fetched on first use.
///
/// # Errors
/// When there is none and none can be fetched; the message names the remedy.
pub fn envoy() -> Result<PathBuf> {
    static PATH: OnceLock<Result<String, String>> = OnceLock::new();
    match PATH
        .get_or_init(|| script("tests/scripts/envoy.sh").map_err(|error| format!("{error:#}")))
    {
        Ok(path) => Ok(PathBuf::from(path)),
        Err(message) => bail!("{message}"),
    }
}

fn once(done: &OnceLock<Result<(), String>>, path: &str) -> Result<()> {
    match done.get_or_init(|| script(path).map(drop).map_err(|error| format!("{error:#}"))) {
        Ok(()) => Ok(()),
        Err(message) => bail!("{message}"),
    }
}

/// Runs a script of the repository; what it printed, trimmed.
fn script(path: &str) -> Result<String> {
    let output = Command::new("sh")
        .arg(paths::root().join(path))
        .current_dir(paths::root())
        .output()
        .with_context(|| format!("cannot run {path}"))?;
    if !output.status.success() {
        bail!(
            "{path} failed ({}):\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
