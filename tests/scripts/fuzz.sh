#!/bin/sh
# Runs each fuzz target of filter/fuzz for FUZZ_SECONDS (default 20), starting with the seeds in
# filter/fuzz/seeds.
set -eu

tool=cargo-fuzz
. "$(dirname "$0")/cargo-tool.sh"
for target in $(cargo fuzz list --fuzz-dir filter/fuzz); do
    # The fuzzer writes its findings to a corpus of its own, so that the seeds stay unchanged.
    corpus=filter/fuzz/corpus/$target
    seeds=filter/fuzz/seeds/$target
    mkdir -p "$corpus"
    [ -d "$seeds" ] || seeds=
    # libFuzzer works with the stable compiler if no sanitizer is used.
    cargo fuzz run --fuzz-dir filter/fuzz --sanitizer none "$target" "$corpus" $seeds -- \
        -max_total_time="${FUZZ_SECONDS:-20}" -print_final_stats=1
done
