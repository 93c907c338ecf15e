//! Reads a configuration file and checks it.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Config, Mistakes, Node, sections};

/// Largest configuration file in bytes, enough for some thousand clients with keys.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Error returned for a configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// The file cannot be read.
    #[error("{path}: {error}")]
    Unreadable {
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        error: std::io::Error,
    },
    /// The file is too large to be a configuration.
    #[error("{path}: larger than {MAX_FILE_BYTES} bytes; is it the right file?")]
    TooLarge {
        /// Path of the file.
        path: PathBuf,
    },
    /// The text is not YAML.
    #[error("not YAML: {0}")]
    Syntax(String),
    /// The text is YAML, but not a valid configuration.
    #[error("{0}")]
    Mistakes(#[from] Mistakes),
}

/// Reads and checks a file. Relative paths in it are relative to the working directory.
///
/// # Errors
/// [`ConfigFileError`].
pub fn from_file(path: &Path) -> Result<Config, ConfigFileError> {
    let unreadable = |error| ConfigFileError::Unreadable {
        path: path.to_owned(),
        error,
    };
    // The size is checked before the file is read into memory.
    if std::fs::metadata(path).map_err(unreadable)?.len() > MAX_FILE_BYTES {
        return Err(ConfigFileError::TooLarge {
            path: path.to_owned(),
        });
    }
    from_yaml(&std::fs::read_to_string(path).map_err(unreadable)?)
}

/// Checks a YAML text.
///
/// # Errors
/// [`ConfigFileError::Syntax`], [`ConfigFileError::Mistakes`].
pub fn from_yaml(text: &str) -> Result<Config, ConfigFileError> {
    Ok(check(
        &yaml_to_json(text).map_err(ConfigFileError::Syntax)?,
    )?)
}

/// Checks a document.
///
/// # Errors
/// All mistakes in the document.
pub fn check(document: &Value) -> Result<Config, Mistakes> {
    let mistakes = RefCell::default();
    let config = sections::read(Node::root(document, &mistakes));
    let mistakes = mistakes.into_inner();
    if mistakes.is_empty() {
        Ok(config)
    } else {
        Err(Mistakes(mistakes))
    }
}

/// Converts a YAML text of one document to JSON. Repeated names are rejected. An empty text becomes
/// `null`.
///
/// # Errors
/// Finding and place of a syntax error.
pub fn yaml_to_json(text: &str) -> Result<Value, String> {
    // The parser rejects a text without a document, but all settings have defaults.
    if text
        .lines()
        .all(|line| line.trim_start().starts_with('#') || line.trim().is_empty())
    {
        return Ok(Value::Null);
    }
    serde_saphyr::from_str(text).map_err(|error| error.to_string())
}
