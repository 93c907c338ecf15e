#!/bin/sh
# Runs each fuzz target of filter/fuzz for FUZZ_SECONDS (default 20), beginning with filter/fuzz/seeds.
set -eu

tool=cargo-fuzz
. "$(dirname "$0")/cargo-tool.sh"
for target in $(cargo fuzz list --fuzz-dir filter/fuzz); do
    # What the fuzzer finds is kept beside the seeds, never among them.
    corpus=filter/fuzz/corpus/$target
    seeds=filter/fuzz/seeds/$target
    mkdir -p "$corpus"
    [ -d "$seeds" ] || seeds=
    # libFuzzer works with the stable compiler when no sanitizer is asked for.
    cargo fuzz run --fuzz-dir filter/fuzz --sanitizer none "$target" "$corpus" $seeds -- -max_total_time="${FUZZ_SECONDS:-20}" -print_final_stats=1
done
