#!/usr/bin/env bash
# GPT-2 small with random f16 weights on the CPU: gristmill against llama.cpp, the same weights, the same threads, in turns.
#
#   benches/peers/cpu_gpt2.sh [REPETITIONS]
#
# THREADS (2), PROMPT (64) and NEW (64) set the work; GRISTMILL names a binary, else one is built; OUT names the record.
# llama.cpp comes from the source archive of llama-cpp-python on PyPI and is built once, without any GPU, in target/peers.
# Needs python3 with venv, a C++ compiler, and network for the first run.
set -euo pipefail
cd "$(dirname "$0")/../.."
repetitions=${1:-7}
export THREADS=${THREADS:-2} PROMPT=${PROMPT:-64} NEW=${NEW:-64}
peers=${CARGO_TARGET_DIR:-target}/peers
helper=benches/peers/cpu_gpt2.py
mkdir -p "$peers"

venv=$peers/venv
if [ ! -x "$venv/bin/cmake" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" --quiet install cmake numpy safetensors gguf
fi

llama=$peers/llama-bench
if [ ! -x "$llama" ]; then
    "$venv/bin/pip" --quiet download --no-binary llama-cpp-python --no-deps --dest "$peers" llama-cpp-python
    archive=$(ls "$peers"/llama_cpp_python-*.tar.gz | tail -1)
    tar xzf "$archive" -C "$peers"
    source=$(basename "$archive" .tar.gz)
    # Its own processor's instructions, as whoever builds it for use would have them.
    nice "$venv/bin/cmake" -S "$peers/$source/vendor/llama.cpp" -B "$peers/build" -DCMAKE_BUILD_TYPE=Release \
        -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
        -DLLAMA_BUILD_SERVER=OFF > "$peers/cmake.log"
    nice "$venv/bin/cmake" --build "$peers/build" --target llama-bench -j "$(nproc)" > "$peers/build.log"
    echo "$source" > "$peers/llama-version"
    cp "$peers/build/bin/llama-bench" "$llama"
fi

model=$peers/gpt2-small-f16
if [ ! -f "$model.gguf" ]; then
    "$venv/bin/python" "$helper" make "$model"
fi

gristmill=${GRISTMILL:-}
if [ -z "$gristmill" ]; then
    cargo build --release --bin gristmill
    gristmill=${CARGO_TARGET_DIR:-target}/release/gristmill
fi

runs=$peers/runs.jsonl
: > "$runs"
tokens=$("$venv/bin/python" "$helper" tokens "$PROMPT")
for i in $(seq "$repetitions"); do
    echo "run $i of $repetitions" >&2
    # One process each, so that neither has the other's memory or heat in its favour.
    "$llama" -m "$model.gguf" -t "$THREADS" -p "$PROMPT" -n "$NEW" -r 1 -o jsonl 2> /dev/null \
        | "$venv/bin/python" "$helper" note llama.cpp "$runs"
    # One more token than are timed: the first one's time is the prompt's.
    RAYON_NUM_THREADS=$THREADS "$gristmill" generate --model "$model" --backend cpu --tokens "$tokens" -n $((NEW + 1)) \
        --temperature 0 --ignore-eos --json 2> /dev/null | "$venv/bin/python" "$helper" note gristmill "$runs"
done
out=${OUT:-benches/record/cpu/$(date +%F).jsonl}
mkdir -p "$(dirname "$out")"
version=$(cat "$peers/llama-version" 2> /dev/null || echo unknown)
"$venv/bin/python" "$helper" report "$runs" "$out" "$version" "$(git describe --always --dirty)"
