#!/bin/sh
# Builds the module and the bench, runs it, and refreshes docs/performance.md. On a quiet machine it takes about two minutes.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
printf '==> building (a few minutes the first time)\n'
sh "$here/wasm.sh"
cargo build --quiet --release -p meshseal-tests --bins
exec "${CARGO_TARGET_DIR:-target}/release/meshseal-bench"
