#!/bin/sh
# cargo-deny over deny.toml: bans, licences and sources always; advisories when their database can be reached.
set -eu

tool=cargo-deny
. "$(dirname "$0")/cargo-tool.sh"
cargo deny --all-features check bans licenses sources
cargo deny --manifest-path filter/plugin/Cargo.toml --config filter/deny.toml check bans

log=$(mktemp)
trap 'rm -f "$log"' EXIT
if cargo deny fetch db >"$log" 2>&1; then
    cargo deny --all-features check --disable-fetch advisories
else
    printf 'deny: ADVISORIES NOT CHECKED: their database cannot be reached from here\n'
fi
