//! op: add_rms_norm
//! x += y, then out[r] = x[r] / sqrt(mean of x[r]^2 + eps) * weight.   x, y, out:[m, n]  weight:[n]
//! The end of one block of a transformer and the beginning of the next. A workgroup owns a row; what an invocation reads
//! back of x is what it wrote itself.
//! grid: m

/// Invocations per workgroup. Tune: 32u, 64u, 128u, 256u
const WG = 64u;

struct Params {
    /// Rows.
    m: u32,
    /// Columns.
    n: u32,
    /// Added to the mean square.
    eps: f32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> y: array<vec4f>;
@group(0) @binding(1) var<storage, read> weight: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> x: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> out: array<vec4f>;

var<workgroup> partial: array<f32, WG>;

@compute @workgroup_size(WG)
fn add_rms_norm(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = group.y * groups.x + group.x;
    if row >= p.m {
        return;
    }
    let quads = (p.n + 3u) / 4u;
    let begin = row * quads;
    var squares = vec4f();
    for (var quad = lane; quad < quads; quad += WG) {
        let value = x[begin + quad] + y[begin + quad];
        x[begin + quad] = value;
        squares += value * value;
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
        out[begin + quad] = x[begin + quad] * scale * weight[quad];
    }
}
