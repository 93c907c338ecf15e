//! `meshseal-postlink IN.wasm OUT.wasm`: trims the linked filter and reports the size saved.

use std::io::Write as _;
use std::process::ExitCode;

const USAGE: &str = "usage: meshseal-postlink IN.wasm OUT.wasm\n\
    Removes from IN the exports that proxies need not call, with the code that only they reach,\n\
    and writes OUT. Rejects a module that lacks a needed callback or has imports that proxy-wasm\n\
    hosts do not provide.\n";

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
    // A closed output pipe must not fail a build step that has done its work.
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
