#!/usr/bin/env bash
# Packs a bag for a machine that has a GPU and nothing else: release binaries without symbols, the Vulkan loader and what NVIDIA's
# driver is linked to, run.sh; and one archive of it, FOLDER.tar.xz.
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

# library NAME: where it lies on this system, if it is there.
PATH=$PATH:/usr/sbin:/sbin # of ldconfig
known=$(ldconfig -p || true)
library() {
    local path folder
    path=$(awk -v name="$1" '$1 == name && /64/ { print $NF; exit }' <<<"$known")
    for folder in "/usr/lib/$(uname -m)-linux-gnu" /usr/lib64; do
        if [ -z "$path" ] && [ -e "$folder/$1" ]; then path=$folder/$1; fi
    done
    echo "$path"
}

# The loader, from this system or else from the Debian package.
if [ -n "$(library libvulkan.so.1)" ]; then
    cp -L "$(library libvulkan.so.1)" "$bag/lib/"
else
    scratch=$(mktemp -d)
    (cd "$scratch" && apt-get download libvulkan1 && dpkg-deb -x libvulkan1_*.deb .)
    cp -L "$scratch"/usr/lib/*/libvulkan.so.1 "$bag/lib/"
    rm -rf "$scratch"
fi

# NVIDIA's driver is linked to libraries of X11 and of libglvnd, also where there is no display, and a machine for computing may
# have none of them. libbsd and libmd are what libXdmcp takes on Debian.
for name in libX11.so.6 libXext.so.6 libxcb.so.1 libXau.so.6 libXdmcp.so.6 libbsd.so.0 libmd.so.0 \
    libGLdispatch.so.0 libGLX.so.0 libEGL.so.1; do
    path=$(library "$name")
    if [ -n "$path" ]; then cp -L "$path" "$bag/lib/$name"; else echo "$name is not on this system: not packed" >&2; fi
done

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
