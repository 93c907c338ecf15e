//! Paths in the source tree and the build output.

use std::path::{Path, PathBuf};

/// The repository's root.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Cargo's target directory.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The module that Envoy loads, built by [`crate::build::wasm`].
pub fn wasm() -> PathBuf {
    target().join("meshseal.wasm")
}

/// The shipped Envoy configurations.
pub fn envoy_config() -> PathBuf {
    root().join("envoy-config")
}
