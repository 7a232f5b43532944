//! op: repitch
//! out[r, i] = x[r, i], where rows of x and out start at other distances; what is left of a row of out is zero.
//! x:[m, n]  out:[m, n], 32-bit elements of any kind
//! How a caller's dense rows come to start at multiples of 16 bytes, and back.

/// Invocations per workgroup. Tune: 32u, 64u, 128u, 256u
const WG = 64u;

struct Params {
    /// Rows.
    m: u32,
    /// Columns.
    n: u32,
    /// Row pitch of x, in elements.
    x_pitch: u32,
    /// Row pitch of out, in elements.
    out_pitch: u32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;

@compute @workgroup_size(WG)
fn repitch(
    @builtin(global_invocation_id) id: vec3u,
    @builtin(num_workgroups) groups: vec3u,
) {
    let at = id.y * groups.x * WG + id.x;
    if at >= p.m * p.out_pitch {
        return;
    }
    let row = at / p.out_pitch;
    let column = at % p.out_pitch;
    out[at] = select(0u, x[row * p.x_pitch + min(column, p.n - 1u)], column < p.n);
}
