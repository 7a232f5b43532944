//! op: layer_norm
//! out[r] = (x[r0 + r] - mean) / sqrt(variance + eps) * weight + bias.   x:[_, n]  weight, bias:[n]  out:[m, n]
//! A workgroup owns ROWS rows, a row LANES of its invocations. Mean first, then the variance around it: the one-pass form
//! E[x^2] - E[x]^2 cancels. Ba, Kiros, Hinton 2016, arXiv 1607.06450.
//! grid: ceil(m / ROWS)

/// Invocations per workgroup. Tune: 8u, 16u, 32u, 64u, 128u, 256u
const WG = 64u;
/// Rows per workgroup. Tune: 1u, 2u, 4u, 8u
const ROWS = 1u;

const LANES = WG / ROWS;
const_assert WG % ROWS == 0u;

struct Params {
    /// Rows of out.
    m: u32,
    /// Columns.
    n: u32,
    /// First row of x.
    row0: u32,
    /// Added to the variance.
    eps: f32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> weight: array<vec4f>;
@group(0) @binding(2) var<storage, read> bias: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> out: array<vec4f>;

var<workgroup> partial: array<f32, WG>;

/// A quad of the row at `begin`, less the row's mean; zero behind its end, which is not as far from the mean as that.
fn centred(begin: u32, quad: u32, mean: f32) -> vec4f {
    let inside = vec4u(0u, 1u, 2u, 3u) < vec4u(p.n - 4u * quad);
    return select(vec4f(), x[begin + quad] - mean, inside);
}

/// The sum of `value` over the lanes of a row, in each of them.
fn row_sum(index: u32, value: f32) -> f32 {
    if LANES == 1u {
        return value;
    }
    let lane = index % LANES;
    workgroupBarrier();
    partial[index] = value;
    for (var reach = LANES / 2u; reach > 0u; reach /= 2u) {
        workgroupBarrier();
        if lane < reach {
            partial[index] += partial[index + reach];
        }
    }
    workgroupBarrier();
    return partial[index - lane];
}

@compute @workgroup_size(WG)
fn layer_norm(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) index: u32,
) {
    let lane = index % LANES;
    let row = (group.y * groups.x + group.x) * ROWS + index / LANES;
    let quads = (p.n + 3u) / 4u;
    // What is beyond the last row goes along, for all of a workgroup must come to its barriers.
    let begin = (p.row0 + min(row, p.m - 1u)) * quads;
    var sums = vec4f();
    for (var quad = lane; quad < quads; quad += LANES) {
        sums += x[begin + quad];
    }
    let mean = row_sum(index, dot(sums, vec4f(1.0))) / f32(p.n);
    var squares = vec4f();
    for (var quad = lane; quad < quads; quad += LANES) {
        let value = centred(begin, quad, mean);
        squares += value * value;
    }
    let scale = inverseSqrt(row_sum(index, dot(squares, vec4f(1.0))) / f32(p.n) + p.eps);
    if row >= p.m {
        return;
    }
    for (var quad = lane; quad < quads; quad += LANES) {
        out[row * quads + quad] = centred(begin, quad, mean) * scale * weight[quad] + bias[quad];
    }
}
