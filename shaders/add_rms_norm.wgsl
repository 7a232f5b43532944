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
    /// Row pitch of x, in elements.
    x_pitch: u32,
    /// Row pitch of y, in elements.
    y_pitch: u32,
    /// Row pitch of out, in elements.
    out_pitch: u32,
    /// Added to the mean square.
    eps: f32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> y: array<f32>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

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
    let begin = row * p.x_pitch;
    var squares = 0.0;
    for (var i = lane; i < p.n; i += WG) {
        let value = x[begin + i] + y[row * p.y_pitch + i];
        x[begin + i] = value;
        squares += value * value;
    }
    partial[lane] = squares;
    for (var reach = WG / 2u; reach > 0u; reach /= 2u) {
        workgroupBarrier();
        if lane < reach {
            partial[lane] += partial[lane + reach];
        }
    }
    workgroupBarrier();
    let scale = inverseSqrt(partial[0] / f32(p.n) + p.eps);
    for (var i = lane; i < p.out_pitch; i += WG) {
        var value = 0.0;
        if i < p.n {
            value = x[begin + i] * scale * weight[i];
        }
        out[row * p.out_pitch + i] = value;
    }
}
