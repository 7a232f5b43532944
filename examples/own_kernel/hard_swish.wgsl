//! op: hard_swish
//! x = x clamp(x + 3, 0, 6) / 6 * gain[i], in place.   x:[m, n]  gain:[n]
//! A kernel that gristmill does not have. Howard et al. 2019, arXiv 1905.02244.

/// Invocations per workgroup. Tune: 32u, 64u, 128u, 256u
const WG = 64u;

struct Params {
    /// Rows.
    m: u32,
    /// Columns.
    n: u32,
    /// Elements from one row of x to the next.
    pitch: u32,
    /// What to divide by.
    six: f32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> gain: array<f32>;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(WG)
fn hard_swish(@builtin(global_invocation_id) id: vec3u) {
    let column = id.x % p.pitch;
    if id.x < p.m * p.pitch && column < p.n {
        let v = x[id.x];
        x[id.x] = v * clamp(v + 3.0, 0.0, 6.0) / p.six * gain[column];
    }
}
