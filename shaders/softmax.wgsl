//! op: softmax
//! x[r, i] = exp(x[r, i] - max) / sum over i of exp(x[r, i] - max), in place, or its logarithm.   x:[m, n]
//! A workgroup owns a row, of any length.
//! grid: m

/// Invocations per workgroup. Tune: 32u, 64u, 128u, 256u
const WG = 64u;
/// The logarithm: x[r, i] - max - ln(sum). Mode: 0u, 1u
const LOG = 0u;

struct Params {
    /// Rows.
    m: u32,
    /// Columns.
    n: u32,
    /// Row pitch, in elements.
    pitch: u32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read_write> x: array<f32>;

var<workgroup> partial: array<f32, WG>;

@compute @workgroup_size(WG)
fn softmax(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = group.y * groups.x + group.x;
    if row >= p.m {
        return;
    }
    let begin = row * p.pitch;
    var highest = -3.4028234e38;
    for (var i = lane; i < p.n; i += WG) {
        highest = max(highest, x[begin + i]);
    }
    partial[lane] = highest;
    for (var reach = WG / 2u; reach > 0u; reach /= 2u) {
        workgroupBarrier();
        if lane < reach {
            partial[lane] = max(partial[lane], partial[lane + reach]);
        }
    }
    workgroupBarrier();
    highest = partial[0];
    workgroupBarrier();

    var sum = 0.0;
    for (var i = lane; i < p.n; i += WG) {
        let value = exp(x[begin + i] - highest);
        if LOG == 0u {
            x[begin + i] = value;
        }
        sum += value;
    }
    partial[lane] = sum;
    for (var reach = WG / 2u; reach > 0u; reach /= 2u) {
        workgroupBarrier();
        if lane < reach {
            partial[lane] += partial[lane + reach];
        }
    }
    workgroupBarrier();
    sum = partial[0];
    let log_sum = log(sum);
    for (var i = lane; i < p.n; i += WG) {
        if LOG == 1u {
            x[begin + i] = x[begin + i] - highest - log_sum;
        } else {
            x[begin + i] /= sum;
        }
    }
}
