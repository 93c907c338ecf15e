#!/bin/sh
# Builds the issuer as target/debug/meshseal (the debug profile optimizes its dependencies too).
set -eu

cd "$(dirname "$0")/../.."
if [ -n "${CARGO_MANIFEST_DIR:-}" ]; then
    # Called by a test that cargo runs. Build with the features of the tests, which cargo has done
    # already; other features would build everything a second time.
    cargo test --quiet --workspace --no-run
else
    # Both packages are named, so that all scripts that build programs share the same dependencies.
    cargo build --quiet -p meshseal-issuer -p meshseal-tests --bin meshseal
fi
