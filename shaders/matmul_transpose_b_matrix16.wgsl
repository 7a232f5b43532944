//! op: matmul_transpose_b
//! out[b, c, i, column + j] = activation(scale * sum over l of x[b, c, i, l] w[b / R, c / S, j, l] + bias[column + j]).
//! x:[outer, inner, m, k]  w:[outer / R, inner / S, n, k]  bias:[_]  out:[outer, inner, m, _]
//! For units that multiply matrices of 16 x 16 at once. Numbers of x and w are rounded to halves; those beyond halves become
//! infinite. Sums are f32. The matrices of x and w lie anywhere in their buffers, as long as every row starts at a multiple
//! of 16 bytes.
//! Never run, for want of such units: its text is that of matmul_transpose_b_matrix8.wgsl but for the sizes.
//! naga 30 declares Vulkan's memory model for such a shader and marks no access to workgroup memory as shared (wgpu#8805):
//! what a barrier promises is then up to the driver. `gristmill verify --arithmetic f16` shows whether it holds.
//! A workgroup owns a BM x BN tile of out, a subgroup TM x TN matrices of it, whose sums stay in its registers. While one
//! slice of the depth is multiplied, the next is on its way to registers.
//! A dispatch computes all batches, outer times inner of them.
//! grid: ceil(min(4 * ceil(n / 4), out_pitch - column) / BN), ceil(m / BM), batches
enable f16;
enable wgpu_cooperative_matrix;

/// Rows of out per workgroup. Tune: 32u, 64u, 128u
const BM = 128u;
/// Columns of out per workgroup. Tune: 32u, 64u, 128u
const BN = 128u;
/// Depth of a slice in workgroup memory. Tune: 16u, 32u
const BK = 16u;
/// Matrices of a subgroup, one below the other. Tune: 2u, 4u
const TM = 4u;
/// Matrices of a subgroup side by side. Tune: 2u, 4u
const TN = 4u;
/// Adds to what is in out: a later part of the depth. Mode: 0u, 1u
const ACCUMULATE = 0u;
/// Adds the bias. Mode: 0u, 1u
const BIAS = 0u;
/// 0: none, 1: relu, 2: gelu, tanh form, 3: gelu, exact form, 4: silu. Mode: 0u, 1u, 2u, 3u, 4u
const ACTIVATION = 0u;
/// Lanes of a subgroup, as the adapter has them. Mode: 32u, 64u
const LANES = 32u;

/// Rows and columns of a matrix.
const SIDE = 16u;
alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sums = coop_mat16x16<f32, C>;

const_assert BM % (TM * SIDE) == 0u && BN % (TN * SIDE) == 0u && BK % SIDE == 0u;
/// Subgroups of a tile, one beside the other.
const ACROSS = BN / (TN * SIDE);
const SUBGROUPS = BM / (TM * SIDE) * ACROSS;
const WG = SUBGROUPS * LANES;
const DEPTH = BK / 4u;
/// Eight halves of padding per row spread the rows of a matrix over the banks.
const STRIDE = BK + 8u;
const_assert WG <= 256u && WG % DEPTH == 0u && BM * DEPTH % WG == 0u && BN * DEPTH % WG == 0u;
const_assert 2u * (BM + BN) * STRIDE + 4u * SUBGROUPS * SIDE * SIDE <= 32768u;
/// Quads of a slice per invocation.
const X_QUADS = BM * DEPTH / WG;
const W_QUADS = BN * DEPTH / WG;

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

var<workgroup> xs: array<f16, BM * STRIDE>;
var<workgroup> ws: array<f16, BN * STRIDE>;
/// One matrix of sums of each subgroup.
var<workgroup> sums: array<f32, SUBGROUPS * SIDE * SIDE>;

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

/// A slice on its way.
var<private> next_x: array<vec4<f16>, X_QUADS>;
var<private> next_w: array<vec4<f16>, W_QUADS>;

/// Where a workgroup's matrices begin.
struct Place {
    /// The batch.
    batch: u32,
    /// First row and column of out.
    row: u32,
    column: u32,
    /// First quad of x, and of w before its rows.
    x: u32,
    w: u32,
}

