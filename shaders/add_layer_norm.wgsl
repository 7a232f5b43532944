//! op: add_layer_norm
//! x += y, then out[r] = (x[r] - mean) / sqrt(variance + eps) * weight + bias.   x, y, out:[m, n]  weight, bias:[n]
//! The end of one block of a transformer and the beginning of the next. A workgroup owns a row; what an invocation reads
//! back of x is what it wrote itself. Mean first, then the variance around it, as in layer_norm.
//! grid: m

/// Invocations per workgroup. Tune: 32u, 64u, 128u, 256u
const WG = 64u;

struct Params {
    /// Rows.
    m: u32,
    /// Columns.
    n: u32,
    /// Added to the variance.
    eps: f32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> y: array<vec4f>;
@group(0) @binding(1) var<storage, read> weight: array<vec4f>;
@group(0) @binding(2) var<storage, read> bias: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> x: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> out: array<vec4f>;

var<workgroup> partial: array<f32, WG>;

/// A quad of the row at `begin`, less the row's mean; zero behind its end, which is not as far from the mean as that.
fn centred(begin: u32, quad: u32, mean: f32) -> vec4f {
    let inside = vec4u(0u, 1u, 2u, 3u) < vec4u(p.n - 4u * quad);
    return select(vec4f(), x[begin + quad] - mean, inside);
}

/// The sum of `value` over the workgroup, in every invocation.
fn workgroup_sum(lane: u32, value: f32) -> f32 {
    workgroupBarrier();
    partial[lane] = value;
    for (var reach = WG / 2u; reach > 0u; reach /= 2u) {
        workgroupBarrier();
        if lane < reach {
            partial[lane] += partial[lane + reach];
        }
    }
    workgroupBarrier();
    return partial[0];
}

@compute @workgroup_size(WG)
fn add_layer_norm(
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
    var sums = vec4f();
    for (var quad = lane; quad < quads; quad += WG) {
        let value = x[begin + quad] + y[begin + quad];
        x[begin + quad] = value;
        sums += value;
    }
    let mean = workgroup_sum(lane, dot(sums, vec4f(1.0))) / f32(p.n);
    var squares = vec4f();
    for (var quad = lane; quad < quads; quad += WG) {
        let value = centred(begin, quad, mean);
        squares += value * value;
    }
    let scale = inverseSqrt(workgroup_sum(lane, dot(squares, vec4f(1.0))) / f32(p.n) + p.eps);
    for (var quad = lane; quad < quads; quad += WG) {
        out[begin + quad] = centred(begin, quad, mean) * scale * weight[quad] + bias[quad];
    }
}
