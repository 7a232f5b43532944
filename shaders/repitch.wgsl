//! op: repitch
//! out[i, j, r, c] = x[i, j, r, c], where the rows of x start anywhere and those of out at multiples of a pitch; what is left
//! of a row of out is zero.   x:[outer, inner, m, n]  out:[outer, inner, m, n], 32-bit elements of any kind
//! How a caller's dense rows, and views with rows far apart, come to start at multiples of 16 bytes, and back.
//! grid: ceil(rows * out_pitch / WG)

/// Invocations per workgroup. Tune: 32u, 64u, 128u, 256u
const WG = 64u;

struct Params {
    /// Rows of all batches.
    rows: u32,
    /// Rows of a matrix.
    m: u32,
    /// Matrices of an outer batch.
    inner: u32,
    /// Columns.
    n: u32,
    /// First element of x.
    x_offset: u32,
    /// Elements of x from one outer batch to the next.
    x_outer: u32,
    /// Elements of x from one matrix of an outer batch to the next.
    x_inner: u32,
    /// Elements of x from one row to the next.
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
    if at >= p.rows * p.out_pitch {
        return;
    }
    let row = at / p.out_pitch;
    let column = at % p.out_pitch;
    let batch = row / p.m;
    let start = p.x_offset + batch / p.inner * p.x_outer + batch % p.inner * p.x_inner + row % p.m * p.x_pitch;
    out[at] = select(0u, x[start + min(column, p.n - 1u)], column < p.n);
}
