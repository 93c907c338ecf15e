#!/bin/sh
# Builds the filter as target/meshseal.wasm: compiles it in the wasm profile and removes the exports
# that it does not need.
set -eu

top=$(cd "$(dirname "$0")/../.." && pwd)
cd "$top"
target=${CARGO_TARGET_DIR:-$top/target}
# Panic messages contain paths of source files. Remap them, so that the module is the same wherever
# it is built.
separator=$(printf '\037')
cargo_home="--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
tree="--remap-path-prefix=$top=/meshseal"
# A quarter of LLVM's default threshold: 60 KB smaller, and no slower for new or repeated tokens.
small=-Cllvm-args=--inline-threshold=60
CARGO_ENCODED_RUSTFLAGS="$cargo_home$separator$tree$separator$small" \
    cargo build --quiet --profile wasm --target wasm32-wasip1 -p meshseal-filter
cargo run --quiet -p meshseal-postlink -- \
    "$target/wasm32-wasip1/wasm/meshseal_filter.wasm" "$target/meshseal.wasm"
