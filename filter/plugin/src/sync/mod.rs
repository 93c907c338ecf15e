//! Keeps trust current: the bundle by long-poll, providers' key sets by fetching. Both run on the
//! root context's ticks and callbacks; a request never makes a call of its own, it can only urge
//! one that serves all.

pub(crate) mod bundle;
pub(crate) mod jwks;
mod pace;

use crate::host::{Host, Level};

/// What a finished call brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Keys or revocations are new: whoever waits for them is decided again.
    News,
    /// Nothing new, or nothing usable.
    Nothing,
}

/// A finished call, in the callback that announces it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Finished {
    /// What [`Host::call`] returned.
    pub(crate) token: u32,
    /// Size of the body in bytes.
    pub(crate) size: usize,
}

/// Why a call brought no document.
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
            Self::NoAnswer => out.write_str("no answer"),
            Self::Status(status) => write!(out, "answered with status {status}"),
            Self::TooLarge(size) => write!(out, "answered with {size} bytes, more than is read"),
            Self::NotText => out.write_str("answered with what is not text"),
        }
    }
}

/// The document of a call; refused by its announced size before a byte of it is copied.
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

/// Warns once for each reason why a source fails and says once when it is back, however often it is
/// asked in between.
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
