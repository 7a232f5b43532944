//! op: layer_norm
//! out[r] = (x[r0 + r] - mean) / sqrt(variance + eps) * weight + bias.   x:[_, n]  weight, bias:[n]  out:[m, n]
//! A workgroup owns a row. Mean first, then the variance around it: the one-pass form E[x^2] - E[x]^2 cancels.
//! Ba, Kiros, Hinton 2016, arXiv 1607.06450.
//! grid: m

/// Invocations per workgroup. Tune: 32u, 64u, 128u, 256u
const WG = 64u;

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

/// Four elements that lie WG apart: a lane's neighbours are its workgroup's.
fn four(at: u32) -> vec4f {
    return vec4f(x[at], x[at + WG], x[at + 2u * WG], x[at + 3u * WG]);
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
fn layer_norm(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = group.y * groups.x + group.x;
    if row >= p.m {
        return;
    }
    let begin = (p.row0 + row) * p.x_pitch;
    // Fours first, for a round of a loop costs as much as what is done in it; then what is left.
    let whole = p.n - p.n % (4u * WG);
    var sums = vec4f();
    for (var i = lane; i < whole; i += 4u * WG) {
        sums += four(begin + i);
    }
    for (var i = whole + lane; i < p.n; i += WG) {
        sums.x += x[begin + i];
    }
    let mean = workgroup_sum(lane, dot(sums, vec4f(1.0))) / f32(p.n);
    var squares = vec4f();
    for (var i = lane; i < whole; i += 4u * WG) {
        let centred = four(begin + i) - mean;
        squares += centred * centred;
    }
    for (var i = whole + lane; i < p.n; i += WG) {
        let centred = x[begin + i] - mean;
        squares.x += centred * centred;
    }
    let scale = inverseSqrt(workgroup_sum(lane, dot(squares, vec4f(1.0))) / f32(p.n) + p.eps);
    let to = row * p.out_pitch;
    for (var i = lane; i < whole; i += 4u * WG) {
        let weights = vec4f(weight[i], weight[i + WG], weight[i + 2u * WG], weight[i + 3u * WG]);
        let biases = vec4f(bias[i], bias[i + WG], bias[i + 2u * WG], bias[i + 3u * WG]);
        let value = (four(begin + i) - mean) * scale * weights + biases;
        out[to + i] = value.x;
        out[to + i + WG] = value.y;
        out[to + i + 2u * WG] = value.z;
        out[to + i + 3u * WG] = value.w;
    }
    for (var i = whole + lane; i < p.out_pitch; i += WG) {
        var value = 0.0;
        if i < p.n {
            value = (x[begin + i] - mean) * scale * weight[i] + bias[i];
        }
        out[to + i] = value;
    }
}
