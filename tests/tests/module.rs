//! Imports and exports of the built module.

use std::collections::BTreeSet;

use anyhow::Result;
use meshseal_postlink::{EXPORTS, IMPORTS};
use meshseal_tests::build;
use walrus::Module;

fn module() -> Result<Module> {
    Module::from_file(build::wasm()?)
}

#[test]
fn imports_only_functions_of_every_host() -> Result<()> {
    let module = module()?;
    let allowed: BTreeSet<(&str, &str)> = IMPORTS.iter().copied().collect();
    let found: BTreeSet<(&str, &str)> = module
        .imports
        .iter()
        .map(|import| (import.module.as_str(), import.name.as_str()))
        .collect();
    let strange: Vec<_> = found.difference(&allowed).collect();
    assert!(
        strange.is_empty(),
        "a host without these could not load the module: {strange:?}"
    );
    assert!(
        IMPORTS
            .iter()
            .all(|(module, _)| ["env", "wasi_snapshot_preview1"].contains(module)),
        "only proxy-wasm and WASI"
    );
    Ok(())
}

#[test]
fn exports_only_the_callbacks_it_needs() -> Result<()> {
    let module = module()?;
    let needed: BTreeSet<&str> = EXPORTS.iter().copied().collect();
    let found: BTreeSet<&str> = module
        .exports
        .iter()
        .map(|export| export.name.as_str())
        .collect();
    assert_eq!(
        found, needed,
        "Envoy calls every exported callback, which costs each request time"
    );
    for expensive in [
        "proxy_on_response_headers",
        "proxy_on_request_body",
        "proxy_on_log",
        "proxy_on_done",
        "proxy_on_delete",
    ] {
        assert!(!found.contains(expensive), "{expensive}");
    }
    Ok(())
}