/// Reads the slice from a quad on; beyond the edges it is zeros.
fn fetch(place: Place, depth0: u32, lane: u32) {
    for (var i = 0u; i < X_QUADS; i++) {
        let row = (i * WG + lane) / DEPTH;
        let quad = depth0 + lane % DEPTH;
        next_x[i] = vec4<f16>();
        if place.row + row < p.m && quad < p.quads {
            next_x[i] = vec4<f16>(x[place.x + row * p.x_pitch + quad]);
        }
    }
    for (var i = 0u; i < W_QUADS; i++) {
        let row = place.column + (i * WG + lane) / DEPTH;
        let quad = depth0 + lane % DEPTH;
        next_w[i] = vec4<f16>();
        if row < p.n && quad < p.quads {
            next_w[i] = vec4<f16>(weight4(row, place.w + quad));
        }
    }
}

/// Puts the slice that was read into workgroup memory.
fn keep(lane: u32) {
    for (var i = 0u; i < X_QUADS; i++) {
        let at = (i * WG + lane) / DEPTH * STRIDE + lane % DEPTH * 4u;
        xs[at] = next_x[i].x;
        xs[at + 1u] = next_x[i].y;
        xs[at + 2u] = next_x[i].z;
        xs[at + 3u] = next_x[i].w;
    }
    for (var i = 0u; i < W_QUADS; i++) {
        let at = (i * WG + lane) / DEPTH * STRIDE + lane % DEPTH * 4u;
        ws[at] = next_w[i].x;
        ws[at + 1u] = next_w[i].y;
        ws[at + 2u] = next_w[i].z;
        ws[at + 3u] = next_w[i].w;
    }
}

