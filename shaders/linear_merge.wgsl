//! op: linear
//! out[i, column + j] = sum over parts of x[part, i, j] + bias[column + j], added to what is there if so asked.
//! x:[parts, m, n]: of each part of the depth the product over it alone.   bias:[_]  out:[m, _]
//! An invocation owns an element. The parts are added in their order, so that results do not change from run to run.
//! grid: ceil(m * columns / WG)

/// Invocations per workgroup. Tune: 32u, 64u, 128u, 256u
const WG = 64u;
/// Adds to what is in out. Mode: 0u, 1u
const ACCUMULATE = 0u;
/// Adds the bias. Mode: 0u, 1u
const BIAS = 0u;

struct Params {
    /// Rows of out, and of each part.
    m: u32,
    /// Columns of a part.
    n: u32,
    /// Columns of out that are written: zeros up to its pitch follow the last product.
    columns: u32,
    /// Parts of the depth.
    parts: u32,
    /// Row pitch of x, in elements.
    x_pitch: u32,
    /// Row pitch of out, in elements.
    out_pitch: u32,
    /// First column of out.
    column: u32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> bias: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(WG)
fn linear_merge(
    @builtin(global_invocation_id) id: vec3u,
    @builtin(num_workgroups) groups: vec3u,
) {
    let at = id.y * groups.x * WG + id.x;
    if at >= p.m * p.columns {
        return;
    }
    let i = at / p.columns;
    let j = at % p.columns;
    let to = i * p.out_pitch + p.column + j;
    var sum = 0.0;
    if j < p.n {
        for (var part = 0u; part < p.parts; part++) {
            sum += x[(part * p.m + i) * p.x_pitch + j];
        }
        if ACCUMULATE == 1u {
            sum += out[to];
        }
        if BIAS == 1u {
            sum += bias[p.column + j];
        }
    }
    out[to] = sum;
}
