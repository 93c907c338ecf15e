//! Builds the artifacts that tests run, so that no test uses a stale one.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context as _, Result, bail};

use crate::paths;

/// Builds the filter, removes unneeded exports and returns the path of the module. Builds once per
/// process.
///
/// # Errors
/// Fails if the build fails; the message contains the compiler's output.
pub fn wasm() -> Result<PathBuf> {
    static DONE: OnceLock<Result<(), String>> = OnceLock::new();
    once(&DONE, "tests/scripts/wasm.sh")?;
    Ok(paths::wasm())
}

/// Builds the issuer once per process and returns the path of the binary `meshseal`.
///
/// # Errors
/// Fails if the build fails; the message contains the compiler's output.
pub fn issuer() -> Result<PathBuf> {
    static DONE: OnceLock<Result<(), String>> = OnceLock::new();
    once(&DONE, "tests/scripts/issuer.sh")?;
    Ok(paths::target().join("debug").join("meshseal"))
}

/// Returns the path of Envoy: `$ENVOY`, or the pinned release, which is fetched on first use.
///
/// # Errors
/// Fails if Envoy is neither present nor can be fetched; the message names the remedy.
pub fn envoy() -> Result<PathBuf> {
    static PATH: OnceLock<Result<String, String>> = OnceLock::new();
    match PATH
        .get_or_init(|| script("tests/scripts/envoy.sh").map_err(|error| format!("{error:#}")))
    {
        Ok(path) => Ok(PathBuf::from(path)),
        Err(message) => bail!("{message}"),
    }
}

/// Runs a build script once per process; later calls get the same result.
fn once(done: &OnceLock<Result<(), String>>, path: &str) -> Result<()> {
    match done.get_or_init(|| script(path).map(drop).map_err(|error| format!("{error:#}"))) {
        Ok(()) => Ok(()),
        Err(message) => bail!("{message}"),
    }
}

/// Runs a script of the repository and returns its trimmed standard output.
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