/// Writes the matrices that the subgroups left in workgroup memory: of each the one in its row `i` and column `j`.
fn finish(place: Place, i: u32, j: u32, lane: u32) {
    workgroupBarrier();
    // The last chunk of w writes the zeros up to the pitch too; the others are multiples of 4.
    let columns = min((p.n + 3u) / 4u * 4u, p.out_pitch - p.column);
    for (var e = lane; e < SUBGROUPS * SIDE * SIDE; e += WG) {
        let subgroup = e / (SIDE * SIDE);
        let row = place.row + (subgroup / ACROSS * TM + i) * SIDE + e / SIDE % SIDE;
        let column = place.column + (subgroup % ACROSS * TN + j) * SIDE + e % SIDE;
        if row < p.m && column < columns {
            let at = (place.batch * p.m + row) * p.out_pitch + p.column + column;
            var sum = 0.0;
            if column < p.n {
                sum = p.scale * sums[e];
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
    workgroupBarrier();
}

@compute @workgroup_size(WG)
fn matmul_transpose_b_matrix16(
    @builtin(workgroup_id) tile: vec3u,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) subgroup: u32,
) {
    let outer = tile.z / p.inner;
    let inner = tile.z % p.inner;
    let row0 = tile.y * BM;
    let x_start = p.x_offset + outer * p.x_outer + inner * p.x_inner + row0 * p.x_pitch;
    let w_start = p.w_offset + outer / (p.repeats >> 16u) * p.w_outer + inner / (p.repeats & 0xffffu) * p.w_inner;
    let place = Place(tile.z, row0, tile.x * BN, x_start, w_start);
    // The subgroup's rows in workgroup memory.
    let left = subgroup / ACROSS * TM * SIDE * STRIDE;
    let right = subgroup % ACROSS * TN * SIDE * STRIDE;
    // An array of matrices is more than naga can write.
    var s00: Sums;
    var s01: Sums;
    var s02: Sums;
    var s03: Sums;
    var s10: Sums;
    var s11: Sums;
    var s12: Sums;
    var s13: Sums;
    var s20: Sums;
    var s21: Sums;
    var s22: Sums;
    var s23: Sums;
    var s30: Sums;
    var s31: Sums;
    var s32: Sums;
    var s33: Sums;
    fetch(place, 0u, lane);
    for (var depth0 = 0u; depth0 < p.quads; depth0 += DEPTH) {
        keep(lane);
        workgroupBarrier();
        fetch(place, depth0 + DEPTH, lane);
        for (var d = 0u; d < BK; d += SIDE) {
            let a0 = coopLoadT<Left>(&xs[left + d], STRIDE);
            let a1 = coopLoadT<Left>(&xs[left + SIDE * STRIDE + d], STRIDE);
            // A row of w is a column of the right matrix.
            let b0 = coopLoad<Right>(&ws[right + d], STRIDE);
            let b1 = coopLoad<Right>(&ws[right + SIDE * STRIDE + d], STRIDE);
            s00 = coopMultiplyAdd(a0, b0, s00);
            s01 = coopMultiplyAdd(a0, b1, s01);
            s10 = coopMultiplyAdd(a1, b0, s10);
            s11 = coopMultiplyAdd(a1, b1, s11);
            if TM == 4u {
                let a2 = coopLoadT<Left>(&xs[left + 2u * SIDE * STRIDE + d], STRIDE);
                let a3 = coopLoadT<Left>(&xs[left + 3u * SIDE * STRIDE + d], STRIDE);
                s20 = coopMultiplyAdd(a2, b0, s20);
                s21 = coopMultiplyAdd(a2, b1, s21);
                s30 = coopMultiplyAdd(a3, b0, s30);
                s31 = coopMultiplyAdd(a3, b1, s31);
                if TN == 4u {
                    let b2 = coopLoad<Right>(&ws[right + 2u * SIDE * STRIDE + d], STRIDE);
                    let b3 = coopLoad<Right>(&ws[right + 3u * SIDE * STRIDE + d], STRIDE);
                    s22 = coopMultiplyAdd(a2, b2, s22);
                    s23 = coopMultiplyAdd(a2, b3, s23);
                    s32 = coopMultiplyAdd(a3, b2, s32);
                    s33 = coopMultiplyAdd(a3, b3, s33);
                }
            }
            if TN == 4u {
                let b2 = coopLoad<Right>(&ws[right + 2u * SIDE * STRIDE + d], STRIDE);
                let b3 = coopLoad<Right>(&ws[right + 3u * SIDE * STRIDE + d], STRIDE);
                s02 = coopMultiplyAdd(a0, b2, s02);
                s03 = coopMultiplyAdd(a0, b3, s03);
                s12 = coopMultiplyAdd(a1, b2, s12);
                s13 = coopMultiplyAdd(a1, b3, s13);
            }
        }
        workgroupBarrier();
    }

    // In a loop, so that what follows the sums is there once.
    let at = subgroup * SIDE * SIDE;
    for (var part = 0u; part < TM * TN; part++) {
        let i = part / TN;
        let j = part % TN;
        switch 4u * i + j {
            case 0u: {
                coopStoreT(s00, &sums[at], SIDE);
            }
            case 1u: {
                coopStoreT(s01, &sums[at], SIDE);
            }
            case 2u: {
                coopStoreT(s02, &sums[at], SIDE);
            }
            case 3u: {
                coopStoreT(s03, &sums[at], SIDE);
            }
            case 4u: {
                coopStoreT(s10, &sums[at], SIDE);
            }
            case 5u: {
                coopStoreT(s11, &sums[at], SIDE);
            }
            case 6u: {
                coopStoreT(s12, &sums[at], SIDE);
            }
            case 7u: {
                coopStoreT(s13, &sums[at], SIDE);
            }
            case 8u: {
                coopStoreT(s20, &sums[at], SIDE);
            }
            case 9u: {
                coopStoreT(s21, &sums[at], SIDE);
            }
            case 10u: {
                coopStoreT(s22, &sums[at], SIDE);
            }
            case 11u: {
                coopStoreT(s23, &sums[at], SIDE);
            }
            case 12u: {
                coopStoreT(s30, &sums[at], SIDE);
            }
            case 13u: {
                coopStoreT(s31, &sums[at], SIDE);
            }
            case 14u: {
                coopStoreT(s32, &sums[at], SIDE);
            }
            default: {
                coopStoreT(s33, &sums[at], SIDE);
            }
        }
        finish(place, i, j, lane);
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
