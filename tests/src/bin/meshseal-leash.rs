//! `meshseal-leash PARENT PROGRAM [ARGUMENT…]`: runs PROGRAM in its own place, after it has asked
//! the kernel to kill the process when process PARENT ends.
//!
//! So a killed test run or runner leaves no Envoy behind. On systems other than Linux it only runs
//! PROGRAM.

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
    // A closed standard error cannot be reported anywhere.
    drop(writeln!(std::io::stderr(), "meshseal-leash: {message}"));
    ExitCode::from(127)
}

/// Asks the kernel to kill this process when its parent ends.
#[cfg(target_os = "linux")]
fn tie_to(parent: &str) -> Result<(), String> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| format!("cannot set the parent-death signal: {error}"))?;
    // The parent may have died before the signal was set.
    match getppid() {
        Some(pid) if pid.as_raw_nonzero().to_string() == parent => Ok(()),
        _ => Err(format!("parent process {parent} has ended")),
    }
}

#[cfg(not(target_os = "linux"))]
fn tie_to(_parent: &str) -> Result<(), String> {
    Ok(())
}
