#!/usr/bin/env bash
# Runs the bag that pack.sh packed and writes results.tar.gz to $OUT, or to the current folder, anew after every step. A step that
# fails or is cut ends no other: steps.txt in the archive says how each ended, and what had no time left. Most important first:
# the adapter, whether products are right, how fast the large ones are, then all else.
#
#   DEADLINE   seconds for everything (520): no step begins or goes on after it
#   REDUCED=1  a few cases and small shapes, to try the bag itself on a software adapter
#
# Exit code 3: no hardware adapter was found, and nothing was measured.
set -uo pipefail

bag=$(cd "$(dirname "$0")" && pwd)
out=$(cd "${OUT:-.}" && pwd)
deadline=${DEADLINE:-520}
reduced=${REDUCED:-}
results=$(mktemp -d)
work=$(mktemp -d)
gristmill=$bag/gristmill
records=$results/records.jsonl
warming=
trap '[ -z "$warming" ] || kill "$warming" 2>/dev/null; rm -rf "$results" "$work"' EXIT

python=$(command -v python3 || true)
# PyTorch lies in thousands of files, and the first import reads them for most of a minute: now, while other things run.
if [ -n "$python" ] && [ -z "$reduced" ]; then
    timeout 120 "$python" -c 'import torch' >/dev/null 2>&1 &
    warming=$!
fi

# save: the archive, whole at any moment.
save() {
    tar -C "$results" -czf "$out/results.tar.gz.part" . && mv "$out/results.tar.gz.part" "$out/results.tar.gz"
}

# say LINE: how a step ended.
say() {
    echo "$1" | tee -a "$results/steps.txt"
}

left_out() {
    say "$1: left out, ${2:-no time}"
}

# limit MOST LATER: the seconds that a step gets now, at most MOST, and never so many that fewer than LATER, of 520 for
# everything, are left for the steps after it.
limit() {
    local left=$((deadline - SECONDS - $2 * deadline / 520))
    echo $((left < $1 ? left : $1))
}

