#!/usr/bin/env bash
# Runs the bag that pack.sh packed and writes results.tar.gz to $OUT, or to the current folder. It goes on after failures:
# steps.txt in the archive says how each step ended. TOKENS sets how many tokens are written (default 128).
set -uo pipefail

bag=$(cd "$(dirname "$0")" && pwd)
out=$(cd "${OUT:-.}" && pwd)
tokens=${TOKENS:-128}
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT

# The system's loader knows its drivers best; ours stands in where there is none.
if ! ldconfig -p 2>/dev/null | grep -q libvulkan.so.1; then
    export LD_LIBRARY_PATH="$bag/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
fi

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
                    "$library" >"$results/nvidia_icd.json"
                export VK_DRIVER_FILES="$results/nvidia_icd.json"
            fi
        done
    fi
fi

# Mesa asks for this folder and complains without it.
export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-$results}

# step NAME COMMAND...: its output and its exit code.
step() {
    local name=$1 code=0
    shift
    timeout 600 "$@" >"$results/$name.txt" 2>&1 || code=$?
    echo "$name: exit $code" | tee -a "$results/steps.txt"
}

# json NAME ARGUMENTS...: a command of gristmill on the adapter, its document beside what it prints.
json() {
    local name=$1
    shift
    step "$name" "$bag/gristmill" "$@" --backend gpu --out "$results/$name.json"
}

# The records name the commit; there is no repository here.
GRISTMILL_COMMIT=$(cat "$bag/commit")
export GRISTMILL_COMMIT

{
    date -u
    uname -a
    echo "commit $(cat "$bag/commit")"
    env | grep -E '^(GRISTMILL|WGPU|VK|LD_LIBRARY_PATH)' || true
    nvidia-smi || echo "no nvidia-smi"
} >"$results/environment.txt" 2>&1

json doctor doctor
json verify verify
json generate-demo generate -n "$tokens"
json generate-demo-greedy generate -n "$tokens" --temperature 0
# GPT-2 small with random weights: the same work as with the real ones. Once for the writing, once for the reading of a long prompt.
json generate-gpt2-small generate --random gpt2-small --tokens 1,2,3,4 -n "$tokens" --temperature 0 --ignore-eos
seq -s , 1 512 >"$results/prompt-512.ids"
json generate-gpt2-small-prompt generate --random gpt2-small --tokens-file "$results/prompt-512.ids" -n 1 --temperature 0
step kernels "$bag/gristmill" bench kernels --backend gpu --out "$results/records.jsonl"
step model "$bag/gristmill" bench model --backend gpu -m gpt2-small -p 512 -n 128 -d 0,512 --profile --out "$results/records.jsonl"
step model-cpu "$bag/gristmill" bench model --backend cpu -m gpt2-small -p 64 -n 32 --out "$results/records.jsonl"
step scheduler "$bag/scheduler" --bench --out "$results/records.jsonl"
step performance_parity "$bag/performance_parity" --out "$results/records.jsonl"

tar -C "$results" -czf "$out/results.tar.gz" .
echo "$out/results.tar.gz"
