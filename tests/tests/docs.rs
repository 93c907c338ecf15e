//! Checks that the targets of links and names in the documents exist.

#![expect(
    clippy::expect_used,
    reason = "helpers of tests: a surprise must stop the test"
)]

use std::fs;
use std::path::{Path, PathBuf};

use meshseal_tests::paths;

/// Collects the Markdown files of the repository, except those that were built or fetched.
fn documents(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() && !name.starts_with('.') && name != "target" && name != "node_modules" {
            documents(&path, found);
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
}

/// Returns the targets of `[text](target)` without web addresses and without the part after `#`.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target);
    targets
        .filter(|target| !target.contains("://") && !target.starts_with('#'))
        .map(|target| target.split_once('#').map_or(target, |(file, _)| file))
}

#[test]
fn every_link_target_exists() {
    let mut files = Vec::new();
    documents(&paths::root(), &mut files);
    assert!(files.len() > 10, "{files:?}");
    let mut missing = Vec::new();
    for file in &files {
        let text = fs::read_to_string(file).expect("a text");
        let folder = file.parent().expect("a folder");
        missing.extend(
            links(&text)
                .filter(|target| !folder.join(target).exists())
                .map(|target| format!("{}: {target}", file.display())),
        );
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// The tables of docs/validation-rules.md name the tests that prove each rule; `…` stands for the
/// rest of a name.
#[test]
fn every_test_named_in_rules_exists() {
    let rules = rules();
    let sources: String = sources()
        .iter()
        .map(|file| fs::read_to_string(file).expect("a source"))
        .collect();
    let proofs = rules
        .lines()
        .filter_map(|line| line.strip_suffix(" |")?.rsplit_once('|'))
        .map(|(_, proof)| proof);
    let quoted = proofs.flat_map(|proof| proof.split('`').skip(1).step_by(2));
    let names = quoted
        .filter_map(|word| word.rsplit("::").next())
        .filter(|word| word.contains('_') && !word.contains(['.', '/', ' ']));
    let mut missing: Vec<_> = names.collect();
    assert!(missing.len() > 60, "{missing:?}");
    missing.retain(|name| match name.strip_suffix('…') {
        Some(start) => !sources.contains(&format!("fn {start}")),
        None => {
            // A case of `tests/tests/requests` has the form `name: …`.
            !sources.contains(&format!("fn {name}(")) && !sources.contains(&format!("{name}:"))
        }
    });
    assert!(missing.is_empty(), "{missing:#?}");
}

/// The tables also name files: `keys/signer.rs::open` stands for a file `keys/signer.rs` in any
/// folder.
#[test]
fn every_source_named_in_rules_exists() {
    let (rules, files) = (rules(), sources());
    let quoted = rules
        .lines()
        .filter(|line| line.starts_with('|'))
        .flat_map(|line| line.split('`').skip(1).step_by(2));
    let named: Vec<&Path> = quoted
        .filter_map(|word| word.split("::").next())
        .filter(|word| word.ends_with(".rs") && !word.contains(['*', ' ']))
        .map(Path::new)
        .collect();
    assert!(named.len() > 60, "{named:?}");
    let missing: Vec<_> = named
        .iter()
        .filter(|name| !files.iter().any(|file| file.ends_with(name)))
        .collect();
    assert!(missing.is_empty(), "{missing:#?}");
}

fn rules() -> String {
    fs::read_to_string(paths::root().join("docs/validation-rules.md")).expect("the rules")
}

fn sources() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for folder in ["filter", "issuer", "tests"] {
        source_files(&paths::root().join(folder), &mut files);
    }
    files
}

fn source_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() && name != "target" && name != "node_modules" {
            source_files(&path, files);
        } else if name.ends_with(".rs") {
            files.push(path);
        }
    }
}