# show TEXT: on stdout, as long as all of it stays below 9,000 characters: who runs this far away may get no more than the last
# 12,000, and the first tables are the ones that matter.
shown=0
show() {
    if [ -z "$1" ]; then
        return
    elif [ $((shown + ${#1})) -gt 9000 ]; then
        echo "  (in the archive)"
    else
        shown=$((shown + ${#1}))
        printf '%s\n' "$1"
    fi
}

# step NAME MOST LATER COMMAND...: its output, its exit code and its time, within its limit. Fails where the command does.
step() {
    local name=$1 code=0 began=$SECONDS last=0 seconds how
    seconds=$(limit "$2" "$3")
    shift 3
    if [ "$seconds" -lt 5 ]; then
        left_out "$name"
        return 1
    fi
    # An interrupt: what has something to write down then does.
    timeout --signal INT --kill-after 5 "$seconds" "$@" >"$results/$name.txt" 2>"$results/$name.log" || code=$?
    [ -s "$results/$name.log" ] || rm -f "$results/$name.log"
    how="exit $code"
    if [ "$code" = 124 ] || [ "$code" = 137 ]; then how="cut after $seconds s"; fi
    say "$name: $how, $((SECONDS - began)) s"
    # Of the log what a failure says, and where `verify` ran and for how long: its last line.
    case $name in
        kernels* | ceilings* | model | model-f16 | llama-cpp) show "$(head -n 24 "$results/$name.txt")" ;;
        verify*)
            show "$(grep -m 5 '^failed' "$results/$name.txt")"
            last=1
            ;;
    esac
    [ "$code" = 0 ] || last=3
    show "$(tail -n "$last" "$results/$name.log" 2>/dev/null | cut -c 1-300)"
    save
    return "$code"
}

# kernels NAME MOST LATER FLAG... -- ROW...: `bench kernels` of the rows that have one of these in their names.
kernels() {
    local name=$1 most=$2 later=$3 flags=() rows=() row
    shift 3
    while [ "$1" != -- ]; do
        flags+=("$1")
        shift
    done
    shift
    for row in "$@"; do rows+=(--only "$row"); done
    step "$name" "$most" "$later" "$gristmill" bench kernels "${rows[@]}" "${flags[@]}" --out "$records"
}

# tune NAME MOST LATER ARGUMENT...: begins with what was found before and adds to it. What comes before the first candidate and
# after the last has 20 seconds.
tuned=()
tune() {
    local name=$1 most=$2 later=$3 budget
    shift 3
    budget=$(($(limit "$most" "$later") - 20))
    if [ "$budget" -lt 5 ]; then
        left_out "$name"
        return
    fi
    step "$name" "$most" "$later" "$gristmill" tune "$@" "${tuned[@]}" --budget "${budget}s" --cache "$results/tune.jsonl" \
        --emit "$work/$name.txt" --out "$results/$name.json"
    # Comments alone: nothing was faster than the defaults.
    if grep -q '^[^#]' "$work/$name.txt" 2>/dev/null; then
        cp "$work/$name.txt" "$results/tuning.txt"
        tuned=(--tuning "$results/tuning.txt")
    fi
}

# found LIBRARY: where it lies, if the system has it.
PATH=$PATH:/usr/sbin:/sbin # of ldconfig
known=$(ldconfig -p 2>/dev/null)
found() {
    local path folder listed
    path=$(awk -v name="$1" '$1 == name && /64/ { print $NF; exit }' <<<"$known")
    if [ -n "$path" ]; then
        echo "$path"
        return
    fi
    IFS=: read -ra listed <<<"${LD_LIBRARY_PATH:-}"
    for folder in "${listed[@]}" /usr/lib/x86_64-linux-gnu /usr/lib64; do
        if [ -n "$folder" ] && [ -e "$folder/$1" ]; then
            echo "$folder/$1"
            return
        fi
    done
    return 1
}

# Containers have the driver where the linker does not look.
for folder in /usr/local/nvidia/lib64 /usr/local/nvidia/lib; do
    if [ -d "$folder" ]; then LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder; fi
done
# The system's libraries know its drivers best; ours stand in where there are none.
mkdir "$work/lib"
for library in "$bag"/lib/*; do
    found "$(basename "$library")" >/dev/null || ln -s "$library" "$work/lib/"
done
export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$work/lib"

# driver FILE: the manifest of the driver that Vulkan is to use; older loaders know the second name alone.
driver() {
    export VK_DRIVER_FILES=$1 VK_ICD_FILENAMES=$1
}

# manifest LIBRARY: uses it as the driver, with a manifest of our own.
manifest() {
    printf '{"file_format_version": "1.0.0", "ICD": {"library_path": "%s", "api_version": "1.3.0"}}\n' \
        "$(found "$1" || echo "$1")" >"$work/nvidia_icd.json"
    driver "$work/nvidia_icd.json"
}

# NVIDIA's driver says where it is in nvidia_icd.json, which in a container may lie where the loader does not look.
told=${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}
for file in {/usr/share,/etc,/usr/local/share}/vulkan/icd.d/nvidia_icd*.json; do
    if [ -e "$file" ]; then told=yes; fi
done
if [ -z "$told" ]; then
    for file in /opt/nvidia/share/vulkan/icd.d/nvidia_icd.json /usr/local/nvidia/vulkan/icd.d/nvidia_icd.json \
        /usr/local/nvidia/share/vulkan/icd.d/nvidia_icd.json; do
        if [ -e "$file" ]; then driver "$file"; fi
    done
fi
vendor=/usr/local/nvidia/share/glvnd/egl_vendor.d/10_nvidia.json
if [ -e "$vendor" ]; then export __EGL_VENDOR_LIBRARY_FILENAMES=${__EGL_VENDOR_LIBRARY_FILENAMES:-$vendor}; fi

# Mesa asks for this folder and complains without it.
export XDG_RUNTIME_DIR=${XDG_RUNTIME_DIR:-$work}
# Nothing is kept on that machine, and nothing of an earlier run counts.
export XDG_CACHE_HOME=$work/cache
# The records name the commit; there is no repository here.
GRISTMILL_COMMIT=$(cat "$bag/commit")
export GRISTMILL_COMMIT

{
    date -u
    uname -a
    ldd --version | head -n 1
    echo "commit $GRISTMILL_COMMIT"
    cat "$bag/llama.cpp/version" 2>/dev/null
    timeout 20 nvidia-smi || echo "no nvidia-smi"
} >"$results/environment.txt" 2>&1

# doctor NAME: whether an adapter of hardware is chosen. The loader says on stderr what it could not load.
doctor() {
    rm -f "$results/doctor.json"
    step "$1" 30 400 env VK_LOADER_DEBUG=error "$gristmill" doctor --out "$results/doctor.json"
    sed -n '/^  "adapter": {/,/^  }/p' "$results/doctor.json" 2>/dev/null | grep -q '"software": false'
}

# Without a display the driver works through one of its two libraries, and which one differs.
hardware=
if doctor doctor; then hardware=yes; fi
if [ -z "$hardware$reduced" ]; then
    for library in libGLX_nvidia.so.0 libEGL_nvidia.so.0; do
        manifest "$library"
        if doctor "doctor-${library%%_*}"; then
            hardware=yes
            break
        fi
    done
fi

{
    env | grep -E '^(GRISTMILL|WGPU|VK|LD_LIBRARY_PATH|__EGL)'
    ls -l "$work/lib"
    for library in libvulkan.so.1 libGLX_nvidia.so.0 libEGL_nvidia.so.0; do
        if path=$(found "$library"); then
            echo "--- ldd $path"
            ldd "$path"
        else
            echo "--- no $library"
        fi
    done
    for log in "$results"/doctor*.log; do
        [ -e "$log" ] || continue
        echo "--- $(basename "$log"), with VK_LOADER_DEBUG=error"
        # The loader says the same to everyone who asks.
        awk '!seen[$0]++' "$log"
    done
} >>"$results/environment.txt" 2>&1

if [ -z "$hardware$reduced" ]; then
    say "stopped: doctor found no hardware adapter; what follows it would be no GPU's"
    tail -c 9000 "$results/environment.txt"
    (cd "$results" && grep -E '^(chosen|missing|self-test|no adapters)' doctor*.txt)
    save
    exit 3
fi

# What is measured, by parts of names of the rows of `bench kernels`. Large rows are compared with a copy, so nothing in them
# may lie in a cache: their operands, of all sets together, are larger than one.
right_f16=(matmul_transpose_b linear) right=(matmul linear matvec attention_decode) every=()
square=m=4096,k=4096,n=4096 wide=m=512,k=4096,n=14336 row=m=1,k=4096,n=4096
products=("matmul $square f32" "linear $square f16" "linear $wide f32" "linear $wide f16")
products_f16=("linear $square f16" "linear $wide f32" "linear $wide f16")
matvecs=("matvec $row f16" "matvec $row f32" "matvec m=1,k=4096,n=14336 f16" "matvec m=1,k=4096,n=14336 f32")
large=("m=8192,n=4096" "m=2048,n=4096")
large_tuned=("softmax m=2048" "layer_norm m=2048,n=4096")
formats=()
for format in bf16 q8_0 q4_0 q4_k q6_k q4_1 q5_0 q5_1 q5_k; do
    formats+=("matvec $row $format" "linear $wide $format")
done
others=("matmul m=1024," "matmul m=2048," "attention" "rope " "m=1,n=50257" "m=256,n=3072" "softmax m=64")
others+=("norm m=1,n=768" "norm m=512,n=768" "softmax m=8")
norms=m=2048,n=4096 few=m=8,n=50257
shape=() sizes=(-p 512 -n 128 -d 0,512) beside=(-p 512 -n 64 -d 512 -r 3) quick=()
if [ -n "$reduced" ]; then
    right_f16=(add) right=(mul) every=(--op relu)
    square=m=64,k=64,n=64 row=m=1,k=768,n=2304 norms=m=64,n=256 few=m=8,n=1024
    products=("matmul m=256") products_f16=("linear m=64,k=768,n=768 f16") matvecs=("matvec m=1,k=768,n=2304 f16")
    large=("relu m=256") large_tuned=("rms_norm m=1,n=768") formats=("matvec m=1,k=3072,n=768 q4_0") others=("norm m=1,n=768")
    shape=(--layers 2 --hidden 128 --heads 2 --vocab 997) sizes=(-p 16 -n 8 -d 0,16) beside=(-p 16 -n 8 -d 16 -r 3) quick=(--quick)
fi

# Right before fast, products before all else: a run of `verify` that is cut says nothing, so they are short. What runs on matrix
# units has never run before.
for op in "${right_f16[@]}"; do
    step "verify-f16-$op" 40 400 "$gristmill" verify --arithmetic f16 --op "$op" --out "$results/verify-f16-$op.json"
done
for op in "${right[@]}"; do
    step "verify-$op" 30 400 "$gristmill" verify --op "$op" --out "$results/verify-$op.json"
done

# As it is, with the defaults of the kernels' files.
kernels kernels-products 45 330 -- "${products[@]}"
kernels kernels-products-f16 45 310 --arithmetic f16 -- "${products_f16[@]}"
kernels kernels-matvec 40 280 -- "${matvecs[@]}"
# Its neighbouring invocations read neighbouring words, those of matvec_subgroup blocks of 32 numbers: which a GPU likes better is
# not known.
echo "matvec: kernel=matvec" >"$work/matvec.txt"
kernels kernels-matvec-other 20 270 --tuning "$work/matvec.txt" -- "${matvecs[@]:0:2}"
kernels kernels-large 60 250 -- "${large[@]}"

# What this device can do at most: by our own probes, and by its maker's libraries.
step ceilings 20 240 "$gristmill" bench kernels --op probe --out "$records"
if [ -n "$python" ]; then
    step ceilings-torch 120 205 "$python" "$bag/ceilings.py"
else
    left_out ceilings-torch "no python3"
fi

# GPT-2 124M in f16, random weights; its prompt once more on matrix units, where most of a prompt's time goes.
model=gpt2-small
if [ -n "$python" ] && step model-file 30 200 "$python" "$bag/random_gguf.py" "$work/gpt2-124m-f16.gguf" "${shape[@]}"; then
    model=$work/gpt2-124m-f16.gguf
fi
step model 60 180 "$gristmill" bench model -m "$model" "${sizes[@]}" --kv f16 --profile --out "$records"
step model-f16 25 175 "$gristmill" bench model -m "$model" "${sizes[@]:0:2}" -n 0 --kv f16 --arithmetic f16 --out "$records"

# The profile of this adapter, one class of shapes after the other, and what it changes.
tune tune-matmul 45 180 matmul --shape "$square"
tune tune-matrix16 45 160 matmul_transpose_b_matrix16 --format f16 --arithmetic f16 --shape "$square"
tune tune-matvec-f16 30 155 matvec_subgroup --format f16 --shape "$row"
tune tune-matvec-f32 30 150 matvec_subgroup --format f32 --shape "$row"
tune tune-softmax 30 145 softmax --shape "$norms" --shape "$few"
tune tune-layer_norm 28 140 layer_norm --shape "$norms"
if [ "${#tuned[@]}" -gt 0 ]; then
    kernels kernels-products-tuned 30 125 "${tuned[@]}" -- "${products[0]}"
    kernels kernels-products-f16-tuned 40 115 "${tuned[@]}" --arithmetic f16 -- "${products_f16[@]}"
    kernels kernels-matvec-tuned 40 105 "${tuned[@]}" -- "${matvecs[@]}"
    kernels kernels-large-tuned 30 100 "${tuned[@]}" -- "${large_tuned[@]}"
else
    left_out kernels-tuned "no tuning"
fi

# The same model beside llama.cpp's Vulkan backend, in turns.
if [ "$model" = gpt2-small ]; then
    left_out llama-cpp "no file of the model"
elif [ ! -d "$bag/llama.cpp" ]; then
    left_out llama-cpp "not in the bag"
else
    step llama-cpp 110 40 env CARGO_TARGET_DIR="$work" LD_LIBRARY_PATH="$bag/llama.cpp/build/bin:$LD_LIBRARY_PATH" \
        "$python" "$bag/side_by_side.py" "$model" "${beside[@]}" --without cpu --without agreement --gristmill "$gristmill" \
        --llama-cpp "$bag/llama.cpp" "${tuned[@]}" --out "$results/side-by-side.json"
fi

# What there is time for.
step verify 150 0 "$gristmill" verify "${every[@]}" --out "$results/verify.json"
step verify-unchecked 100 0 "$gristmill" verify "${every[@]}" --unchecked --out "$results/verify-unchecked.json"
kernels kernels-formats 90 0 -- "${formats[@]}"
step performance_parity 60 0 "$bag/performance_parity" "${quick[@]}" --out "$records"
kernels kernels-others 60 0 -- "${others[@]}"
step generate-demo 20 0 "$gristmill" generate -n 64 --temperature 0 --backend gpu --out "$results/generate-demo.json"
# The other classes of shapes, in whatever is left.
tune tune-all "$([ -n "$reduced" ] && echo 30 || echo "$deadline")" 0 --all

say "all: $SECONDS s"
save
echo "$out/results.tar.gz"
