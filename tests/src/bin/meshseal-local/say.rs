//! Output for the user at the terminal.

use std::io::Write as _;

/// Prints a line on standard output. Ignores errors: a closed terminal must not stop the run.
pub(crate) fn say(line: &str) {
    drop(writeln!(std::io::stdout(), "{line}"));
}

/// Prints a line on standard error.
pub(crate) fn complain(line: &str) {
    drop(writeln!(std::io::stderr(), "{line}"));
}

/// Prints a step of the start.
pub(crate) fn progress(step: &str) {
    say(&format!("==> {step}"));
}
