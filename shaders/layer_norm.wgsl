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

/// Between the elements that an invocation has in hand at once.
const STRIDES = vec4u(0u, WG, 2u * WG, 3u * WG);

var<workgroup> partial: array<f32, WG>;

/// Four elements that lie WG apart: a lane's neighbours are its workgroup's.
fn four(at: vec4u) -> vec4f {
    return vec4f(x[at.x], x[at.y], x[at.z], x[at.w]);
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
    let last = vec4u(p.n - 1u);
    var sums = vec4f();
    for (var i = lane + STRIDES; i.x < p.n; i += 4u * WG) {
        sums += select(vec4f(), four(begin + min(i, last)), i <= last);
    }
    let mean = workgroup_sum(lane, dot(sums, vec4f(1.0))) / f32(p.n);
    var squares = vec4f();
    for (var i = lane + STRIDES; i.x < p.n; i += 4u * WG) {
        let centred = select(vec4f(), four(begin + min(i, last)) - mean, i <= last);
        squares += centred * centred;
    }
    let scale = inverseSqrt(workgroup_sum(lane, dot(squares, vec4f(1.0))) / f32(p.n) + p.eps);
    for (var i = lane + STRIDES; i.x < p.out_pitch; i += 4u * WG) {
        let at = min(i, last);
        let weights = vec4f(weight[at.x], weight[at.y], weight[at.z], weight[at.w]);
        let biases = vec4f(bias[at.x], bias[at.y], bias[at.z], bias[at.w]);
        let value = select(vec4f(), (four(begin + at) - mean) * scale * weights + biases, i <= last);
        out[row * p.out_pitch + i.x] = value.x;
        if i.y < p.out_pitch {
            out[row * p.out_pitch + i.y] = value.y;
        }
        if i.z < p.out_pitch {
            out[row * p.out_pitch + i.z] = value.z;
        }
        if i.w < p.out_pitch {
            out[row * p.out_pitch + i.w] = value.w;
        }
    }
}
