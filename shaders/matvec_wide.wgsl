//! op: matvec
//! out[r, column + j] = activation(sum over i of x[r, i] w[j, i] + bias[column + j]).
//! x:[M, k]  w:[n, k], f32 or f16  bias:[_]  out:[M, _], M = 1..8; k: a multiple of 32.
//! matvec_subgroup.wgsl for processors, whose lanes read one by one, as many bits at a time as a number of the type has: here
//! 16 bytes of w are two loads and not four. That holds for rows of whole blocks of floats, and there is no norm.
//! grid: ceil(columns / ROWS)

/// Invocations per workgroup. Tune: 8u, 16u, 32u
const WG = 8u;
/// Rows of w per workgroup. Tune: 1u, 2u, 4u, 8u
const ROWS = 4u;
/// Rows of x. Mode: 1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u
const M = 1u;
/// The numbers of w are halves (1), or floats (0). Mode: 0u, 1u
const HALF = 0u;
/// Adds the bias. Mode: 0u, 1u
const BIAS = 0u;
/// 0: none, 1: relu, 2: gelu, tanh form, 3: gelu, exact form, 4: silu. Mode: 0u, 1u, 2u, 3u, 4u
const ACTIVATION = 0u;
/// Adds what out holds to the product. Mode: 0u, 1u
const ACCUMULATE = 0u;
/// Rows j and n + j of w make one column, the activation of the first times the second. Mode: 0u, 1u
const GATED = 0u;

/// Products of a row with the rows of w that make one column.
const PARTS = 1u + GATED;
const SUMS = ROWS * PARTS * M;
/// No subgroup has fewer than four invocations.
const SUBGROUPS = (WG + 3u) / 4u;
const_assert SUBGROUPS * SUMS * 4u <= 16384u;

struct Params {
    /// Rows of w, or half of them where they are gated.
    n: u32,
    /// Columns of x, in blocks of 32.
    blocks: u32,
    /// Row pitch of x, in 32 bytes.
    x_pitch: u32,
    /// Row pitch of w, in 32 bytes.
    w_pitch: u32,
    /// Row pitch of out, in elements.
    out_pitch: u32,
    /// First column of out.
    column: u32,
    /// Columns of out to write: n, and zeros up to the pitch where w is the last chunk.
    columns: u32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<vec4<u64>>;
@group(0) @binding(1) var<storage, read> w: array<vec4<u64>>;
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

/// Four floats.
fn floats(pairs: vec2<u64>) -> vec4f {
    return bitcast<vec4f>(vec4u(u32(pairs.x), u32(pairs.x >> 32u), u32(pairs.y), u32(pairs.y >> 32u)));
}

/// Four halves.
fn halves(four: u64) -> vec4f {
    return vec4f(unpack2x16float(u32(four)), unpack2x16float(u32(four >> 32u)));
}

/// The product of a block of a row of w with `x`.
fn of_block(row: u32, block: u32, x: ptr<function, array<vec4f, 8>>) -> f32 {
    var sum = vec4f();
    if HALF == 0u {
        let at = row * p.w_pitch + block * 4u;
        for (var i = 0u; i < 4u; i++) {
            let eight = w[at + i];
            sum += (*x)[2u * i] * floats(eight.xy);
            sum += (*x)[2u * i + 1u] * floats(eight.zw);
        }
    } else {
        let at = row * p.w_pitch + block * 2u;
        for (var i = 0u; i < 2u; i++) {
            let sixteen = w[at + i];
            for (var j = 0u; j < 4u; j++) {
                sum += (*x)[4u * i + j] * halves(sixteen[j]);
            }
        }
    }
    return dot(sum, vec4f(1.0));
}

@compute @workgroup_size(WG)
fn matvec_wide(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_invocation_id) member: u32,
) {
    let row0 = (group.y * groups.x + group.x) * ROWS;
    var sums: array<f32, SUMS>;
    for (var block = lane; block < p.blocks; block += WG) {
        for (var r = 0u; r < M; r++) {
            var column: array<vec4f, 8>;
            for (var i = 0u; i < 4u; i++) {
                let eight = x[r * p.x_pitch + block * 4u + i];
                column[2u * i] = floats(eight.xy);
                column[2u * i + 1u] = floats(eight.zw);
            }
            for (var j = 0u; j < ROWS * PARTS; j++) {
                // Past the last row its sums are not looked at.
                let row = min(row0 + j / PARTS, p.n - 1u) + j % PARTS * p.n;
                sums[j * M + r] += of_block(row, block, &column);
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
    for (var s = lane; s < ROWS * M; s += WG) {
        let j = row0 + s / M;
        if j < p.columns {
            let at = (s % M) * p.out_pitch + p.column + j;
            var sum = 0.0;
            if j < p.n {
                let first = s / M * PARTS * M + s % M;
                for (var g = 0u; g < subgroups; g++) {
                    sum += partial[g * SUMS + first];
                }
                if ACCUMULATE == 1u {
                    sum += out[at];
                }
                if BIAS == 1u {
                    sum += bias[p.column + j];
                }
                sum = activation(sum);
                if GATED == 1u {
                    var factor = 0.0;
                    for (var g = 0u; g < subgroups; g++) {
                        factor += partial[g * SUMS + first + M];
                    }
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
