#!/bin/sh
# make image: builds the filter and a static issuer, and lays both out as OCI images under target/image. Docker is not needed.
# The same sources, toolchain and zlib give the same digests; SOURCE_DATE_EPOCH (default 0) is the images' date.
set -eu

top=$(cd "$(dirname "$0")/../.." && pwd)
cd "$top"
target=${CARGO_TARGET_DIR:-$top/target}
cargo_home=${CARGO_HOME:-$HOME/.cargo}

fail() {
    printf 'image: %s\n' "$*" >&2
    exit 1
}

command -v python3 >/dev/null 2>&1 || fail 'python3 is not found; install it'
sh tests/scripts/toolchain.sh

# musl, not static glibc: the latter looks hosts up (PostgreSQL) through libraries that an empty image does not have.
case $(uname -s)-$(uname -m) in
Linux-x86_64) triple=x86_64-unknown-linux-musl ;;
Linux-aarch64) triple=aarch64-unknown-linux-musl ;;
*) fail "pods run Linux on amd64 or arm64, and this is $(uname -s) on $(uname -m); run make image on such a machine" ;;
esac
command -v musl-gcc >/dev/null 2>&1 ||
    fail 'musl-gcc is not found, which compiles the cryptography and SQLite for the image; install your musl-tools package (Debian: apt-get install musl-tools)'
if [ ! -d "$(rustc --print target-libdir --target "$triple")" ]; then
    command -v rustup >/dev/null 2>&1 || fail "the Rust target $triple is missing and there is no rustup to add it; install it with your system's packages"
    rustup target add "$triple" || fail "rustup could not add $triple (its message is above); try again when the network is back"
fi

sh tests/scripts/wasm.sh

# Where things lie on this machine is nobody's business and no part of the result.
lower=$(printf '%s' "$triple" | tr - _)
upper=$(printf '%s' "$lower" | tr '[:lower:]' '[:upper:]')
env "CC_$lower=musl-gcc" \
    "CFLAGS_$lower=-ffile-prefix-map=$cargo_home=/cargo -ffile-prefix-map=$target=/target" \
    "CARGO_TARGET_${upper}_RUSTFLAGS=--remap-path-prefix=$cargo_home=/cargo --remap-path-prefix=$top=/meshseal" \
    CARGO_PROFILE_RELEASE_STRIP=symbols \
    cargo build --quiet --release --target "$triple" -p meshseal-issuer --bin meshseal

version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
[ -n "$version" ] || fail 'Cargo.toml has no version under [workspace.package]'
python3 istio/image/layout.py --version "$version" --wasm "$target/meshseal.wasm" \
    --issuer "$target/$triple/release/meshseal" --out "$target/image"
