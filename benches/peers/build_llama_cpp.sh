#!/usr/bin/env bash
# Builds llama.cpp, for its CPU and its Vulkan backend in one, to be measured against.
#
#   benches/peers/build_llama_cpp.sh [DIR]
#
# DIR (target/peers/llama.cpp) gets: src, the archive of llama-cpp-python on PyPI, unpacked; venv, a Python with gguf and numpy;
# build/bin, the programs; version. JOBS (as many as cores) limits the compiler. A second run builds what has changed.
# Needs python3 with venv, a C++ compiler, the Vulkan loader (libvulkan.so.1), glslc, curl, xz, ar; and network.
#
# llama.cpp's Vulkan backend is written against headers that are newer than those of many systems, while their loaders and
# compilers serve. Where the headers are too old, or missing, those of Debian 13 are unpacked into DIR/headers, and installed nowhere.
set -euo pipefail
cd "$(dirname "$0")/../.."
dir=${1:-${CARGO_TARGET_DIR:-target}/peers/llama.cpp}
jobs=${JOBS:-$(nproc)}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
log=$dir/log
: > "$log"
trap 'echo "failed; the end of $log:" >&2; tail -20 "$log" >&2' ERR

# The oldest header that is known to serve: Debian 13's.
oldest=309
mirror=http://deb.debian.org/debian
release=trixie

for program in python3 c++ glslc curl xz ar; do
    command -v "$program" > /dev/null || { echo "build_llama_cpp.sh: needs $program" >&2; trap - ERR; exit 2; }
done
loader=$(ldconfig -p | awk '/libvulkan\.so\.1 /{print $NF; exit}')
[ -n "$loader" ] || { echo "build_llama_cpp.sh: needs the Vulkan loader, libvulkan.so.1" >&2; trap - ERR; exit 2; }

if [ ! -x "$dir/venv/bin/ninja" ]; then
    python3 -m venv "$dir/venv"
    "$dir/venv/bin/pip" --quiet install cmake ninja numpy gguf >> "$log" 2>&1
fi
if [ ! -d "$dir/src" ]; then
    # The archive only: what pip would do with it is not wanted, but for a look at its metadata.
    "$dir/venv/bin/pip" --quiet download --no-binary llama-cpp-python --no-deps --dest "$dir" llama-cpp-python >> "$log" 2>&1
    archive=$(ls "$dir"/llama_cpp_python-*.tar.gz | sort -V | tail -1)
    rm -rf "$dir/unpacked" && mkdir "$dir/unpacked"
    tar xzf "$archive" -C "$dir/unpacked"
    basename "$archive" .tar.gz > "$dir/version"
    mv "$dir/unpacked"/llama_cpp_python-* "$dir/src"
fi
source=$dir/src/vendor/llama.cpp

# The number of the headers in a folder, or 0.
header_version() { awk '$2 == "VK_HEADER_VERSION" { n = $3 } END { print n + 0 }' "$1/vulkan/vulkan_core.h" 2> /dev/null || echo 0; }
headers=()
if [ "$(header_version /usr/include)" -lt "$oldest" ] || [ ! -d /usr/share/cmake/SPIRV-Headers ]; then
    at=$dir/headers
    if [ ! -d "$at/usr/share/cmake/SPIRV-Headers" ]; then
        mkdir -p "$at"
        curl --fail --silent "$mirror/dists/$release/main/binary-amd64/Packages.xz" | xz -d > "$at/Packages"
        for package in libvulkan-dev spirv-headers; do
            # The first file of that name, in the index of one release.
            path=$(awk -v name="$package" '$1 == "Package:" { at = $2 } $1 == "Filename:" && at == name && !seen++ { print $2 }' "$at/Packages")
            sum=$(awk -v name="$package" '$1 == "Package:" { at = $2 } $1 == "SHA256:" && at == name && !seen++ { print $2 }' "$at/Packages")
            curl --fail --silent --output "$at/$package.deb" "$mirror/$path"
            echo "$sum  $at/$package.deb" | sha256sum --check --quiet >> "$log" 2>&1
            ar p "$at/$package.deb" data.tar.xz | tar xJ -C "$at"
        done
    fi
    headers=(-DVulkan_INCLUDE_DIR="$at/usr/include" -DSPIRV-Headers_DIR="$at/usr/share/cmake/SPIRV-Headers" -DCMAKE_CXX_FLAGS="-I$at/usr/include")
fi

# Its own processor's instructions, as whoever builds it for use would have them.
export PATH=$dir/venv/bin:$PATH
cmake -G Ninja -S "$source" -B "$dir/build" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON \
    -DGGML_VULKAN=ON -DGGML_NATIVE=ON -DVulkan_LIBRARY="$loader" "${headers[@]}" \
    -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF \
    -DLLAMA_BUILD_APP=OFF >> "$log" 2>&1
nice ninja -C "$dir/build" -j "$jobs" llama-bench llama-tokenize llama-quantize >> "$log" 2>&1
cc -O2 -std=c11 -Wall -Wextra -I "$source/include" -I "$source/ggml/include" benches/peers/llama_nll.c -o "$dir/build/bin/llama_nll" \
    -L "$dir/build/bin" -lllama -lggml -lggml-base -lm -Wl,-rpath,'$ORIGIN' >> "$log" 2>&1
echo "$(cat "$dir/version") in $dir/build/bin: llama-bench, llama-quantize, llama-tokenize, llama_nll"
echo "Python with gguf and numpy: $dir/venv/bin/python"
