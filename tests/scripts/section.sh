#!/bin/sh
# section.sh TITLE COMMAND…: runs the command under a heading and prints its duration.
set -eu

title=$1
shift
printf '\n==== %s\n' "$title"
start=$(date +%s)
if "$@"; then
    printf -- '---- %s: passed in %s s\n' "$title" "$(($(date +%s) - start))"
else
    code=$?
    printf -- '---- %s: FAILED after %s s\n' "$title" "$(($(date +%s) - start))" >&2
    exit "$code"
fi
