#!/bin/sh
# Builds the issuer as target/debug/meshseal (its dependencies are optimised in that profile too). Both packages are named so that
# everything that builds programs shares one set of dependencies.
set -eu

cd "$(dirname "$0")/../.."
cargo build --quiet -p meshseal-issuer -p meshseal-tests --bin meshseal
