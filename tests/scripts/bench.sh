#!/bin/sh
# bench.sh PART…: builds and runs parts of the bench (filter, issuer, core) and replaces their
# blocks in docs/performance.md. BENCH_QUICK=1 gives rough figures and does not change that file.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
# Client and issuer each have ten thousand connections open at a time.
ulimit -n 20000 2>/dev/null || ulimit -n "$(ulimit -Hn)"
target=${CARGO_TARGET_DIR:-$PWD/target}

printf '==> building (a few minutes the first time)\n'
cargo build --quiet --release -p meshseal-issuer -p meshseal-tests --bins
for part in "$@"; do
    case $part in
    core)
        cargo bench --quiet -p meshseal-core --bench core -- \
            --noplot --quiet ${BENCH_QUICK:+--quick}
        ;;
    filter) sh "$here/wasm.sh" ;;
    issuer) sh "$here/oidc-provider.sh" ;;
    esac
    "$target/release/meshseal-bench" ${BENCH_QUICK:+--quick} "$part"
done
