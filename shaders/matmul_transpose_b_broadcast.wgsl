//! op: matmul_transpose_b
//! out[b, c, i, column + j] = activation(scale * sum over l of x[b, c, i, l] w[b / R, c / S, j, l] + bias[column + j]).
//! x:[outer, inner, m, k]  w:[outer / R, inner / S, n, k]  bias:[_]  out:[outer, inner, m, _]
//! The matrices of x and w lie anywhere in their buffers, as long as every row starts at a multiple of 16 bytes.
//! For adapters that compute on the processor. What all lanes of a subgroup read at one address is one load there, and what they
//! read at several is one for each lane, in workgroup memory as well: so a workgroup reads rows of x that are the same for all
//! of its lanes, and each lane has columns of its own, of which it reads a quad of w for eight rows of x.
//! Every sum has a name: an array of them would be indexed in memory, for their loops are not unrolled.
//! A dispatch computes all batches, outer times inner of them.
//! grid: ceil(min(4 * ceil(n / 4), out_pitch - column) / BN), ceil(m / 8), batches

/// Columns of out per workgroup, four per invocation. Tune: 32u, 64u, 128u
const BN = 32u;
/// Adds to what is in out: a later part of the depth. Mode: 0u, 1u
const ACCUMULATE = 0u;
/// Adds the bias. Mode: 0u, 1u
const BIAS = 0u;
/// 0: none, 1: relu, 2: gelu, tanh form, 3: gelu, exact form, 4: silu. Mode: 0u, 1u, 2u, 3u, 4u
const ACTIVATION = 0u;

/// Rows of out per workgroup.
const BM = 8u;
const WG = BN / 4u;

struct Params {
    /// Rows of x and out, per batch.
    m: u32,
    /// Rows of w, per batch.
    n: u32,
    /// k / 4, rounded up.
    quads: u32,
    /// Matrices of an outer batch of x and out.
    inner: u32,
    /// Batches of x to one of w: inner ones, and outer ones in the upper half of the word.
    repeats: u32,
    /// First element of x; this and all strides in quads of elements, where nothing else is said.
    x_offset: u32,
    /// From one outer batch of x to the next.
    x_outer: u32,
    /// From one inner batch of x to the next.
    x_inner: u32,
    /// From one row of x to the next.
    x_pitch: u32,
    /// First element of w.
    w_offset: u32,
    /// From one outer batch of w to the next.
    w_outer: u32,
    /// From one inner batch of w to the next.
    w_inner: u32,
    /// From one row of w to the next, in 16 bytes.
    w_pitch: u32,
    /// Row pitch of out, in elements.
    out_pitch: u32,
    /// First column of out.
    column: u32,
    /// Factor of the product.
    scale: f32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> w: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

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

/// Writes four neighbours of a row of out, which begins at `start`.
fn write(start: u32, column0: u32, sums: vec4f) {
    // The last chunk of w writes the zeros up to the pitch too; the others are multiples of 4.
    let columns = min((p.n + 3u) / 4u * 4u, p.out_pitch - p.column);
    for (var j = 0u; j < 4u; j++) {
        let column = column0 + j;
        if column < columns {
            let at = start + column;
            var sum = 0.0;
            if column < p.n {
                sum = p.scale * sums[j];
                if ACCUMULATE == 1u {
                    sum += out[at];
                }
                if BIAS == 1u {
                    sum += bias[p.column + column];
                }
                sum = activation(sum);
            }
            out[at] = sum;
        }
    }
}

@compute @workgroup_size(WG)
fn matmul_transpose_b_broadcast(@builtin(workgroup_id) tile: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row0 = tile.y * BM;
    let column0 = tile.x * BN + 4u * lane;
    let outer = tile.z / p.inner;
    let inner = tile.z % p.inner;
    let x_start = p.x_offset + outer * p.x_outer + inner * p.x_inner + row0 * p.x_pitch;
    let w_start = p.w_offset + outer / (p.repeats >> 16u) * p.w_outer + inner / (p.repeats & 0xffffu) * p.w_inner;
    // What lies beyond the last row and the last column is computed from them, and not written.
    let rows = p.m - row0;
    let x1 = x_start + min(1u, rows - 1u) * p.x_pitch;
    let x2 = x_start + min(2u, rows - 1u) * p.x_pitch;
    let x3 = x_start + min(3u, rows - 1u) * p.x_pitch;
    let x4 = x_start + min(4u, rows - 1u) * p.x_pitch;
    let x5 = x_start + min(5u, rows - 1u) * p.x_pitch;
    let x6 = x_start + min(6u, rows - 1u) * p.x_pitch;
    let x7 = x_start + min(7u, rows - 1u) * p.x_pitch;
    let w0 = min(column0, p.n - 1u);
    let w1 = min(column0 + 1u, p.n - 1u);
    let w2 = min(column0 + 2u, p.n - 1u);
    let w3 = min(column0 + 3u, p.n - 1u);
    var sums0 = vec4f();
    var sums1 = vec4f();
    var sums2 = vec4f();
    var sums3 = vec4f();
    var sums4 = vec4f();
    var sums5 = vec4f();
    var sums6 = vec4f();
    var sums7 = vec4f();

    for (var quad = 0u; quad < p.quads; quad++) {
        let at = w_start + quad;
        // A row times this matrix is its products with four rows of w.
        let ws = mat4x4f(weight4(w0, at), weight4(w1, at), weight4(w2, at), weight4(w3, at));
        sums0 += x[x_start + quad] * ws;
        sums1 += x[x1 + quad] * ws;
        sums2 += x[x2 + quad] * ws;
        sums3 += x[x3 + quad] * ws;
        sums4 += x[x4 + quad] * ws;
        sums5 += x[x5 + quad] * ws;
        sums6 += x[x6 + quad] * ws;
        sums7 += x[x7 + quad] * ws;
    }

    let sums = array<vec4f, BM>(sums0, sums1, sums2, sums3, sums4, sums5, sums6, sums7);
    let start = (tile.z * p.m + row0) * p.out_pitch + p.column;
    for (var i = 0u; i < min(BM, rows); i++) {
        write(start + i * p.out_pitch, column0, sums[i]);
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
