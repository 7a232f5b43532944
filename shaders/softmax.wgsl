//! op: softmax
//! x[r, i] = exp(x[r, i] - max) / sum over i of exp(x[r, i] - max), in place, or its logarithm.   x:[m, n]
//! A workgroup owns ROWS rows, a row LANES of its invocations.
//! grid: ceil(m / ROWS)

/// Invocations per workgroup. Tune: 8u, 16u, 32u, 64u, 128u, 256u
const WG = 64u;
/// Rows per workgroup. Tune: 1u, 2u, 4u, 8u
const ROWS = 1u;
/// The logarithm: x[r, i] - max - ln(sum). Mode: 0u, 1u
const LOG = 0u;

const LANES = WG / ROWS;
const_assert WG % ROWS == 0u;

struct Params {
    /// Rows.
    m: u32,
    /// Columns.
    n: u32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read_write> x: array<vec4f>;

var<workgroup> partial: array<f32, WG>;

/// Which elements of a quad are a row's: the last one may have fewer.
fn inside(quad: u32) -> vec4<bool> {
    return vec4u(0u, 1u, 2u, 3u) < vec4u(p.n - 4u * quad);
}

/// What is written, from the difference to the highest.
fn normal(centred: vec4f, sum: f32, log_sum: f32) -> vec4f {
    if LOG == 1u {
        return centred - log_sum;
    }
    return exp(centred) / sum;
}

/// The highest of `value` over the lanes of a row, in each of them.
fn row_highest(index: u32, value: f32) -> f32 {
    if LANES == 1u {
        return value;
    }
    let lane = index % LANES;
    partial[index] = value;
    for (var reach = LANES / 2u; reach > 0u; reach /= 2u) {
        workgroupBarrier();
        if lane < reach {
            partial[index] = max(partial[index], partial[index + reach]);
        }
    }
    workgroupBarrier();
    return partial[index - lane];
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
fn softmax(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) index: u32,
) {
    let lane = index % LANES;
    let row = (group.y * groups.x + group.x) * ROWS + index / LANES;
    let quads = (p.n + 3u) / 4u;
    // What is beyond the last row goes along, for all of a workgroup must come to its barriers.
    let begin = min(row, p.m - 1u) * quads;
    const LOWEST = vec4f(-3.4028234e38);
    var highest4 = LOWEST;
    for (var quad = lane; quad < quads; quad += LANES) {
        highest4 = max(highest4, select(LOWEST, x[begin + quad], inside(quad)));
    }
    let highest = row_highest(index, max(max(highest4.x, highest4.y), max(highest4.z, highest4.w)));
    var sum4 = vec4f();
    for (var quad = lane; quad < quads; quad += LANES) {
        sum4 += select(vec4f(), exp(x[begin + quad] - highest), inside(quad));
    }
    let sum = row_sum(index, dot(sum4, vec4f(1.0)));
    if row >= p.m {
        return;
    }
    let log_sum = log(sum);
    for (var quad = lane; quad < quads; quad += LANES) {
        // The tail of a row stays zero.
        x[begin + quad] = select(vec4f(), normal(x[begin + quad] - highest, sum, log_sum), inside(quad));
    }
}
