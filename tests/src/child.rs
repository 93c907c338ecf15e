//! Child processes that never outlive the process that started them.
//!
//! Three mechanisms ensure this. [`Child`] kills its process when dropped. The runner turns Ctrl-C
//! into an orderly shutdown. On Linux every child starts through `meshseal-leash`, which makes the
//! kernel kill the child if this process dies unexpectedly.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child as Process, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::wait::until;

/// A program to start.
#[derive(Clone, Debug)]
pub struct Program {
    /// Short name for messages.
    pub name: String,
    /// The executable.
    pub path: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Environment variables added to this process's own.
    pub env: Vec<(OsString, OsString)>,
    /// The working directory.
    pub dir: PathBuf,
    /// The file for standard output and standard error. It is appended to, so that a restart keeps
    /// the earlier log.
    pub log: PathBuf,
}

/// A running program. It is killed and reaped when dropped.
#[derive(Debug)]
pub struct Child {
    name: String,
    log: PathBuf,
    process: Process,
}

impl Child {
    /// Starts the program.
    ///
    /// # Errors
    /// Fails if the log cannot be opened, `meshseal-leash` is not built or the program cannot be
    /// started.
    pub fn start(program: &Program) -> Result<Self> {
        if let Some(parent) = program.log.parent() {
            fs::create_dir_all(parent)
                .with_context(|| format!("cannot make {}", parent.display()))?;
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(&program.log)
            .with_context(|| format!("cannot write {}", program.log.display()))?;
        let mut command = Command::new(leash()?);
        command
            .arg(std::process::id().to_string())
            .arg(&program.path)
            .args(&program.args)
            .envs(program.env.iter().cloned())
            .current_dir(&program.dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let process =
            spawn_from_keeper(command).with_context(|| format!("cannot start {}", program.name))?;
        Ok(Self {
            name: program.name.clone(),
            log: program.log.clone(),
            process,
        })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The exit status, if the program has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().ok().flatten()
    }

    /// Checks that the program runs, so that waiting for its readiness can stop early.
    ///
    /// # Errors
    /// Fails if the program has ended; the message contains the end of its log.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.ended() {
            None => Ok(()),
            Some(status) => {
                bail!(
                    "{} ended ({status}); the end of {}:\n{}",
                    self.name,
                    self.log.display(),
                    self.log_tail()
                )
            }
        }
    }

    /// Returns the last lines of the log.
    pub fn log_tail(&self) -> String {
        let text = fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(25);
        lines
            .iter()
            .skip(from)
            .map(|line| format!("  {line}\n"))
            .collect()
    }

    /// Kills the program at once, as a crash would.
    pub fn kill(&mut self) {
        // Both fail only if the program has ended already.
        drop(self.process.kill());
        drop(self.process.wait());
    }

    /// Asks the program to end, and kills it if it has not ended within five seconds.
    pub async fn stop(&mut self) {
        terminate(self.process.id());
        let ended = until("the program to end", Duration::from_secs(5), || {
            std::future::ready(self.process.try_wait().ok().flatten())
        })
        .await;
        if ended.is_err() {
            self.kill();
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(target_os = "linux")]
fn terminate(pid: u32) {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

#[cfg(not(target_os = "linux"))]
fn terminate(pid: u32) {
    drop(Command::new("kill").arg(pid.to_string()).status());
}

/// Returns the path of `meshseal-leash`: beside the runner, or one folder above a test executable.
fn leash() -> Result<PathBuf> {
    let me = std::env::current_exe().context("cannot tell the path of this executable")?;
    me.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(format!("meshseal-leash{}", std::env::consts::EXE_SUFFIX)))
        .find(|path| Path::is_file(path))
        .context("meshseal-leash is not built; run: cargo build -p meshseal-tests")
}

type Order = (Command, Sender<std::io::Result<Process>>);

/// Starts the process from a thread that lives as long as this process. The kernel ties a leashed
/// child to the *thread* that started it, and the thread of a test ends with the test.
fn spawn_from_keeper(command: Command) -> Result<Process> {
    static KEEPER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let keeper = KEEPER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in inbox {
                drop(answer.send(command.spawn()));
            }
        });
        Mutex::new(orders)
    });
    let (answer, result) = channel();
    keeper
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, answer))
        .map_err(|_| anyhow::anyhow!("the thread that starts processes is gone"))?;
    Ok(result.recv()??)
}
