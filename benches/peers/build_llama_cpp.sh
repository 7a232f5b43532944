#!/usr/bin/env bash
# Builds llama.cpp, for its CPU and its Vulkan backend in one, to be measured against.
#
#   benches/peers/build_llama_cpp.sh [DIR]
#
# DIR (target/peers/llama.cpp) gets: src, the archive of llama-cpp-python on PyPI, unpacked; venv, a Python with gguf and numpy;
# build/bin, the programs; version. JOBS (as many as cores) limits the compiler. A second run builds what has changed.
# PORTABLE=1 builds for any x86-64 processor with AVX2 instead of this one: for a bag (benches/bag) that travels.
# Needs python3 with venv, a C++ compiler, the Vulkan loader (libvulkan.so.1), curl, xz, ar; and network.
#
# llama.cpp's Vulkan backend is written against headers that are newer than those of many systems, while their loaders and
# compilers serve. Where the headers are too old, or missing, those of Debian 13 are unpacked into DIR/headers, and installed
# nowhere; and its glslc, where the system's is missing or knows no cooperative matrices: ggml would leave those shaders out,
# and a GPU's matrix units idle.
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

for program in python3 c++ curl xz ar; do
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

# unpacked PACKAGE...: packages of Debian 13, below DIR/headers.
at=$dir/headers
unpacked() {
    local package path sum
    mkdir -p "$at"
    [ -s "$at/Packages" ] || curl --fail --silent "$mirror/dists/$release/main/binary-amd64/Packages.xz" | xz -d > "$at/Packages"
    for package in "$@"; do
        # The first file of that name, in the index of one release.
        path=$(awk -v name="$package" '$1 == "Package:" { at = $2 } $1 == "Filename:" && at == name && !seen++ { print $2 }' "$at/Packages")
        sum=$(awk -v name="$package" '$1 == "Package:" { at = $2 } $1 == "SHA256:" && at == name && !seen++ { print $2 }' "$at/Packages")
        curl --fail --silent --output "$at/$package.deb" "$mirror/$path"
        echo "$sum  $at/$package.deb" | sha256sum --check --quiet >> "$log" 2>&1
        ar p "$at/$package.deb" data.tar.xz | tar xJ -C "$at"
    done
}

# The number of the headers in a folder, or 0.
header_version() { awk '$2 == "VK_HEADER_VERSION" { n = $3 } END { print n + 0 }' "$1/vulkan/vulkan_core.h" 2> /dev/null || echo 0; }
headers=()
if [ "$(header_version /usr/include)" -lt "$oldest" ] || [ ! -d /usr/share/cmake/SPIRV-Headers ]; then
    [ -d "$at/usr/share/cmake/SPIRV-Headers" ] || unpacked libvulkan-dev spirv-headers
    headers=(-DVulkan_INCLUDE_DIR="$at/usr/include" -DSPIRV-Headers_DIR="$at/usr/share/cmake/SPIRV-Headers" -DCMAKE_CXX_FLAGS="-I$at/usr/include")
fi

# Whether a glslc compiles what ggml asks it for, before it builds the shaders for matrix units.
knows_matrices() {
    printf '#version 460\n#extension GL_KHR_cooperative_matrix : require\n#extension GL_NV_cooperative_matrix2 : require\nvoid main() {}\n' |
        "$1" -fshader-stage=compute --target-env=vulkan1.3 -o - - > "$dir/matrices.spv" 2>> "$log"
}
glslc=$(command -v glslc || true)
if [ -z "$glslc" ] || ! knows_matrices "$glslc"; then
    # With the libraries that it was linked to, which may be newer than the system's.
    [ -x "$at/usr/bin/glslc" ] || unpacked glslc libshaderc1 libc6 libstdc++6 libgcc-s1
    libraries=$at/usr/lib/x86_64-linux-gnu
    glslc=$at/glslc
    printf '#!/bin/sh\nexec "%s" --library-path "%s" "%s" "$@"\n' "$libraries/ld-linux-x86-64.so.2" "$libraries" "$at/usr/bin/glslc" > "$glslc"
    chmod +x "$glslc"
    knows_matrices "$glslc" || { echo "build_llama_cpp.sh: $glslc compiles no cooperative matrices" >&2; false; }
fi

# Its own processor's instructions, as whoever builds it for use would have them; or those that any of the last ten years has.
processor=(-DGGML_NATIVE=ON)
if [ -n "${PORTABLE:-}" ]; then
    processor=(-DGGML_NATIVE=OFF -DGGML_SSE42=ON -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_BMI2=ON -DGGML_FMA=ON -DGGML_F16C=ON)
fi
export PATH=$dir/venv/bin:$PATH
cmake -G Ninja -S "$source" -B "$dir/build" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON \
    -DGGML_VULKAN=ON -DVulkan_LIBRARY="$loader" -DVulkan_GLSLC_EXECUTABLE="$glslc" "${processor[@]}" "${headers[@]}" \
    -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF \
    -DLLAMA_BUILD_APP=OFF >> "$log" 2>&1
nice ninja -C "$dir/build" -j "$jobs" llama-bench llama-tokenize llama-quantize >> "$log" 2>&1
cc -O2 -std=c11 -Wall -Wextra -I "$source/include" -I "$source/ggml/include" benches/peers/llama_nll.c -o "$dir/build/bin/llama_nll" \
    -L "$dir/build/bin" -lllama -lggml -lggml-base -lm -Wl,-rpath,'$ORIGIN' >> "$log" 2>&1
echo "$(cat "$dir/version") in $dir/build/bin: llama-bench, llama-quantize, llama-tokenize, llama_nll"
echo "Python with gguf and numpy: $dir/venv/bin/python"
