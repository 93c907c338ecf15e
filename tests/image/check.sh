#!/bin/sh
# check.sh           istio/ against its kinds' schemas; image layouts of made-up inputs, also through a real registry.
# check.sh --built   what `make image` laid out: through the registry, and run in an empty root as a pod would run it.
set -eu

cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
PYTHONDONTWRITEBYTECODE=1
export PYTHONDONTWRITEBYTECODE

fail() {
    printf 'istio: %s\n' "$*" >&2
    exit 1
}

# have COMMAND…: all are there. CI installs what is not; each is in the Debian package of its name. People are told.
have() {
    for tool in "$@"; do
        command -v "$tool" >/dev/null 2>&1 && continue
        [ "${CI:-}" = true ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 || return 1
        mkdir -p "$target"
        { apt-get -o Acquire::Retries=3 update && DEBIAN_FRONTEND=noninteractive apt-get -o Acquire::Retries=3 install -y --no-install-recommends "$tool"; } >"$target/apt.log" 2>&1 ||
            fail "apt-get install $tool failed; see $target/apt.log"
    done
}

through_registry() { # through_registry [FOLDER]
    if have skopeo docker-registry; then
        python3 tests/image/registry.py "$@"
    else
        printf 'istio: NOT CHECKED: pushing and pulling images; for that, apt-get install skopeo docker-registry\n' >&2
    fi
}

command -v python3 >/dev/null 2>&1 || fail 'python3 is not found; install it'
if [ "${1:-}" = --built ]; then
    [ -d "$target/image/issuer" ] || fail 'there are no images; run make image'
    through_registry "$target/image"
    if [ "$(id -u)" = 0 ]; then
        python3 tests/image/built.py "$target/image"
    else
        printf 'istio: NOT CHECKED: running the image; chroot is for root, so run this as root\n' >&2
    fi
else
    python3 tests/image/layouts.py
    through_registry
    tools=$(sh tests/image/checkers.sh)
    "$tools/bin/python" tests/image/manifests.py "$tools/bin/kubectl"
fi
