//! op: matmul_transpose_b
//! out[b, i, column + j] = scale * sum over l of x[b, i, l] w[b, j, l], + bias[column + j].
//! x:[batch, m, k]  w:[batch or 1, n, k]  bias:[_]  out:[batch, m, _]
//! A workgroup owns a BM x BN tile of out; an invocation keeps TM x TN sums in registers, its rows and columns spread
//! over the tile so that neighbours read neighbouring rows of workgroup memory.

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
/// Adds the bias. Mode: 0u, 1u
const BIAS = 0u;

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
    /// Rows of w from one batch to the next: n, or 0 where all share one.
    w_batch: u32,
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

@compute @workgroup_size(WG)
fn matmul_transpose_b(@builtin(workgroup_id) tile: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row0 = tile.y * BM;
    let column0 = tile.x * BN;
    let x_row0 = tile.z * p.m + row0;
    let w_row0 = tile.z * p.w_batch + column0;
    let ty = lane / COLUMNS;
    let tx = lane % COLUMNS;
    var sums: array<f32, TM * TN>;

    for (var depth0 = 0u; depth0 < p.quads; depth0 += DEPTH) {
        for (var i = lane; i < BM * DEPTH; i += WG) {
            let row = i / DEPTH;
            let quad = depth0 + i % DEPTH;
            var value = vec4f();
            if row0 + row < p.m && quad < p.quads {
                value = x[(x_row0 + row) * p.x_pitch + quad];
            }
            xs[row * STRIDE + i % DEPTH] = value;
        }
        for (var i = lane; i < BN * DEPTH; i += WG) {
            let row = i / DEPTH;
            let quad = depth0 + i % DEPTH;
            var value = vec4f();
            if column0 + row < p.n && quad < p.quads {
                value = weight4(w_row0 + row, quad);
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
                if column < p.columns {
                    var sum = 0.0;
                    if column < p.n {
                        sum = p.scale * sums[i * TN + j];
                        if BIAS == 1u {
                            sum += bias[p.column + column];
                        }
                    }
                    out[(x_row0 + row) * p.out_pitch + p.column + column] = sum;
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
