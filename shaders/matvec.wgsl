//! op: matvec
//! out[r, column + j] = activation(sum over i of norm(x[r])[i] w[j, i] + bias[column + j]).
//! x:[M, k]  w:[n, k]  bias:[_]  gain, shift:[k]  out:[M, _], M = 1..8.
//! The norm is computed by every workgroup anew: x is short, and a dispatch of its own would cost more.
//! A workgroup owns ROWS rows of w and reads each of them once, for all rows of x. Its invocations stride along k and
//! meet in a tree over workgroup memory. No subgroup operations: this is the kernel that runs everywhere.
//! grid: ceil(columns / ROWS)

/// Invocations per workgroup. Tune: 32u, 64u, 128u
const WG = 64u;
/// Rows of w per workgroup. Tune: 1u, 2u, 4u
const ROWS = 4u;
/// Rows of x. Mode: 1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u
const M = 1u;
/// Adds the bias. Mode: 0u, 1u
const BIAS = 0u;
/// 0: none, 1: relu, 2: gelu, tanh form, 3: gelu, exact form, 4: silu. Mode: 0u, 1u, 2u, 3u, 4u
const ACTIVATION = 0u;
/// Adds what out holds to the product. Mode: 0u, 1u
const ACCUMULATE = 0u;
/// Rows of x are 0: as they are, 1: divided by their root mean square, 2: normed by mean and variance. Mode: 0u, 1u, 2u
const NORM = 0u;
/// Rows j and n + j of w make one column, the activation of the first times the second. Mode: 0u, 1u
const GATED = 0u;

/// Products of a row with the rows of w that make one column.
const PARTS = 1u + GATED;
const SUMS = ROWS * PARTS * M;
const_assert WG * SUMS * 4u <= 16384u;

struct Params {
    /// Rows of w, or half of them where they are gated.
    n: u32,
    /// Columns of x.
    k: u32,
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
    /// Added to the mean square, or to the variance.
    eps: f32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> w: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> gain: array<vec4f>;
@group(0) @binding(4) var<storage, read> shift: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

var<workgroup> partial: array<f32, WG * SUMS>;

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
        let b = min(0.8493218 * abs(v), 12.0);
        let above = b * (8.195748 + b * (6.6765213 + b * (2.5088072 + b * 0.39882722)));
        let below = 13.921657 + b * (24.419458 + b * (17.55341 + b * (6.280563 + b)));
        return select(v, 0.0, v < 0.0) - above / below * exp2(-b * b);
    }
    if ACTIVATION == 4u {
        return gated(v, -v);
    }
    return v;
}

/// The sum of the values of all invocations.
fn total(value: f32, lane: u32) -> f32 {
    workgroupBarrier();
    partial[lane] = value;
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half {
            partial[lane] += partial[lane + half];
        }
    }
    workgroupBarrier();
    return partial[0];
}

/// What row r of x is moved and multiplied by. All invocations come here together.
fn moments(r: u32, lane: u32) -> vec2f {
    let begin = r * p.x_pitch;
    let quads = (p.k + 3u) / 4u;
    var mean = 0.0;
    if NORM == 2u {
        var sum = vec4f();
        for (var quad = lane; quad < quads; quad += WG) {
            sum += x[begin + quad];
        }
        mean = total(dot(sum, vec4f(1.0)), lane) / f32(p.k);
    }
    var squares = 0.0;
    for (var quad = lane; quad < quads; quad += WG) {
        // The tail of a row is zero, and not as far from the mean as that.
        let inside = vec4u(0u, 1u, 2u, 3u) < vec4u(p.k - 4u * quad);
        let value = select(vec4f(), x[begin + quad] - mean, inside);
        squares += dot(value, value);
    }
    return vec2f(mean, inverseSqrt(total(squares, lane) / f32(p.k) + p.eps));
}

/// Four neighbours of row r of x, normed.
fn x4(r: u32, quad: u32, moment: vec2f) -> vec4f {
    let value = x[r * p.x_pitch + quad];
    if NORM == 0u {
        return value;
    }
    let normed = (value - moment.x) * moment.y * gain[quad];
    if NORM == 1u {
        return normed;
    }
    return normed + shift[quad];
}

@compute @workgroup_size(WG)
fn matvec(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let row0 = (group.y * groups.x + group.x) * ROWS;
    var moment: array<vec2f, M>;
    if NORM != 0u {
        for (var r = 0u; r < M; r++) {
            moment[r] = moments(r, lane);
        }
        workgroupBarrier();
    }
    var sums: array<f32, SUMS>;
    for (var quad = lane; quad < (p.k + 3u) / 4u; quad += WG) {
        var columns: array<vec4f, M>;
        for (var r = 0u; r < M; r++) {
            columns[r] = x4(r, quad, moment[r]);
        }
        for (var j = 0u; j < ROWS * PARTS; j++) {
            // Past the last row its sums are not looked at.
            let weights = weight4(min(row0 + j / PARTS, p.n - 1u) + j % PARTS * p.n, quad);
            for (var r = 0u; r < M; r++) {
                sums[j * M + r] += dot(weights, columns[r]);
            }
        }
    }
    for (var s = 0u; s < SUMS; s++) {
        partial[lane * SUMS + s] = sums[s];
    }
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half {
            for (var s = 0u; s < SUMS; s++) {
                partial[lane * SUMS + s] += partial[(lane + half) * SUMS + s];
            }
        }
    }
    workgroupBarrier();
    for (var s = lane; s < ROWS * M; s += WG) {
        let j = row0 + s / M;
        if j < p.columns {
            let at = (s % M) * p.out_pitch + p.column + j;
            var sum = 0.0;
            if j < p.n {
                let first = s / M * PARTS * M + s % M;
                sum = partial[first];
                if ACCUMULATE == 1u {
                    sum += out[at];
                }
                if BIAS == 1u {
                    sum += bias[p.column + j];
                }
                sum = activation(sum);
                if GATED == 1u {
                    var factor = partial[first + M];
                    if BIAS == 1u {
                        factor += bias[p.n + j];
                    }
                    sum *= factor;
                }
            }
            out[at] = sum;
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
