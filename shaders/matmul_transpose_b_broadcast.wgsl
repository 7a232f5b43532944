//! op: matmul_transpose_b
//! out[b, c, i, column + j] = activation(scale * sum over l of x[b, c, i, l] w[b / R, c / S, j, l] + bias[column + j]).
//! x:[outer, inner, m, k]  w:[outer / R, inner / S, n, k]  bias:[_]  out:[outer, inner, m, _]
//! The matrices of x and w lie anywhere in their buffers, as long as every row starts at a multiple of 16 bytes.
//! For adapters that compute on the processor. There a load is one for each lane, in workgroup memory as well; newer llvmpipes
//! (Mesa 26, not 22.3) make one of it where all lanes read at one address: so a workgroup reads rows of x that are the same for
//! all of its lanes, and each lane has columns of its own. Loads are what takes the time, so a lane's tile is large, 16 rows of 8
//! columns: 96 numbers are read for 512 products, and that sums spill from registers costs less. A larger one compiles longer,
//! the more so where numbers are unpacked.
//! Sums have names: an array of them would be indexed in memory, for loops are not unrolled.
//! A dispatch computes all batches, outer times inner of them.
//! grid: ceil(min(4 * ceil(n / 4), out_pitch - column) / BN), ceil(m / 16), batches

/// Columns of out per workgroup, 8 per invocation. Tune: 64u, 128u
const BN = 64u;
/// Adds to what is in out: a later part of the depth. Mode: 0u, 1u
const ACCUMULATE = 0u;
/// Adds the bias. Mode: 0u, 1u
const BIAS = 0u;
/// 0: none, 1: relu, 2: gelu, tanh form, 3: gelu, exact form, 4: silu. Mode: 0u, 1u, 2u, 3u, 4u
const ACTIVATION = 0u;

/// Rows of out per workgroup.
const BM = 16u;
const WG = BN / 8u;

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

/// Eight columns of four rows of out.
struct Four {
    a: mat2x4f,
    b: mat2x4f,
    c: mat2x4f,
    d: mat2x4f,
}

/// Four neighbours of each of eight rows of w.
struct Eight {
    a: mat4x4f,
    b: mat4x4f,
}

/// Where four rows of x begin. What lies beyond the last row is computed from it, and not written.
fn starts(x_start: u32, row: u32) -> vec4u {
    return x_start + min(row + vec4u(0u, 1u, 2u, 3u), vec4u(p.m - 1u)) * p.x_pitch;
}

/// Four neighbours of each of four rows of w, which make four columns of out.
fn rows4(column: u32, at: u32) -> mat4x4f {
    let rows = min(column + vec4u(0u, 1u, 2u, 3u), vec4u(p.n - 1u));
    return mat4x4f(weight4(rows.x, at), weight4(rows.y, at), weight4(rows.z, at), weight4(rows.w, at));
}

/// Four neighbours of a row of x times those of eight rows of w: a row times a matrix is its products with the columns.
fn product(v: vec4f, w: Eight) -> mat2x4f {
    return mat2x4f(v * w.a, v * w.b);
}

/// Adds the products of a quad of four rows of x.
fn add(sums: Four, at: vec4u, w: Eight) -> Four {
    return Four(
        sums.a + product(x[at.x], w),
        sums.b + product(x[at.y], w),
        sums.c + product(x[at.z], w),
        sums.d + product(x[at.w], w),
    );
}

/// Columns of out that this dispatch writes. The last chunk of w writes the zeros up to the pitch too; the others are multiples
/// of 4.
fn columns() -> u32 {
    return min((p.n + 3u) / 4u * 4u, p.out_pitch - p.column);
}

/// Writes a row of sums; `batch` is where its matrix begins.
fn write_row(batch: u32, row: u32, column0: u32, sums: mat2x4f) {
    for (var j = 0u; j < 2u; j++) {
        let column1 = column0 + 4u * WG * j;
        let four = sums[j];
        for (var i = 0u; i < 4u; i++) {
            let column = column1 + i;
            if row < p.m && column < columns() {
                let at = batch + row * p.out_pitch + column;
                var sum = 0.0;
                if column < p.n {
                    sum = p.scale * four[i];
                    if ACCUMULATE == 1u {
                        sum += out[at];
                    }
                    if BIAS == 1u {
                        sum += bias[p.column + column];
                    }
                }
                out[at] = sum;
            }
        }
    }
}

fn write(batch: u32, row: u32, column0: u32, sums: Four) {
    write_row(batch, row, column0, sums.a);
    write_row(batch, row + 1u, column0, sums.b);
    write_row(batch, row + 2u, column0, sums.c);
    write_row(batch, row + 3u, column0, sums.d);
}

@compute @workgroup_size(WG)
fn matmul_transpose_b_broadcast(@builtin(workgroup_id) tile: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row0 = tile.y * BM;
    let column0 = tile.x * BN + 4u * lane;
    let outer = tile.z / p.inner;
    let inner = tile.z % p.inner;
    let x_start = p.x_offset + outer * p.x_outer + inner * p.x_inner;
    let w_start = p.w_offset + outer / (p.repeats >> 16u) * p.w_outer + inner / (p.repeats & 0xffffu) * p.w_inner;
    let x0 = starts(x_start, row0);
    let x1 = starts(x_start, row0 + 4u);
    let x2 = starts(x_start, row0 + 8u);
    let x3 = starts(x_start, row0 + 12u);
    var sums0 = Four();
    var sums1 = Four();
    var sums2 = Four();
    var sums3 = Four();

    for (var quad = 0u; quad < p.quads; quad++) {
        let at = w_start + quad;
        let ws = Eight(rows4(column0, at), rows4(column0 + 4u * WG, at));
        sums0 = add(sums0, x0 + quad, ws);
        sums1 = add(sums1, x1 + quad, ws);
        sums2 = add(sums2, x2 + quad, ws);
        sums3 = add(sums3, x3 + quad, ws);
    }

    let batch = tile.z * p.m * p.out_pitch + p.column;
    write(batch, row0, column0, sums0);
    write(batch, row0 + 4u, column0, sums1);
    write(batch, row0 + 8u, column0, sums2);
    write(batch, row0 + 12u, column0, sums3);
    // A lane's own elements once more, so that the code of an activation is there once and not for every row. All are 0 at 0.
    if ACTIVATION != 0u {
        for (var i = 0u; i < min(BM, p.m - row0); i++) {
            for (var j = 0u; j < 8u; j++) {
                let column = column0 + 4u * WG * (j / 4u) + j % 4u;
                if column < columns() {
                    let at = batch + (row0 + i) * p.out_pitch + column;
                    out[at] = activation(out[at]);
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
