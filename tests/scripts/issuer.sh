#!/bin/sh
# Builds the issuer as target/debug/meshseal (its dependencies are optimised in that profile too).
set -eu

cd "$(dirname "$0")/../.."
if [ -n "${CARGO_MANIFEST_DIR:-}" ]; then
    # Asked for by a test that cargo runs: what cargo has built for the tests is it. Without the features of the tests' own
    # dependencies, everything would be built a second time.
    cargo test --quiet --workspace --no-run
else
    # Both packages are named so that everything that builds programs shares one set of dependencies.
    cargo build --quiet -p meshseal-issuer -p meshseal-tests --bin meshseal
fi
