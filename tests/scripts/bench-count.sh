#!/bin/sh
# Counts the instructions of the hot path (filter/core/benches/instructions.rs).
set -eu

cd "$(dirname "$0")/../.."
command -v valgrind >/dev/null 2>&1 || {
    printf 'bench-count: NOT COUNTED: valgrind is not here; install it with your system'\''s packages\n' >&2
    exit 1
}
exec cargo bench --quiet -p meshseal-core --bench instructions
