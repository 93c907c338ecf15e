#!/bin/sh
# Counts the instructions of the hot path (filter/core/benches/instructions.rs).
set -eu

cd "$(dirname "$0")/../.."
command -v valgrind >/dev/null 2>&1 || {
    printf 'bench-count: NOT COUNTED: install valgrind with your package manager\n' >&2
    exit 1
}
exec cargo bench --quiet -p meshseal-core --bench instructions
