#!/bin/sh
# Builds the filter as target/meshseal.wasm: compiled in the wasm profile, then trimmed to the exports that it needs.
set -eu

top=$(cd "$(dirname "$0")/../.." && pwd)
cd "$top"
target=${CARGO_TARGET_DIR:-$top/target}
cargo build --quiet --profile wasm --target wasm32-wasip1 -p meshseal-filter
cargo run --quiet -p meshseal-postlink -- "$target/wasm32-wasip1/wasm/meshseal_filter.wasm" "$target/meshseal.wasm"
