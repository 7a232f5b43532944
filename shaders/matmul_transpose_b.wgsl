//! op: matmul_transpose_b
//! out[b, c, i, column + j] = activation(scale * sum over l of x[b, c, i, l] w[b / R, c / S, j, l] + bias[column + j]).
//! x:[outer, inner, m, k]  w:[outer / R, inner / S, n, k]  bias:[_]  out:[outer, inner, m, _]
//! The matrices of x and w lie anywhere in their buffers, as long as every row starts at a multiple of 16 bytes.
//! A workgroup owns a BM x BN tile of out; an invocation keeps TM x TN sums in registers, its rows and columns spread
//! over the tile so that neighbours read neighbouring rows of workgroup memory.
//! A dispatch computes all batches, outer times inner of them.
//! grid: ceil(min(4 * ceil(n / 4), out_pitch - column) / BN), ceil(m / BM), batches

/// Rows of out per workgroup. Tune: 32u, 64u
const BM = 64u;
/// Columns of out per workgroup. Tune: 32u, 64u
const BN = 64u;
/// Depth of a slice in workgroup memory. Tune: 8u, 16u
const BK = 16u;
/// Rows of out per invocation. Tune: 4u, 8u
const TM = 4u;
/// Columns of out per invocation. Tune: 4u, 8u
const TN = 4u;
/// Adds to what is in out: a later part of the depth. Mode: 0u, 1u
const ACCUMULATE = 0u;
/// Adds the bias. Mode: 0u, 1u
const BIAS = 0u;
/// 0: none, 1: relu, 2: gelu, tanh form, 3: gelu, exact form, 4: silu. Mode: 0u, 1u, 2u, 3u, 4u
const ACTIVATION = 0u;

const ROWS = BM / TM;
const COLUMNS = BN / TN;
const WG = ROWS * COLUMNS;
const DEPTH = BK / 4u;
/// One quad of padding per row keeps invocations of a subgroup on different banks.
const STRIDE = DEPTH + 1u;
const_assert BM % TM == 0u && BN % TN == 0u && BK % 4u == 0u && WG <= 256u;
const_assert 16u * (BM + BN) * STRIDE <= 16384u;

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

var<workgroup> xs: array<vec4f, BM * STRIDE>;
var<workgroup> ws: array<vec4f, BN * STRIDE>;

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

@compute @workgroup_size(WG)
fn matmul_transpose_b(@builtin(workgroup_id) tile: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row0 = tile.y * BM;
    let column0 = tile.x * BN;
    let outer = tile.z / p.inner;
    let inner = tile.z % p.inner;
    let x_start = p.x_offset + outer * p.x_outer + inner * p.x_inner + row0 * p.x_pitch;
    let w_start = p.w_offset + outer / (p.repeats >> 16u) * p.w_outer + inner / (p.repeats & 0xffffu) * p.w_inner;
    // The last chunk of w writes the zeros up to the pitch too; the others are multiples of 4.
    let columns = min((p.n + 3u) / 4u * 4u, p.out_pitch - p.column);
    let ty = lane / COLUMNS;
    let tx = lane % COLUMNS;
    var sums: array<f32, TM * TN>;

    for (var depth0 = 0u; depth0 < p.quads; depth0 += DEPTH) {
        for (var i = lane; i < BM * DEPTH; i += WG) {
            let row = i / DEPTH;
            let quad = depth0 + i % DEPTH;
            var value = vec4f();
            if row0 + row < p.m && quad < p.quads {
                value = x[x_start + row * p.x_pitch + quad];
            }
            xs[row * STRIDE + i % DEPTH] = value;
        }
        for (var i = lane; i < BN * DEPTH; i += WG) {
            let row = i / DEPTH;
            let quad = depth0 + i % DEPTH;
            var value = vec4f();
            if column0 + row < p.n && quad < p.quads {
                value = weight4(column0 + row, w_start + quad);
            }
            ws[row * STRIDE + i % DEPTH] = value;
        }
        workgroupBarrier();
        for (var d = 0u; d < DEPTH; d++) {
            var ws_row: array<vec4f, TN>;
            for (var j = 0u; j < TN; j++) {
                ws_row[j] = ws[(tx + j * COLUMNS) * STRIDE + d];
            }
            for (var i = 0u; i < TM; i++) {
                let value = xs[(ty + i * ROWS) * STRIDE + d];
                for (var j = 0u; j < TN; j++) {
                    sums[i * TN + j] += dot(value, ws_row[j]);
                }
            }
        }
        workgroupBarrier();
    }

    for (var i = 0u; i < TM; i++) {
        let row = ty + i * ROWS;
        if row0 + row < p.m {
            for (var j = 0u; j < TN; j++) {
                let column = column0 + tx + j * COLUMNS;
                if column < columns {
                    let at = (tile.z * p.m + row0 + row) * p.out_pitch + p.column + column;
                    var sum = 0.0;
                    if column < p.n {
                        sum = p.scale * sums[i * TN + j];
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
