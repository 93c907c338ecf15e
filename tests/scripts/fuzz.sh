#!/bin/sh
# Runs each fuzz target of filter/fuzz for FUZZ_SECONDS (default 20).
set -eu

cd "$(dirname "$0")/../.."
command -v cargo-fuzz >/dev/null 2>&1 || {
    printf 'fuzz: cargo-fuzz is not found; install it with: cargo install --locked cargo-fuzz\n' >&2
    exit 1
}
for target in $(cargo fuzz list --fuzz-dir filter/fuzz); do
    # libFuzzer works with the stable compiler when no sanitizer is asked for.
    cargo fuzz run --fuzz-dir filter/fuzz --sanitizer none "$target" -- -max_total_time="${FUZZ_SECONDS:-20}"
done
