#!/bin/sh
# Installs the peer of the issuer bench, pinned in tests/bench/, under target/bench/oidc-provider.
# Without npm or network it reports that, and the bench runs without the peer.
set -eu

top=$(cd "$(dirname "$0")/../.." && pwd)
home=${CARGO_TARGET_DIR:-$top/target}/bench/oidc-provider

missing() {
    printf 'oidc-provider: NOT INSTALLED: %s\n' "$*" >&2
    rm -f "$home/node"
    exit 0
}

mkdir -p "$home"
cp "$top/tests/bench/oidc-provider.mjs" "$home/"
if [ -e "$home/node" ] &&
    cmp -s "$top/tests/bench/package-lock.json" "$home/package-lock.json"; then
    exit 0
fi
rm -f "$home/node"
command -v npm >/dev/null 2>&1 || missing 'npm is not found; install Node.js for the comparison'
cp "$top/tests/bench/package.json" "$top/tests/bench/package-lock.json" "$home/"
(cd "$home" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2) ||
    missing 'npm ci failed (its message is above)'
for node in "$home"/node_modules/node-linux-*/bin/node; do
    [ -x "$node" ] && ln -sf "$node" "$home/node"
done
[ -e "$home/node" ] || missing 'npm has no Node 22 for this machine'
