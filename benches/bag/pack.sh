#!/usr/bin/env bash
# Packs a bag for a machine that has a GPU and nothing else: release binaries without symbols, the Vulkan loader, run.sh; and one
# archive of it, FOLDER.tar.xz.
# Usage: [LLAMA_CPP=DIR] benches/bag/pack.sh [FOLDER], by default .bag in the repository. The bag needs glibc as new as this
# machine's. LLAMA_CPP is where benches/peers/build_llama_cpp.sh built, with PORTABLE=1: its llama-bench is packed as well.
set -euo pipefail
cd "$(dirname "$0")/../.."

bag=${1:-.bag}
# What is not a bag is not replaced.
if [ -e "$bag" ] && [ ! -e "$bag/run.sh" ]; then
    echo "$bag is there and no bag" >&2
    exit 2
fi
rm -rf "$bag" "$bag.tar.xz"
mkdir -p "$bag/lib"

# One build for both, or what they depend on would be built twice. Where they lie, cargo's messages say.
built=$(cargo build --release --bin gristmill --example performance_parity --message-format=json-render-diagnostics)
for name in gristmill performance_parity; do
    strip -o "$bag/$name" "$(sed -n "/\"name\":\"$name\"/s/.*\"executable\":\"\([^\"]*\)\".*/\1/p" <<<"$built" | tail -n 1)"
done

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

# llama.cpp's benchmark, and what it is linked to beyond a bare system.
if [ -n "${LLAMA_CPP:-}" ]; then
    peer=$LLAMA_CPP/build/bin
    mkdir -p "$bag/llama.cpp/build/bin"
    cp "$LLAMA_CPP/version" "$bag/llama.cpp/"
    strip -o "$bag/llama.cpp/build/bin/llama-bench" "$peer/llama-bench"
    LD_LIBRARY_PATH=$peer ldd "$peer/llama-bench" | awk '{ print $1, $3 }' | while read -r name path; do
        case $name in
            libllama* | libggml* | libmtmd*) strip -o "$bag/llama.cpp/build/bin/$name" "$path" ;;
            libgomp* | libstdc++* | libgcc_s*) cp -L "$path" "$bag/lib/$name" ;;
        esac
    done
    cp benches/peers/side_by_side.py benches/peers/peer.py "$bag/"
fi

cp benches/bag/run.sh benches/bag/ceilings.py benches/bag/random_gguf.py "$bag/"
git rev-parse HEAD >"$bag/commit" 2>/dev/null || echo unknown >"$bag/commit"

tar -C "$(dirname "$bag")" -cJf "$bag.tar.xz" "$(basename "$bag")"
size=$(du -m "$bag.tar.xz" | cut -f 1)
echo "$bag: $(du -sm "$bag" | cut -f 1) MB; $bag.tar.xz: $size MB"
[ "$size" -le 40 ] || { echo "the bag is over 40 MB" >&2; exit 1; }
