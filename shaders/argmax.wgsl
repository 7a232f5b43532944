//! op: argmax
//! out[r] = (the lowest i with the largest x[r, i], how many x[r, i] are NaN or infinite).   x:[m, n]  out:[m, 2]
//! A workgroup owns a row. Integers throughout: WGSL may assume that a float is never NaN, so the bits are compared, by a
//! key that orders them as the floats they are.
//! grid: m

/// Invocations per workgroup. Tune: 32u, 64u, 128u, 256u
const WG = 64u;

struct Params {
    /// Rows.
    m: u32,
    /// Columns.
    n: u32,
    /// Row pitch of x, in elements.
    x_pitch: u32,
    /// Row pitch of out, in words.
    out_pitch: u32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;

var<workgroup> keys: array<u32, WG>;
var<workgroup> ids: array<u32, WG>;
var<workgroup> faults: array<u32, WG>;

/// Orders the bits of finite floats as the floats; -0 and 0 are one.
fn order(bits: u32) -> u32 {
    if bits >= 0x80000000u {
        return 0x80000000u - (bits - 0x80000000u);
    }
    return bits + 0x80000000u;
}

@compute @workgroup_size(WG)
fn argmax(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = group.y * groups.x + group.x;
    if row >= p.m {
        return;
    }
    var key = 0u;
    var id = 0xffffffffu;
    var fault = 0u;
    for (var i = lane; i < p.n; i += WG) {
        let bits = x[row * p.x_pitch + i];
        let candidate = order(bits);
        // Ascending i: a tie keeps the lower one.
        if candidate > key || id == 0xffffffffu {
            key = candidate;
            id = i;
        }
        fault += u32((bits & 0x7f800000u) == 0x7f800000u);
    }
    keys[lane] = key;
    ids[lane] = id;
    faults[lane] = fault;
    for (var reach = WG / 2u; reach > 0u; reach /= 2u) {
        workgroupBarrier();
        if lane < reach {
            let other = lane + reach;
            if keys[other] > keys[lane] || (keys[other] == keys[lane] && ids[other] < ids[lane]) {
                keys[lane] = keys[other];
                ids[lane] = ids[other];
            }
            faults[lane] += faults[other];
        }
    }
    if lane == 0u {
        let at = row * p.out_pitch;
        out[at] = ids[0];
        out[at + 1u] = faults[0];
        // The tail of a row is zero.
        for (var i = 2u; i < p.out_pitch; i++) {
            out[at + i] = 0u;
        }
    }
}
