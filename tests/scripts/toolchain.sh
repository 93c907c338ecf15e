#!/bin/sh
# Makes sure that the Rust toolchain and the wasm targets are there. Quick and silent when they are.
set -eu

fail() {
    printf 'toolchain: %s\n' "$*" >&2
    exit 1
}

command -v cargo >/dev/null 2>&1 || fail 'cargo is not found; install rustup and open a new shell'
for target in wasm32-wasip1 wasm32-unknown-unknown; do
    [ -d "$(rustc --print target-libdir --target "$target")" ] && continue
    command -v rustup >/dev/null 2>&1 || fail "the Rust target $target is missing and there is no rustup to add it; install it with your system's packages"
    rustup target add "$target" || fail "rustup could not add $target (its message is above); try again when the network is back"
done
