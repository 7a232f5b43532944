//! op: matmul
//! out[i, j] = activation(sum over l of x[i, l] w[l, j] + bias[j]).   x:[m, k]  w:[k, n]  bias:[n]  out:[m, n]
//! For adapters that compute on the processor. There a load is one for each lane, in workgroup memory as well; newer llvmpipes
//! (Mesa 26, not 22.3) make one of it where all lanes read at one address: so a workgroup reads rows of x that are the same for
//! all of its lanes, and each lane has columns of its own. Loads are what takes the time, so a lane's tile is large, 16 rows of 16
//! columns: 128 numbers are read for 1,024 products, and that sums spill from registers costs less. A larger one compiles longer.
//! Sums have names: an array of them would be indexed in memory, for loops are not unrolled.
//! grid: ceil(4 * n_quads / BN), ceil(m / 16), 1

/// Columns of out per workgroup, 16 per invocation. Tune: 128u, 256u
const BN = 128u;
/// Adds to what is in out: a later part of the depth. Mode: 0u, 1u
const ACCUMULATE = 0u;
/// Adds the bias. Mode: 0u, 1u
const BIAS = 0u;
/// 0: none, 1: relu, 2: gelu, tanh form, 3: gelu, exact form, 4: silu. Mode: 0u, 1u, 2u, 3u, 4u
const ACTIVATION = 0u;

/// Rows of out per workgroup.
const BM = 16u;
const WG = BN / 16u;

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

/// 16 columns of four rows.
struct Four {
    a: mat4x4f,
    b: mat4x4f,
    c: mat4x4f,
    d: mat4x4f,
}

/// Where four rows of x begin. What lies beyond the last row is computed from it, and not written.
fn starts(row: u32) -> vec4u {
    return min(row + vec4u(0u, 1u, 2u, 3u), vec4u(p.m - 1u)) * p.x_pitch + p.depth / 4u;
}

/// Four neighbours of a row of w; zeros beyond the last row, where x has zeros too.
fn row4(row: u32, quad: u32) -> vec4f {
    return select(weight4(p.depth + min(row, p.k - 1u), quad), vec4f(), row >= p.k);
}

/// 16 columns of a row of w.
fn row16(row: u32, quads: vec4u) -> mat4x4f {
    return mat4x4f(row4(row, quads.x), row4(row, quads.y), row4(row, quads.z), row4(row, quads.w));
}

/// Four neighbours of a row of x times four rows of w.
fn product(v: vec4f, w: Four) -> mat4x4f {
    return v.x * w.a + v.y * w.b + v.z * w.c + v.w * w.d;
}

/// Adds the products of a quad of four rows of x.
fn add(sums: Four, at: vec4u, w: Four) -> Four {
    return Four(
        sums.a + product(x[at.x], w),
        sums.b + product(x[at.y], w),
        sums.c + product(x[at.z], w),
        sums.d + product(x[at.w], w),
    );
}

/// Writes a row of sums, whose first quad is `quad0` of out.
fn write_row(row: u32, quad0: u32, sums: mat4x4f) {
    for (var j = 0u; j < 4u; j++) {
        let quad = quad0 + j * WG;
        if row < p.m && quad < p.n_quads {
            let at = row * p.n_quads + quad;
            var sum = sums[j];
            if ACCUMULATE == 1u {
                sum += out[at];
            }
            if BIAS == 1u {
                sum += bias[quad];
            }
            out[at] = sum;
        }
    }
}

fn write(row: u32, quad0: u32, sums: Four) {
    write_row(row, quad0, sums.a);
    write_row(row + 1u, quad0, sums.b);
    write_row(row + 2u, quad0, sums.c);
    write_row(row + 3u, quad0, sums.d);
}

@compute @workgroup_size(WG)
fn matmul_broadcast(@builtin(workgroup_id) tile: vec3u, @builtin(local_invocation_index) lane: u32) {
    let row0 = tile.y * BM;
    let quad0 = tile.x * (BN / 4u) + lane;
    let quads = min(quad0 + vec4u(0u, WG, 2u * WG, 3u * WG), vec4u(p.n_quads - 1u));
    let x0 = starts(row0);
    let x1 = starts(row0 + 4u);
    let x2 = starts(row0 + 8u);
    let x3 = starts(row0 + 12u);
    var sums0 = Four();
    var sums1 = Four();
    var sums2 = Four();
    var sums3 = Four();

    for (var quad = 0u; quad < (p.k + 3u) / 4u; quad++) {
        let row = 4u * quad;
        let ws = Four(row16(row, quads), row16(row + 1u, quads), row16(row + 2u, quads), row16(row + 3u, quads));
        sums0 = add(sums0, x0 + quad, ws);
        sums1 = add(sums1, x1 + quad, ws);
        sums2 = add(sums2, x2 + quad, ws);
        sums3 = add(sums3, x3 + quad, ws);
    }

    write(row0, quad0, sums0);
    write(row0 + 4u, quad0, sums1);
    write(row0 + 8u, quad0, sums2);
    write(row0 + 12u, quad0, sums3);
    // A lane's own elements once more, so that the code of an activation is there once and not for every row.
    if ACTIVATION != 0u {
        for (var i = 0u; i < min(BM, p.m - row0); i++) {
            for (var quad = quad0; quad < min(quad0 + 4u * WG, p.n_quads); quad += WG) {
                let at = (row0 + i) * p.n_quads + quad;
                out[at] = activation(out[at]);
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
