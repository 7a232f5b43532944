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

/// Four elements that lie WG apart: a lane's neighbours are its workgroup's.
fn four(at: u32) -> vec4f {
    return vec4f(x[at], x[at + WG], x[at + 2u * WG], x[at + 3u * WG]);
}

/// What is written, from the difference to the highest.
fn normal(centred: vec4f, sum: f32, log_sum: f32) -> vec4f {
    if LOG == 1u {
        return centred - log_sum;
    }
    return exp(centred) / sum;
}

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
    var highest4 = vec4f(-3.4028234e38);
    // Fours first, for a round of a loop costs as much as what is done in it; then what is left.
    let whole = p.n - p.n % (4u * WG);
    for (var i = lane; i < whole; i += 4u * WG) {
        highest4 = max(highest4, four(begin + i));
    }
    for (var i = whole + lane; i < p.n; i += WG) {
        highest4.x = max(highest4.x, x[begin + i]);
    }
    var highest = max(max(highest4.x, highest4.y), max(highest4.z, highest4.w));
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

    var sum4 = vec4f();
    for (var i = lane; i < whole; i += 4u * WG) {
        sum4 += exp(four(begin + i) - highest);
    }
    for (var i = whole + lane; i < p.n; i += WG) {
        sum4.x += exp(x[begin + i] - highest);
    }
    var sum = dot(sum4, vec4f(1.0));
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
    for (var i = begin + lane; i < begin + whole; i += 4u * WG) {
        let value = normal(four(i) - highest, sum, log_sum);
        x[i] = value.x;
        x[i + WG] = value.y;
        x[i + 2u * WG] = value.z;
        x[i + 3u * WG] = value.w;
    }
    for (var i = begin + whole + lane; i < begin + p.n; i += WG) {
        x[i] = normal(vec4f(x[i] - highest), sum, log_sum).x;
    }
}
