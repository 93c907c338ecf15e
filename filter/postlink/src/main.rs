//! `meshseal-postlink IN.wasm OUT.wasm`: trims the linked filter and says what that saved.

use std::io::Write as _;
use std::process::ExitCode;

const USAGE: &str = "usage: meshseal-postlink IN.wasm OUT.wasm\n\
    Removes from IN the exports that a proxy need not call, and all that only they reach, and writes OUT.\n\
    Refuses a module that lacks a needed callback or imports what proxy-wasm hosts do not offer.\n";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (text, code) = match arguments.as_slice() {
        [help] if help == "--help" || help == "-h" => (USAGE.to_owned(), 0),
        [source, target] => match run(source, target) {
            Ok(line) => (line, 0),
            Err(error) => (format!("meshseal-postlink: {error}\n"), 1),
        },
        _ => (USAGE.to_owned(), 2),
    };
    // A closed pipe is no reason to fail a build step that has done its work.
    let _ = if code == 0 {
        std::io::stdout().write_all(text.as_bytes())
    } else {
        std::io::stderr().write_all(text.as_bytes())
    };
    ExitCode::from(code)
}

fn run(source: &str, target: &str) -> Result<String, String> {
    let linked = std::fs::read(source).map_err(|error| format!("{source}: {error}"))?;
    let trimmed = meshseal_postlink::trim(&linked).map_err(|error| format!("{source}: {error}"))?;
    std::fs::write(target, &trimmed).map_err(|error| format!("{target}: {error}"))?;
    Ok(format!(
        "{target}: {} bytes (linked: {} bytes)\n",
        trimmed.len(),
        linked.len()
    ))
}
