//! op: swiglu
//! out[r, i] = silu(x[r, i]) x[r, n + i].   x:[m, 2n]  out:[m, n]
//! Gate and up lie in one row, as a product with both matrices at once leaves them; the second half starts at any element,
//! so the elements are read one by one. Shazeer 2020, arXiv 2002.05202.
//! grid: ceil(m * out_pitch / WG)

/// Invocations per workgroup. Tune: 32u, 64u, 128u, 256u
const WG = 64u;

struct Params {
    /// Rows.
    m: u32,
    /// Columns of out.
    n: u32,
    /// Row pitch of x, in elements.
    x_pitch: u32,
    /// Row pitch of out, in elements.
    out_pitch: u32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;

/// As in silu.wgsl.
fn silu(v: f32) -> f32 {
    let e = exp(-min(abs(v), 100.0));
    return select(v, max(v, -100.0) * e, v < 0.0) / (1.0 + e);
}

@compute @workgroup_size(WG)
fn swiglu(
    @builtin(global_invocation_id) id: vec3u,
    @builtin(num_workgroups) groups: vec3u,
) {
    let at = id.y * groups.x * WG + id.x;
    if at >= p.m * p.out_pitch {
        return;
    }
    let column = at % p.out_pitch;
    var value = 0.0;
    if column < p.n {
        let gate = at / p.out_pitch * p.x_pitch + column;
        value = silu(x[gate]) * x[gate + p.n];
    }
    out[at] = value;
}
