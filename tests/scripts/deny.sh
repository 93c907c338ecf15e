#!/bin/sh
# cargo-deny over deny.toml: bans, licences and sources always; advisories when their database can be reached.
set -eu

top=$(cd "$(dirname "$0")/../.." && pwd)
cd "$top"
tools=${CARGO_TARGET_DIR:-$top/target}/tools/cargo-deny
PATH=$PATH:$tools/bin
export PATH

if ! command -v cargo-deny >/dev/null 2>&1; then
    printf 'deny: building cargo-deny (once)\n'
    CARGO_TARGET_DIR="$tools/build" cargo install --quiet --locked cargo-deny --root "$tools"
    rm -rf "$tools/build"
fi
cargo deny --all-features check bans licenses sources
cargo deny --manifest-path filter/plugin/Cargo.toml --config filter/deny.toml check bans

log=$(mktemp)
trap 'rm -f "$log"' EXIT
if cargo deny fetch db >"$log" 2>&1; then
    cargo deny --all-features check --disable-fetch advisories
else
    printf 'deny: ADVISORIES NOT CHECKED: their database cannot be reached from here\n'
fi
