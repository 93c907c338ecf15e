# To be sourced: puts the cargo subcommand named by $tool on the PATH. Builds it below target/tools
# if it is not installed.
top=$(cd "$(dirname "$0")/../.." && pwd)
tools=${CARGO_TARGET_DIR:-$top/target}/tools/$tool
PATH=$PATH:$tools/bin
export PATH

if ! command -v "$tool" >/dev/null 2>&1; then
    printf '%s: not found; building it (once)\n' "$tool"
    # Little optimization, because the build would otherwise take longer than all runs of the tool.
    CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off \
        CARGO_TARGET_DIR="$tools/build" \
        cargo install --quiet --locked "$tool" --root "$tools"
    rm -rf "$tools/build"
fi
cd "$top"
