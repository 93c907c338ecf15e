#!/bin/sh
# Checks the Rust toolchain and installs missing wasm targets. Quick and silent if all are present.
set -eu

fail() {
    printf 'toolchain: %s\n' "$*" >&2
    exit 1
}

command -v cargo >/dev/null 2>&1 || fail 'cargo is not found; install rustup and open a new shell'
for target in wasm32-wasip1 wasm32-unknown-unknown; do
    [ -d "$(rustc --print target-libdir --target "$target")" ] && continue
    command -v rustup >/dev/null 2>&1 ||
        fail "the Rust target $target and rustup are missing; install one with your package manager"
    rustup target add "$target" ||
        fail "rustup could not add $target (its message is above); check the network and try again"
done
