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

/// Between the elements that an invocation has in hand at once.
const STRIDES = vec4u(0u, WG, 2u * WG, 3u * WG);

var<workgroup> partial: array<f32, WG>;

/// Four elements that lie WG apart: a lane's neighbours are its workgroup's.
fn four(at: vec4u) -> vec4f {
    return vec4f(x[at.x], x[at.y], x[at.z], x[at.w]);
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
    let last = vec4u(p.n - 1u);
    var highest4 = vec4f(-3.4028234e38);
    for (var i = lane + STRIDES; i.x < p.n; i += 4u * WG) {
        highest4 = max(highest4, four(begin + min(i, last)));
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
    for (var i = lane + STRIDES; i.x < p.n; i += 4u * WG) {
        sum4 += select(vec4f(), exp(four(begin + min(i, last)) - highest), i <= last);
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
    for (var i = lane + STRIDES; i.x < p.n; i += 4u * WG) {
        let centred = four(begin + min(i, last)) - highest;
        var value = exp(centred) / sum;
        if LOG == 1u {
            value = centred - log_sum;
        }
        x[begin + i.x] = value.x;
        if i.y < p.n {
            x[begin + i.y] = value.y;
        }
        if i.z < p.n {
            x[begin + i.z] = value.z;
        }
        if i.w < p.n {
            x[begin + i.w] = value.w;
        }
    }
}
