#!/bin/sh
# Runs simulated histories on every core, starting at SIM_SEED: SIM_HISTORIES of them, or as many as
# fit into SIM_SECONDS.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
cd "$top"
histories=${SIM_HISTORIES:-5000}
seed=${SIM_SEED:-1}
cores=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
target=${CARGO_TARGET_DIR:-$top/target}

# Build with the features of the tests, so that nothing is built a second time.
cargo test --quiet --workspace --no-run
limit=${SIM_SECONDS:+--seconds $SIM_SECONDS}
# With a time limit, the number of histories is unlimited.
[ -z "$limit" ] || histories=1000000000

pids=
part=0
while [ "$part" -lt "$cores" ]; do
    # shellcheck disable=SC2086
    "$target/debug/meshseal-sim" --seed $((seed + part)) --stride "$cores" \
        --histories $(((histories + cores - 1) / cores)) $limit &
    pids="$pids $!"
    part=$((part + 1))
done
status=0
for pid in $pids; do
    wait "$pid" || status=1
done
exit "$status"
