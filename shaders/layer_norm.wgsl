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
    /// Row pitch of x, in elements.
    x_pitch: u32,
    /// Row pitch of out, in elements.
    out_pitch: u32,
    /// First row of x.
    row0: u32,
    /// Added to the variance.
    eps: f32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

var<workgroup> partial: array<f32, WG>;

/// Four elements that lie LANES apart: a lane's neighbours are its row's.
fn four(at: u32) -> vec4f {
    return vec4f(x[at], x[at + LANES], x[at + 2u * LANES], x[at + 3u * LANES]);
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
    // What is beyond the last row goes along, for all of a workgroup must come to its barriers.
    let begin = (p.row0 + min(row, p.m - 1u)) * p.x_pitch;
    // Fours first, for a round of a loop costs as much as what is done in it; then what is left.
    let whole = p.n - p.n % (4u * LANES);
    var sums = vec4f();
    for (var i = lane; i < whole; i += 4u * LANES) {
        sums += four(begin + i);
    }
    for (var i = whole + lane; i < p.n; i += LANES) {
        sums.x += x[begin + i];
    }
    let mean = row_sum(index, dot(sums, vec4f(1.0))) / f32(p.n);
    var squares = vec4f();
    for (var i = lane; i < whole; i += 4u * LANES) {
        let centred = four(begin + i) - mean;
        squares += centred * centred;
    }
    for (var i = whole + lane; i < p.n; i += LANES) {
        let centred = x[begin + i] - mean;
        squares.x += centred * centred;
    }
    let scale = inverseSqrt(row_sum(index, dot(squares, vec4f(1.0))) / f32(p.n) + p.eps);
    if row >= p.m {
        return;
    }
    let to = row * p.out_pitch;
    for (var i = lane; i < whole; i += 4u * LANES) {
        let weights = vec4f(weight[i], weight[i + LANES], weight[i + 2u * LANES], weight[i + 3u * LANES]);
        let biases = vec4f(bias[i], bias[i + LANES], bias[i + 2u * LANES], bias[i + 3u * LANES]);
        let value = (four(begin + i) - mean) * scale * weights + biases;
        out[to + i] = value.x;
        out[to + i + LANES] = value.y;
        out[to + i + 2u * LANES] = value.z;
        out[to + i + 3u * LANES] = value.w;
    }
    for (var i = whole + lane; i < p.out_pitch; i += LANES) {
        var value = 0.0;
        if i < p.n {
            value = (x[begin + i] - mean) * scale * weight[i] + bias[i];
        }
        out[to + i] = value;
    }
}
