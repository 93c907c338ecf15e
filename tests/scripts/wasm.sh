#!/bin/sh
# Builds the filter as target/meshseal.wasm: compiled in the wasm profile, then trimmed to the exports that it needs.
set -eu

top=$(cd "$(dirname "$0")/../.." && pwd)
cd "$top"
target=${CARGO_TARGET_DIR:-$top/target}
# Panic messages name source files: as seen from the tree, so that the module is the same wherever it is built.
remap="--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo$(printf '\037')--remap-path-prefix=$top=/meshseal"
# A quarter of LLVM's usual threshold: 60 KB smaller and no slower, neither for new tokens nor for repeated ones.
small=$(printf '\037')-Cllvm-args=--inline-threshold=60
CARGO_ENCODED_RUSTFLAGS="$remap$small" cargo build --quiet --profile wasm --target wasm32-wasip1 -p meshseal-filter
cargo run --quiet -p meshseal-postlink -- "$target/wasm32-wasip1/wasm/meshseal_filter.wasm" "$target/meshseal.wasm"
