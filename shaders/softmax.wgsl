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
    /// Row pitch, in elements.
    pitch: u32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read_write> x: array<f32>;

var<workgroup> partial: array<f32, WG>;

/// Four elements that lie LANES apart: a lane's neighbours are its row's.
fn four(at: u32) -> vec4f {
    return vec4f(x[at], x[at + LANES], x[at + 2u * LANES], x[at + 3u * LANES]);
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
    // What is beyond the last row goes along, for all of a workgroup must come to its barriers.
    let begin = min(row, p.m - 1u) * p.pitch;
    var highest4 = vec4f(-3.4028234e38);
    // Fours first, for a round of a loop costs as much as what is done in it; then what is left.
    let whole = p.n - p.n % (4u * LANES);
    for (var i = lane; i < whole; i += 4u * LANES) {
        highest4 = max(highest4, four(begin + i));
    }
    for (var i = whole + lane; i < p.n; i += LANES) {
        highest4.x = max(highest4.x, x[begin + i]);
    }
    let highest = row_highest(index, max(max(highest4.x, highest4.y), max(highest4.z, highest4.w)));

    var sum4 = vec4f();
    for (var i = lane; i < whole; i += 4u * LANES) {
        sum4 += exp(four(begin + i) - highest);
    }
    for (var i = whole + lane; i < p.n; i += LANES) {
        sum4.x += exp(x[begin + i] - highest);
    }
    let sum = row_sum(index, dot(sum4, vec4f(1.0)));
    if row >= p.m {
        return;
    }
    let log_sum = log(sum);
    for (var i = begin + lane; i < begin + whole; i += 4u * LANES) {
        let value = normal(four(i) - highest, sum, log_sum);
        x[i] = value.x;
        x[i + LANES] = value.y;
        x[i + 2u * LANES] = value.z;
        x[i + 3u * LANES] = value.w;
    }
    for (var i = begin + whole + lane; i < begin + p.n; i += LANES) {
        x[i] = normal(vec4f(x[i] - highest), sum, log_sum).x;
    }
}
