#!/bin/sh
# Runs third-party OAuth clients against the built issuer. Their versions are pinned in
# tests/clients/, and they are installed under target/. A client that cannot be installed is
# reported and skipped; with CI=true it is an error.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$top/target}
clients=$top/tests/clients
home=$target/tools/clients

missing() {
    printf 'clients: NOT RUN: %s\n' "$*" >&2
    [ "${CI:-}" != true ] || exit 1
}

node_clients() {
    command -v node >/dev/null && command -v npm >/dev/null ||
        { missing 'openid-client, oauth4webapi: install node and npm 20'; return 1; }
    if [ ! -e "$home/node/ready" ] ||
        ! cmp -s "$clients/package-lock.json" "$home/node/package-lock.json"; then
        rm -rf "$home/node"
        mkdir -p "$home/node"
        cp "$clients/package.json" "$clients/package-lock.json" "$home/node/"
        (cd "$home/node" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2) ||
            { missing 'openid-client, oauth4webapi: npm ci failed (see above)'; return 1; }
        : >"$home/node/ready"
    fi
    cp "$clients/clients.mjs" "$home/node/"
}

python_clients() {
    command -v python3 >/dev/null || { missing 'Authlib, PyJWT: install python3'; return 1; }
    if [ ! -e "$home/python/ready" ] ||
        ! cmp -s "$clients/requirements.txt" "$home/python/ready"; then
        rm -rf "$home/python"
        mkdir -p "$home"
        python3 -m venv "$home/python" >&2 ||
            { missing 'Authlib, PyJWT: install venv (Debian: python3-venv)'; return 1; }
        "$home/python/bin/python" -m pip --disable-pip-version-check --quiet install \
            --only-binary=:all: --no-deps --require-hashes -r "$clients/requirements.txt" >&2 ||
            { missing 'Authlib, PyJWT: pip failed (its message is above)'; return 1; }
        cp "$clients/requirements.txt" "$home/python/ready"
    fi
}

sh "$here/issuer.sh"
work=$(mktemp -d)
cp "$clients/issuer.yaml" "$work/"
(cd "$work" && exec "$target/debug/meshseal" serve --config issuer.yaml >out 2>log) &
server=$!
trap 'kill $server 2>/dev/null; wait $server 2>/dev/null || true; rm -rf "$work"' EXIT
for _ in $(seq 100); do
    issuer=$(sed -n 's/^listening on //p' "$work/out" 2>/dev/null || true)
    [ -z "$issuer" ] || break
    kill -0 $server 2>/dev/null || { cat "$work/log" >&2; exit 1; }
    sleep 0.1
done
[ -n "$issuer" ] ||
    { printf 'clients: the issuer is not listening after 10 seconds\n' >&2; exit 1; }

! node_clients || node "$home/node/clients.mjs" "$issuer" "$clients/signer.jwk.json"
! python_clients ||
    "$home/python/bin/python" "$clients/clients.py" "$issuer" "$clients/signer.jwk.json"
if command -v java >/dev/null; then
    java "$clients/Clients.java" "$issuer"
else
    missing 'java.net.http.HttpClient: a JDK, 11 or newer, is needed'
fi
