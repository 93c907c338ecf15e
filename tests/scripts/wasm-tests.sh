#!/bin/sh
# Runs the core's tests as WebAssembly under Node. With --check it only checks that Node is present.
# The runner must have the same version as wasm-bindgen in Cargo.lock.
set -eu

top=$(cd "$(dirname "$0")/../.." && pwd)
cd "$top"

fail() {
    printf 'wasm tests: %s\n' "$*" >&2
    exit 1
}

command -v node >/dev/null 2>&1 || fail 'node is not found; install Node.js 18 or newer'
[ "${1:-}" != --check ] || exit 0
version=$(awk '/^name = "wasm-bindgen"$/ { getline; gsub(/[^0-9.]/, ""); print; exit }' Cargo.lock)
[ -n "$version" ] ||
    fail 'Cargo.lock has no wasm-bindgen; add wasm-bindgen-test to filter/core (dev-dependencies)'
tools=${CARGO_TARGET_DIR:-$top/target}/tools/wasm-bindgen-$version
runner=$tools/bin/wasm-bindgen-test-runner
installed=$(command -v wasm-bindgen-test-runner || true)
if [ -n "$installed" ] && [ "$("$installed" --version | awk '{ print $2 }')" = "$version" ]; then
    runner=$installed
elif [ ! -x "$runner" ]; then
    printf 'wasm tests: building wasm-bindgen-cli %s (once)\n' "$version"
    # A separate target directory, because other builds would wait for the lock of the workspace's.
    # Little optimization, because the build would otherwise take longer than all runs.
    CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off \
        CARGO_TARGET_DIR="$tools/build" \
        cargo install --quiet wasm-bindgen-cli --version "$version" --root "$tools" ||
        fail "cargo install wasm-bindgen-cli $version failed (its message is above)"
    rm -rf "$tools/build"
fi
CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER="$runner" \
    exec cargo test -p meshseal-core --target wasm32-unknown-unknown --tests "$@"
