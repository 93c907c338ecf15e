#!/bin/sh
# bench.sh PART…: builds what the parts of the bench measure (filter, issuer, core), measures, and refreshes their blocks in
# docs/performance.md. BENCH_QUICK=1 is for those who work on the bench: rough figures, nothing is kept.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
# Ten thousand connections are open at a time, in the client and in the issuer.
ulimit -n 20000 2>/dev/null || ulimit -n "$(ulimit -Hn)"
target=${CARGO_TARGET_DIR:-$PWD/target}

printf '==> building (a few minutes the first time)\n'
cargo build --quiet --release -p meshseal-issuer -p meshseal-tests --bins
for part in "$@"; do
    case $part in
    core) cargo bench --quiet -p meshseal-core --bench core -- --noplot --quiet ${BENCH_QUICK:+--quick} ;;
    filter) sh "$here/wasm.sh" ;;
    issuer) sh "$here/oidc-provider.sh" ;;
    esac
    "$target/release/meshseal-bench" ${BENCH_QUICK:+--quick} "$part"
done
