#!/usr/bin/env bash
# Packs a bag for a machine that has a GPU and nothing else: release binaries without symbols, the Vulkan loader, run.sh.
# Usage: benches/bag/pack.sh [FOLDER], by default .bag in the repository. The bag needs glibc as new as this machine's.
set -euo pipefail
cd "$(dirname "$0")/../.."

bag=${1:-.bag}
mkdir -p "$bag/lib"

# executable NAME COMMAND...: builds, and prints where cargo's messages say that the target of that name lies.
executable() {
    local name=$1
    shift
    cargo "$@" --message-format=json-render-diagnostics |
        sed -n "/\"name\":\"$name\"/s/.*\"executable\":\"\([^\"]*\)\".*/\1/p" | tail -n 1
}
strip -o "$bag/gristmill" "$(executable gristmill build --release --bin gristmill)"
strip -o "$bag/scheduler" "$(executable scheduler bench --bench scheduler --no-run)"
strip -o "$bag/performance_parity" "$(executable performance_parity build --release --example performance_parity)"

# The loader, from this system or else from the Debian package.
loader() {
    ls /usr/lib/*/libvulkan.so.1 /usr/lib64/libvulkan.so.1 /usr/lib/libvulkan.so.1 2>/dev/null | head -n 1
}
if [ -n "$(loader)" ]; then
    cp -L "$(loader)" "$bag/lib/libvulkan.so.1"
else
    scratch=$(mktemp -d)
    (cd "$scratch" && apt-get download libvulkan1 && dpkg-deb -x libvulkan1_*.deb .)
    cp -L "$scratch"/usr/lib/*/libvulkan.so.1 "$bag/lib/"
    rm -rf "$scratch"
fi

cp benches/bag/run.sh "$bag/"
git rev-parse HEAD >"$bag/commit" 2>/dev/null || echo unknown >"$bag/commit"

size=$(du -sm "$bag" | cut -f 1)
echo "$bag: $size MB"
[ "$size" -le 40 ] || { echo "the bag is over 40 MB" >&2; exit 1; }
