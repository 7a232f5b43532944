//! op: rms_norm
//! out[r] = x[r0 + r] / sqrt(mean of x[r0 + r]^2 + eps) * weight.   x:[_, n]  weight:[n]  out:[m, n]
//! A workgroup owns a row. Zhang, Sennrich 2019, arXiv 1910.07467.
//! grid: m

/// Invocations per workgroup. Tune: 32u, 64u, 128u, 256u
const WG = 64u;

struct Params {
    /// Rows of out.
    m: u32,
    /// Columns.
    n: u32,
    /// First row of x.
    row0: u32,
    /// Added to the mean square.
    eps: f32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> weight: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4f>;

var<workgroup> partial: array<f32, WG>;

@compute @workgroup_size(WG)
fn rms_norm(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = group.y * groups.x + group.x;
    if row >= p.m {
        return;
    }
    let quads = (p.n + 3u) / 4u;
    let begin = (p.row0 + row) * quads;
    var squares = vec4f();
    for (var quad = lane; quad < quads; quad += WG) {
        squares += x[begin + quad] * x[begin + quad];
    }
    partial[lane] = dot(squares, vec4f(1.0));
    for (var reach = WG / 2u; reach > 0u; reach /= 2u) {
        workgroupBarrier();
        if lane < reach {
            partial[lane] += partial[lane + reach];
        }
    }
    workgroupBarrier();
    let scale = inverseSqrt(partial[0] / f32(p.n) + p.eps);
    for (var quad = lane; quad < quads; quad += WG) {
        out[row * quads + quad] = x[begin + quad] * scale * weight[quad];
    }
}
