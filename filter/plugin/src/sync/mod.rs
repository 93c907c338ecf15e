//! Keeps trust current: polls the issuer for the trust bundle and fetches providers' key sets.
//!
//! All calls are made on ticks and callbacks of the root context. A request makes no call of its
//! own. It can only request a refresh, which all waiting requests share.

pub(crate) mod bundle;
pub(crate) mod jwks;
mod pace;

use crate::host::{Host, Level};

/// Outcome of a finished call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallOutcome {
    /// New keys or revocations arrived; the requests held for them are decided again.
    News,
    /// Nothing new, or nothing usable.
    Nothing,
}

/// A finished call. Valid only in the callback that announces it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Finished {
    /// The token that [`Host::call`] returned.
    pub(crate) token: u32,
    /// Size of the body in bytes.
    pub(crate) size: usize,
}

/// Reason why a call brought no document.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fault {
    NoAnswer,
    Status(String),
    TooLarge(usize),
    NotText,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoAnswer => out.write_str("no response"),
            Self::Status(status) => write!(out, "response status {status}, expected 200"),
            Self::TooLarge(size) => write!(out, "response too large ({size} bytes)"),
            Self::NotText => out.write_str("response is not UTF-8"),
        }
    }
}

/// Returns the document of a call. A document above `limit` bytes is rejected by its announced
/// size, before the proxy copies it into the module.
fn document(host: &impl Host, finished: Finished, limit: usize) -> Result<String, Fault> {
    let status = host.call_header(":status").ok_or(Fault::NoAnswer)?;
    if status != b"200" {
        return Err(Fault::Status(status.escape_ascii().to_string()));
    }
    if finished.size > limit {
        return Err(Fault::TooLarge(finished.size));
    }
    let body = host.call_body(finished.size).ok_or(Fault::NoAnswer)?;
    String::from_utf8(body).map_err(|_| Fault::NotText)
}

/// Log state of a source. It logs a warning once per failure reason and one line on recovery, so
/// that retries do not flood the log.
#[derive(Clone, Debug, Default)]
struct Health {
    /// The last reason, while the source fails.
    failing: Option<String>,
}

impl Health {
    fn is_failing(&self) -> bool {
        self.failing.is_some()
    }

    fn failed(&mut self, host: &impl Host, what: &str, why: &dyn std::fmt::Display) {
        let why = why.to_string();
        // The same reason again is worth a debug line only.
        let level = if self.failing.as_ref() == Some(&why) {
            Level::Debug
        } else {
            Level::Warn
        };
        host.log(
            level,
            &format!("{what}: {why}; retrying, last known good state stays in effect"),
        );
        self.failing = Some(why);
    }

    fn works(&mut self, host: &impl Host, what: &str) {
        if self.failing.take().is_some() {
            host.log(Level::Info, &format!("{what}: works again"));
        }
    }
}
