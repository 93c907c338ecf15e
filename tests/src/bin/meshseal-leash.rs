//! `meshseal-leash PARENT PROGRAM [ARGUMENT…]`: becomes PROGRAM, having asked the kernel to end it
//! when process PARENT ends.
//!
//! Keeps a killed test run or runner from leaving an Envoy behind. Where the kernel has no such
//! thing, only becomes PROGRAM.

use std::env::args_os;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let mut args = args_os().skip(1);
    let (Some(parent), Some(program)) = (args.next(), args.next()) else {
        return complain("usage: meshseal-leash PARENT PROGRAM [ARGUMENT…]");
    };
    if let Err(reason) = tie_to(&parent.to_string_lossy()) {
        return complain(&reason);
    }
    let error = Command::new(&program).args(args).exec();
    complain(&format!("cannot run {}: {error}", program.display()))
}

fn complain(message: &str) -> ExitCode {
    // Nothing is left to do when even standard error is closed.
    drop(writeln!(std::io::stderr(), "meshseal-leash: {message}"));
    ExitCode::from(127)
}

#[cfg(target_os = "linux")]
fn tie_to(parent: &str) -> Result<(), String> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| format!("no parent-death signal: {error}"))?;
    // The parent may have died before the line above.
    match getppid() {
        Some(pid) if pid.as_raw_nonzero().to_string() == parent => Ok(()),
        _ => Err(format!("process {parent} is gone")),
    }
}

#[cfg(not(target_os = "linux"))]
fn tie_to(_parent: &str) -> Result<(), String> {
    Ok(())
}
