//! op: matmul
//! out[i, j] = activation(sum over l of x[i, l] w[l, j] + bias[j]).   x:[m, k]  w:[k, n]  bias:[n]  out:[m, n]
//! A workgroup owns a BM x BN tile of out; an invocation keeps TM rows of TN columns, in quads, in registers.
//! grid: ceil(4 * n_quads / BN), ceil(m / BM), 1

/// Rows of out per workgroup. Tune: 32u, 64u
const BM = 64u;
/// Columns of out per workgroup. Tune: 32u, 64u, 128u
const BN = 64u;
/// Depth of a slice in workgroup memory. Tune: 8u, 16u
const BK = 16u;
/// Rows of out per invocation. Tune: 4u, 8u
const TM = 4u;
/// Columns of out per invocation, a multiple of 4. Tune: 4u, 8u
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
const QUADS = TN / 4u;
/// Pitch of a slice of x: one element of padding per row keeps rows on different banks.
const STRIDE = BK + 1u;
const_assert BM % TM == 0u && BN % TN == 0u && TN % 4u == 0u && BK % 4u == 0u && WG <= 256u;
const_assert 4u * (BM * STRIDE + BN * BK) <= 16384u;

struct Params {
    /// Rows of x and out.
    m: u32,
    /// Columns of x and rows of w to multiply.
    k: u32,
    /// The first of them, a multiple of 4.
    depth: u32,
    /// Row pitch of x, in quads.
    x_pitch: u32,
    /// Row pitch of w, in 16 bytes.
    w_pitch: u32,
    /// Quads in a row of w and out.
    n_quads: u32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> w: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> bias: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> out: array<vec4f>;

var<workgroup> xs: array<f32, BM * STRIDE>;
var<workgroup> ws: array<vec4f, BK * BN / 4u>;

/// exp(FAR) = 2^126, the largest divisor for which WGSL vouches.
const FAR = vec4f(87.337);

/// v / (1 + exp(minus)).
fn gated(v: vec4f, minus: vec4f) -> vec4f {
    return select(v / (1.0 + exp(min(minus, FAR))), vec4f(), minus > FAR);
}

/// The forms of gelu.wgsl and silu.wgsl. All are 0 at 0, and so the tails of rows stay zero.
fn activation(v: vec4f) -> vec4f {
    if ACTIVATION == 1u {
        return max(v, vec4f());
    }
    if ACTIVATION == 2u {
        let c = clamp(v, vec4f(-13.0), vec4f(7.0));
        return gated(v, -1.5957691216057308 * (c + 0.044715 * c * c * c));
    }
    if ACTIVATION == 3u {
        let b = min(0.8493218 * abs(v), vec4f(12.0));
        let above = b * (8.195748 + b * (6.6765213 + b * (2.5088072 + b * 0.39882722)));
        let below = 13.921657 + b * (24.419458 + b * (17.55341 + b * (6.280563 + b)));
        return select(v, vec4f(), v < vec4f()) - above / below * exp2(-b * b);
    }
    if ACTIVATION == 4u {
        return gated(v, -v);
    }
    return v;
}

@compute @workgroup_size(WG)
fn matmul(@builtin(workgroup_id) tile: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row0 = tile.y * BM;
    let quad0 = tile.x * (BN / 4u);
    let ty = lane / COLUMNS;
    let tx = lane % COLUMNS;
    var sums: array<vec4f, TM * QUADS>;

    for (var depth0 = 0u; depth0 < p.k; depth0 += BK) {
        for (var i = lane; i < BM * DEPTH; i += WG) {
            let row = i / DEPTH;
            let quad = i % DEPTH;
            var value = vec4f();
            if row0 + row < p.m && depth0 + 4u * quad < p.k {
                value = x[(row0 + row) * p.x_pitch + (p.depth + depth0) / 4u + quad];
            }
            for (var c = 0u; c < 4u; c++) {
                xs[row * STRIDE + 4u * quad + c] = value[c];
            }
        }
        for (var i = lane; i < BK * BN / 4u; i += WG) {
            let row = depth0 + i / (BN / 4u);
            let quad = quad0 + i % (BN / 4u);
            var value = vec4f();
            if row < p.k && quad < p.n_quads {
                value = weight4(p.depth + row, quad);
            }
            ws[i] = value;
        }
        workgroupBarrier();
        for (var d = 0u; d < BK; d++) {
            var row: array<vec4f, QUADS>;
            for (var j = 0u; j < QUADS; j++) {
                row[j] = ws[d * (BN / 4u) + tx + j * COLUMNS];
            }
            for (var i = 0u; i < TM; i++) {
                let value = xs[(ty + i * ROWS) * STRIDE + d];
                for (var j = 0u; j < QUADS; j++) {
                    sums[i * QUADS + j] += value * row[j];
                }
            }
        }
        workgroupBarrier();
    }

    for (var i = 0u; i < TM; i++) {
        let row = row0 + ty + i * ROWS;
        if row < p.m {
            for (var j = 0u; j < QUADS; j++) {
                let quad = quad0 + tx + j * COLUMNS;
                if quad < p.n_quads {
                    var sum = sums[i * QUADS + j];
                    if ACCUMULATE == 1u {
                        sum += out[row * p.n_quads + quad];
                    }
                    if BIAS == 1u {
                        sum += bias[quad];
                    }
                    out[row * p.n_quads + quad] = activation(sum);
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
