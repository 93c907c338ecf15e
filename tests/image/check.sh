#!/bin/sh
# check.sh           checks istio/ against the schemas of its kinds, and image layouts of made-up
#                    inputs, also with a real registry
# check.sh --built   checks the layouts of `make image` with a registry, and runs the issuer's image
#                    in an empty root directory, like a pod
set -eu

cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
PYTHONDONTWRITEBYTECODE=1
export PYTHONDONTWRITEBYTECODE

fail() {
    printf 'istio: %s\n' "$*" >&2
    exit 1
}

# have COMMAND…: returns true if all commands exist. In CI it installs the missing ones, each from
# the Debian package of the same name.
have() {
    for tool in "$@"; do
        command -v "$tool" >/dev/null 2>&1 && continue
        [ "${CI:-}" = true ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 || return 1
        mkdir -p "$target"
        {
            apt-get -o Acquire::Retries=3 update &&
                DEBIAN_FRONTEND=noninteractive apt-get -o Acquire::Retries=3 \
                    install -y --no-install-recommends "$tool"
        } >"$target/apt.log" 2>&1 ||
            fail "apt-get install $tool failed; see $target/apt.log"
    done
}

through_registry() { # through_registry [FOLDER]
    if have skopeo docker-registry; then
        python3 tests/image/registry.py "$@"
    else
        printf 'istio: NOT CHECKED: pushing images; install skopeo and docker-registry\n' >&2
    fi
}

command -v python3 >/dev/null 2>&1 || fail 'python3 is not found; install it'
if [ "${1:-}" = --built ]; then
    [ -d "$target/image/issuer" ] || fail "$target/image/issuer does not exist; run make image"
    through_registry "$target/image"
    if [ "$(id -u)" = 0 ]; then
        python3 tests/image/built.py "$target/image"
    else
        printf 'istio: NOT CHECKED: running the image; chroot needs root, so run this as root\n' >&2
    fi
else
    python3 tests/image/layouts.py
    through_registry
    tools=$(sh tests/image/checkers.sh)
    "$tools/bin/python" tests/image/manifests.py "$tools/bin/kubectl"
fi
