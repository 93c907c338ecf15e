//! Lines for the person in front of the terminal.

use std::io::Write as _;

/// A line on standard output. A closed terminal is no reason to stop.
pub(crate) fn say(line: &str) {
    drop(writeln!(std::io::stdout(), "{line}"));
}

/// A line on standard error.
pub(crate) fn complain(line: &str) {
    drop(writeln!(std::io::stderr(), "{line}"));
}

/// A step of the start.
pub(crate) fn progress(step: &str) {
    say(&format!("==> {step}"));
}
