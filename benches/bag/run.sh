#!/usr/bin/env bash
# Runs the bag that pack.sh packed and writes results.tar.gz to $OUT, or to the current folder. It goes on after failures:
# steps.txt in the archive says how each step ended, and what had no time left. Most important first:
#
#   DEADLINE   seconds for everything (520): no step begins or goes on after it
#   TUNE       seconds for tuning every kernel (60)
#   REDUCED=1  a few cases and small shapes, to try the bag itself on a software adapter
set -uo pipefail

bag=$(cd "$(dirname "$0")" && pwd)
out=$(cd "${OUT:-.}" && pwd)
deadline=${DEADLINE:-520}
tune=${TUNE:-60}
reduced=${REDUCED:-}
results=$(mktemp -d)
work=$(mktemp -d)
trap 'rm -rf "$results" "$work"' EXIT

# The system's libraries know its drivers best; ours stand in where there are none.
mkdir "$work/lib"
known=$(ldconfig -p 2>/dev/null)
for library in "$bag"/lib/*; do
    grep -q "$(basename "$library") " <<<"$known" || ln -s "$library" "$work/lib/"
done
export LD_LIBRARY_PATH="$work/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"

# NVIDIA's driver says where it is in nvidia_icd.json, which in a container may lie where the loader does not look, or be
# missing though the library is there.
if [ -z "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ]; then
    found=""
    for dir in /usr/share/vulkan/icd.d /etc/vulkan/icd.d /usr/local/share/vulkan/icd.d; do
        if [ -e "$dir/nvidia_icd.json" ]; then found=yes; fi
    done
    if [ -z "$found" ]; then
        for file in /usr/local/nvidia/share/vulkan/icd.d/nvidia_icd.json /usr/local/nvidia/vulkan/icd.d/nvidia_icd.json \
            /opt/nvidia/share/vulkan/icd.d/nvidia_icd.json; do
            if [ -e "$file" ]; then export VK_DRIVER_FILES="$file"; fi
        done
        for library in /usr/local/nvidia/lib64/libGLX_nvidia.so.0 /usr/lib/x86_64-linux-gnu/libGLX_nvidia.so.0 \
            /usr/lib64/libGLX_nvidia.so.0; do
            if [ -z "${VK_DRIVER_FILES:-}" ] && [ -e "$library" ]; then
                printf '{"file_format_version": "1.0.0", "ICD": {"library_path": "%s", "api_version": "1.3.0"}}\n' \
                    "$library" >"$work/nvidia_icd.json"
                export VK_DRIVER_FILES="$work/nvidia_icd.json"
            fi
        done
    fi
fi

# Mesa asks for this folder and complains without it.
export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-$work}
# Nothing is kept on that machine, and nothing of an earlier run counts.
export XDG_CACHE_HOME=$work/cache

# step NAME MOST LATER COMMAND...: its output, its exit code and its time. It gets MOST seconds, and never so many that fewer than
# LATER, of 520 for everything, are left for the steps after it.
step() {
    local name=$1 most=$2 later=$3 code=0 began=$SECONDS limit
    shift 3
    limit=$((deadline - SECONDS - later * deadline / 520))
    if [ "$limit" -gt "$most" ]; then limit=$most; fi
    if [ "$limit" -lt 5 ]; then
        echo "$name: left out, no time" | tee -a "$results/steps.txt"
        return
    fi
    timeout --kill-after 5 "$limit" "$@" >"$results/$name.txt" 2>"$results/$name.log" || code=$?
    [ -s "$results/$name.log" ] || rm -f "$results/$name.log"
    local how="exit $code"
    if [ "$code" = 124 ] || [ "$code" = 137 ]; then how="cut after $limit s"; fi
    echo "$name: $how, $((SECONDS - began)) s" | tee -a "$results/steps.txt"
}

gristmill=$bag/gristmill
records=$results/records.jsonl
# The records name the commit; there is no repository here.
GRISTMILL_COMMIT=$(cat "$bag/commit")
export GRISTMILL_COMMIT

{
    date -u
    uname -a
    echo "commit $GRISTMILL_COMMIT"
    cat "$bag/llama.cpp/version" 2>/dev/null
    env | grep -E '^(GRISTMILL|WGPU|VK|LD_LIBRARY_PATH)' || true
    nvidia-smi || echo "no nvidia-smi"
} >"$results/environment.txt" 2>&1

step doctor 30 300 "$gristmill" doctor --out "$results/doctor.json"

# What this device can do at most: by our own probes, and by its maker's libraries.
step ceilings 40 300 "$gristmill" bench kernels --op probe --out "$records"
if command -v python3 >/dev/null; then
    step ceilings-torch 60 300 python3 "$bag/ceilings.py"
else
    echo "ceilings-torch: left out, no python3" | tee -a "$results/steps.txt"
fi

# Right before fast; and the arithmetic and the shaders without checks, where this build has them.
some=()
if [ -n "$reduced" ]; then some=(--op matmul); fi
step verify 100 260 "$gristmill" verify "${some[@]}" --out "$results/verify.json"
help=$("$gristmill" verify --help)
if grep -q -- --arithmetic <<<"$help"; then
    step verify-f16 60 240 "$gristmill" verify "${some[@]}" --arithmetic f16 --out "$results/verify-f16.json"
fi
if grep -q -- --unchecked <<<"$help"; then
    step verify-unchecked 60 240 "$gristmill" verify "${some[@]}" --unchecked --out "$results/verify-unchecked.json"
fi

# The profile of this adapter, with which everything after is measured.
step tune $((tune + 30)) 200 "$gristmill" tune --all --budget "${tune}s" --emit "$results/tuning.txt" --out "$results/tune.json"
tuned=()
if [ -s "$results/tuning.txt" ]; then tuned=(--tuning "$results/tuning.txt"); fi

only() { for row in "$@"; do printf -- '--only\n%s\n' "$row"; done; }
products=("matmul m=4096" "matmul m=1024" "matvec m=1,k=4096,n=4096" "matvec m=1,k=4096,n=14336" "linear m=4096" "linear m=512,k=4096")
others=("gelu " "relu " "add " "mul " "swiglu " "softmax " "layer_norm " "rms_norm ")
if [ -n "$reduced" ]; then
    products=("matmul m=256" "matvec m=1,k=768,n=2304") others=("relu " "rms_norm m=1,")
fi
mapfile -t rows < <(only "${products[@]}")
step kernels-products 90 130 "$gristmill" bench kernels "${rows[@]}" "${tuned[@]}" --out "$records"
mapfile -t rows < <(only "${others[@]}")
step kernels-others 40 110 "$gristmill" bench kernels "${rows[@]}" "${tuned[@]}" --out "$records"

# GPT-2 124M in f16, random weights: alone, then beside llama.cpp's Vulkan backend in turns.
shape=() sizes=(-p 512 -n 128 -d 0,512) beside=(-p 512 -n 64 -d 512 -r 5)
if [ -n "$reduced" ]; then
    shape=(--layers 2 --hidden 128 --heads 2 --vocab 997) sizes=(-p 16 -n 8 -d 0,16) beside=(-p 16 -n 8 -d 16 -r 3)
fi
if command -v python3 >/dev/null; then
    model=$work/gpt2-124m-f16.gguf
    step model-file 30 80 python3 "$bag/random_gguf.py" "$model" "${shape[@]}"
    step model 60 80 "$gristmill" bench model -m "$model" "${sizes[@]}" --kv f16 --profile "${tuned[@]}" --out "$records"
    if [ -d "$bag/llama.cpp" ]; then
        export LD_LIBRARY_PATH="$bag/llama.cpp/build/bin:$LD_LIBRARY_PATH"
        step llama-cpp 110 10 env CARGO_TARGET_DIR="$work" python3 "$bag/side_by_side.py" "$model" "${beside[@]}" --without cpu --without agreement \
            --gristmill "$gristmill" --llama-cpp "$bag/llama.cpp" "${tuned[@]}" --out "$results/side-by-side.json"
    else
        echo "llama-cpp: left out, not in the bag" | tee -a "$results/steps.txt"
    fi
else
    echo "model, llama-cpp: left out, no python3" | tee -a "$results/steps.txt"
    step model 60 60 "$gristmill" bench model -m gpt2-small "${sizes[@]}" --kv f16 --profile "${tuned[@]}" --out "$records"
fi

# What there is time for.
step performance_parity 60 0 "$bag/performance_parity" --out "$records"
step generate-demo 20 0 "$gristmill" generate -n 64 --temperature 0 --backend gpu --out "$results/generate-demo.json"

echo "all: $SECONDS s" | tee -a "$results/steps.txt"
tar -C "$results" -czf "$out/results.tar.gz" .
echo "$out/results.tar.gz"
