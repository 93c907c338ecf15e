//! Checks the direction of imports: a module uses only modules before it in the list of its crate
//! (docs/architecture.md).

#![expect(
    clippy::expect_used,
    reason = "helpers of tests: a surprise must stop the test"
)]

use std::fs;
use std::path::{Path, PathBuf};

use meshseal_tests::paths;

/// Modules of the core. Each one comes after the modules that it may use.
const CORE: &[&str] = &[
    "limits",
    "bytes",
    "base64url",
    "inline",
    "json",
    "rejection",
    "jose",
    "matcher",
    "crypto",
    "der",
    "pem",
    "keys",
    "revocation",
    "bundle",
    "authn",
    "authz",
    "policy",
    "decide",
    "config",
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        if path.is_dir() && !name.ends_with("_tests") {
            sources(&path, found);
        } else if path.extension().is_some_and(|is| is == "rs") && !name.ends_with("tests") {
            found.push(path);
        }
    }
}

/// Returns the code before the unit tests, without comments.
fn product_code(text: &str) -> String {
    let tests = text.find("#[cfg(test)]").unwrap_or(text.len());
    let code = text.get(..tests).unwrap_or_default();
    let lines = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Returns the first segments of all paths that begin with `crate::`, those in braces included.
fn used_modules(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for path in code.split("crate::").skip(1) {
        let Some(group) = path.strip_prefix('{') else {
            found.push(first_segment(path));
            continue;
        };
        let mut depth = 0_u32;
        let mut begins = true;
        for (at, char) in group.char_indices() {
            match char {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' => begins = depth == 0,
                _ if char.is_whitespace() => {}
                _ if begins && depth == 0 => {
                    found.push(first_segment(group.get(at..).unwrap_or_default()));
                    begins = false;
                }
                _ => {}
            }
        }
    }
    found
}

fn first_segment(path: &str) -> String {
    let end = path.find(|char: char| !char.is_alphanumeric() && char != '_');
    path.get(..end.unwrap_or(path.len()))
        .unwrap_or_default()
        .to_owned()
}

/// Returns every use of a module that does not come before the using module in the list.
fn against(order: &[&str], root: &Path) -> Vec<String> {
    let mut files = Vec::new();
    sources(root, &mut files);
    assert!(files.len() > order.len(), "{files:?}");
    let mut wrong = Vec::new();
    for file in files {
        let inside = file.strip_prefix(root).expect("a file below the root");
        let first = inside.iter().next().unwrap_or_default().to_string_lossy();
        let home = first.trim_end_matches(".rs");
        if matches!(home, "lib" | "main" | "testing") {
            continue;
        }
        let rank = |module: &str| order.iter().position(|known| *known == module);
        let own = rank(home);
        if own.is_none() {
            wrong.push(format!("{}: not in the list", inside.display()));
        }
        let text = fs::read_to_string(&file).expect("a text");
        for used in used_modules(&product_code(&text)) {
            if used != home && rank(&used).is_none_or(|used| own.is_none_or(|own| used >= own)) {
                wrong.push(format!("{}: uses {used}", inside.display()));
            }
        }
    }
    wrong
}

#[test]
fn imports_go_in_one_direction() {
    let wrong = against(CORE, &paths::root().join("filter/core/src"));
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn finds_each_form_of_import() {
    let code = "use crate::{a, b::{c, d}, e::f};\nfn g() { crate::h::i(); }";
    assert_eq!(used_modules(code), ["a", "b", "e", "h"]);
}
