#!/usr/bin/env bash
# The kernels of matrix units, run: Debian's own Mesa is too old for them, so this makes a folder with a newer Debian and the
# Mesa of its backports, whose llvmpipe multiplies matrices of 8 x 8, and verifies the products there with --arithmetic f16.
# Not part of the test command: it needs root, debootstrap and a Debian mirror.
#
#   tests/matrix_units.sh [--all] [FOLDER]    FOLDER is made where it is not there; --all verifies every operation
set -euo pipefail
cd "$(dirname "$0")/.."

all=
[ "${1:-}" = --all ] && { all=1; shift; }
root=$(realpath -m "${1:-target/matrix-units}")
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}

# The last step leaves the mark, so that half a folder is made anew.
if [ ! -e "$root/.ready" ]; then
    rm -rf "$root"
    debootstrap --variant=minbase trixie "$root" "$mirror" >/dev/null
    echo "deb $mirror trixie-backports main" >"$root/etc/apt/sources.list.d/backports.list"
    chroot "$root" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get install -y -qq --no-install-recommends -t trixie-backports \
        mesa-vulkan-drivers libvulkan1 >/dev/null
    touch "$root/.ready"
fi

# Built against an older C library than the folder's, so it runs there.
cargo build --release --bin gristmill
install target/release/gristmill "$root/usr/local/bin/gristmill"

ops=(linear norm_linear matmul_transpose_b)
[ -n "$all" ] && ops=("")
mkdir -p "$root/tmp/run" && chmod 700 "$root/tmp/run"
rm -f "$root"/tmp/report-*.json
# Most of the time is the driver's, compiling; side by side.
jobs=()
for op in "${ops[@]}"; do
    chroot "$root" env XDG_RUNTIME_DIR=/tmp/run /usr/local/bin/gristmill verify --backend gpu --arithmetic f16 \
        ${op:+--op "$op"} --out "/tmp/report-$op.json" &
    jobs+=($!)
done
failed=0
for job in "${jobs[@]}"; do wait "$job" || failed=1; done

# One number per operation and type: "matmul_transpose_b_matrix8": 156
ran=$(grep -oh '"matmul_transpose_b_matrix[0-9]*": [0-9]*' "$root"/tmp/report-*.json | awk '{ n += $2 } END { print n + 0 }')
adapter=$(sed -n 's/^ *"\(name\|driver\)": "\(.*\)",\{0,1\}$/\2/p' "$root"/tmp/report-*.json | sort -u | paste -sd' ')
echo "$ran cases ran on a kernel of matrix units, on $adapter"
[ "$failed" = 0 ] && [ "$ran" -gt 0 ]
