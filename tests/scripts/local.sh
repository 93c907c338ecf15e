#!/bin/sh
# local.sh run|demo: installs missing tools, builds, and starts all parts on this machine.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
printf '==> looking for the Rust toolchain and Envoy\n'
sh "$here/toolchain.sh"
sh "$here/envoy.sh" >/dev/null
printf '==> building the programs (a few minutes the first time)\n'
cargo build --quiet -p meshseal-issuer -p meshseal-tests --bins
exec "${CARGO_TARGET_DIR:-target}/debug/meshseal-local" "$@"
