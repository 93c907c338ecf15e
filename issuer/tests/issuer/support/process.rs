//! The `meshseal` binary.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

pub(crate) fn meshseal(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshseal"));
    command
        .current_dir(folder)
        .env_remove("MESHSEAL_MASTER_KEY")
        .env_remove("MESHSEAL_CLIENT_SECRET")
        .env_remove("RUST_LOG");
    command
}

/// Runs a command to its end.
pub(crate) fn run(folder: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = meshseal(folder)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that reads no input may have ended already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Returns the JSON documents of standard output, one a line.
pub(crate) fn lines(output: &Output) -> Vec<Value> {
    text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

pub(crate) fn write(folder: &Path, name: &str, content: impl ToString) {
    std::fs::write(folder.join(name), content.to_string()).unwrap();
}

/// A running `meshseal serve`.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
    /// Address of the administration listener.
    pub(crate) admin: String,
}

impl Server {
    pub(crate) fn start(folder: &Path, arguments: &[&str]) -> Self {
        let mut child = meshseal(folder)
            .arg("serve")
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut address = |before: &str| {
            let mut line = String::new();
            said.read_line(&mut line).unwrap();
            line.trim()
                .strip_prefix(before)
                .map(str::to_owned)
                .ok_or(line)
        };
        match (
            address("listening on http://"),
            address("administration on http://"),
        ) {
            (Ok(address), Ok(admin)) => Self {
                address,
                admin,
                child,
            },
            other => {
                let mut log = String::new();
                child
                    .stderr
                    .take()
                    .unwrap()
                    .read_to_string(&mut log)
                    .unwrap();
                panic!("{other:?} {log}");
            }
        }
    }

    /// Runs a command as a client with its secret. Returns the exit status, standard output and
    /// standard error.
    pub(crate) fn ask(
        &self,
        folder: &Path,
        client: &str,
        arguments: &[&str],
        input: &str,
    ) -> (Option<i32>, String, String) {
        let mut child = meshseal(folder);
        child.args(arguments).args(["--client-id", client]);
        child.env("MESHSEAL_URL", format!("http://{}", self.address));
        child.env("MESHSEAL_ADMIN_URL", format!("http://{}", self.admin));
        child.env("MESHSEAL_CLIENT_SECRET", super::secret(client));
        let mut child = child
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        (
            output.status.code(),
            text(&output.stdout).trim().to_owned(),
            text(&output.stderr).to_owned(),
        )
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// Waits for the server to end. Returns its exit code and its log.
    pub(crate) fn wait(mut self) -> (Option<i32>, String) {
        let mut log = String::new();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut log)
            .unwrap();
        (self.child.wait().unwrap().code(), log)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
