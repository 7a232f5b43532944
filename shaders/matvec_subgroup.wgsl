//! op: matvec
//! out[r, column + j] = activation(sum over i of x[r, i] w[j, i] + bias[column + j]).
//! x:[M, k]  w:[n, k]  bias:[_]  out:[M, _], M = 1..8.
//! A workgroup owns ROWS rows of w. Its invocations take blocks of 32 along k, which is what weight formats are made of,
//! and add up within a subgroup; the subgroups, of whatever size the device has, meet in workgroup memory.
//! grid: ceil(columns / ROWS)

/// Invocations per workgroup. Tune: 8u, 16u, 32u, 64u
const WG = 32u;
/// Rows of w per workgroup. Tune: 1u, 2u, 4u, 8u
const ROWS = 4u;
/// Rows of x. Mode: 1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u
const M = 1u;
/// Adds the bias. Mode: 0u, 1u
const BIAS = 0u;
/// 0: none, 1: relu, 2: gelu, tanh form, 3: gelu, exact form, 4: silu. Mode: 0u, 1u, 2u, 3u, 4u
const ACTIVATION = 0u;

const SUMS = ROWS * M;
/// No subgroup has fewer than four invocations.
const SUBGROUPS = (WG + 3u) / 4u;
const_assert SUBGROUPS * SUMS * 4u <= 16384u;

struct Params {
    /// Rows of w.
    n: u32,
    /// k / 4, rounded up.
    quads: u32,
    /// Row pitch of x, in quads.
    x_pitch: u32,
    /// Row pitch of w, in 16 bytes.
    w_pitch: u32,
    /// Row pitch of out, in elements.
    out_pitch: u32,
    /// First column of out.
    column: u32,
    /// Columns of out to write: n, and zeros up to the pitch where w is the last chunk.
    columns: u32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> w: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

var<workgroup> partial: array<f32, SUBGROUPS * SUMS>;

/// exp(FAR) = 2^126, the largest divisor for which WGSL vouches.
const FAR = 87.337;

/// v / (1 + exp(minus)).
fn gated(v: f32, minus: f32) -> f32 {
    return select(v / (1.0 + exp(min(minus, FAR))), 0.0, minus > FAR);
}

/// The forms of gelu.wgsl and silu.wgsl.
fn activation(v: f32) -> f32 {
    if ACTIVATION == 1u {
        return max(v, 0.0);
    }
    if ACTIVATION == 2u {
        let c = clamp(v, -13.0, 7.0);
        return gated(v, -1.5957691216057308 * (c + 0.044715 * c * c * c));
    }
    if ACTIVATION == 3u {
        let z = min(abs(v) * 0.7071067811865476, 9.3);
        let t = 1.0 / (1.0 + 0.5 * z);
        let fit = -1.26551223 + t * (1.00002368 + t * (0.37409196 + t * (0.09678418 + t * (-0.18628806
            + t * (0.27886807 + t * (-1.13520398 + t * (1.48851587 + t * (-0.82215223 + t * 0.17087277))))))));
        let tail = 0.5 * t * exp(fit - z * z);
        return select(v * select(1.0 - tail, tail, v < 0.0), 0.0, v < -13.0);
    }
    if ACTIVATION == 4u {
        return gated(v, -v);
    }
    return v;
}

@compute @workgroup_size(WG)
fn matvec_subgroup(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_invocation_id) member: u32,
) {
    let row0 = (group.y * groups.x + group.x) * ROWS;
    var sums: array<f32, SUMS>;
    let blocks = p.quads / 8u;
    for (var block = lane; block < blocks; block += WG) {
        for (var r = 0u; r < M; r++) {
            var column: array<vec4f, 8>;
            for (var i = 0u; i < 8u; i++) {
                column[i] = x[r * p.x_pitch + block * 8u + i];
            }
            for (var j = 0u; j < ROWS; j++) {
                // Past the last row its sums are not looked at.
                sums[j * M + r] += dot32(min(row0 + j, p.n - 1u), block, &column);
            }
        }
    }
    // What is left of k is less than a block.
    for (var quad = blocks * 8u + lane; quad < p.quads; quad += WG) {
        for (var j = 0u; j < ROWS; j++) {
            let weights = weight4(min(row0 + j, p.n - 1u), quad);
            for (var r = 0u; r < M; r++) {
                sums[j * M + r] += dot(weights, x[r * p.x_pitch + quad]);
            }
        }
    }
    for (var s = 0u; s < SUMS; s++) {
        let sum = subgroupAdd(sums[s]);
        if member == 0u {
            partial[subgroup * SUMS + s] = sum;
        }
    }
    workgroupBarrier();
    for (var s = lane; s < SUMS; s += WG) {
        let j = row0 + s / M;
        if j < p.columns {
            var sum = 0.0;
            if j < p.n {
                for (var g = 0u; g < subgroups; g++) {
                    sum += partial[g * SUMS + s];
                }
                if BIAS == 1u {
                    sum += bias[p.column + j];
                }
                sum = activation(sum);
            }
            out[(s % M) * p.out_pitch + p.column + j] = sum;
        }
    }
}

// --- weight format ---
/// Four neighbours of a row.
fn weight4(row: u32, quad: u32) -> vec4f {
    return bitcast<vec4f>(w[row * p.w_pitch + quad]);
}

/// The product of 32 neighbours of a row with `x`.
fn dot32(row: u32, block: u32, x: ptr<function, array<vec4f, 8>>) -> f32 {
    let at = row * p.w_pitch + block * 8u;
    var sum = vec4f();
    for (var i = 0u; i < 8u; i++) {
        sum += (*x)[i] * bitcast<vec4f>(w[at + i]);
    }
    return dot(sum, vec4f(1.0));
}
// --- end of weight format ---
