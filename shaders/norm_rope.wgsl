//! op: norm_rope
//! Each of the first H heads of every row is divided by the root of its mean square, multiplied by its own weights, and turned
//! as in rope.wgsl: QK-norm and rotary embedding, in place.
//! rows:[m]  weight:[H, D]  table:[positions, R / 2]  x:[m, >= H D]
//! A workgroup owns a head of a row, an invocation its pairs. Columns from H D on stay.
//! grid: m * heads

/// Invocations per workgroup. Tune: 32u, 64u, 128u, 256u
const WG = 64u;
/// A pair is one element of each half of the R (1), or two neighbours (0). Mode: 0u, 1u
const HALVES = 0u;

/// One row of a batch: which token, whose sequence, where in it, and the row at which its sequence begins in this batch.
struct Row { token: u32, slot: u32, position: u32, first: u32 }

struct Params {
    /// Rows.
    m: u32,
    /// Heads to normalise and rotate, H.
    heads: u32,
    /// Elements per head, D.
    head_dim: u32,
    /// Pairs per head, R / 2.
    pairs: u32,
    /// Row pitch of x, in elements.
    x_pitch: u32,
    /// Row pitch of weight, in elements.
    weight_pitch: u32,
    /// Row pitch of the table, in pairs.
    table_pitch: u32,
    /// Added to the mean square.
    eps: f32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> rows: array<Row>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> table: array<vec2f>;
@group(0) @binding(3) var<storage, read_write> x: array<f32>;

var<workgroup> partial: array<f32, WG>;

@compute @workgroup_size(WG)
fn norm_rope(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let at = group.y * groups.x + group.x;
    if at >= p.m * p.heads {
        return;
    }
    let row = at / p.heads;
    let head = at % p.heads;
    let begin = row * p.x_pitch + head * p.head_dim;
    var squares = 0.0;
    for (var d = lane; d < p.head_dim; d += WG) {
        squares += x[begin + d] * x[begin + d];
    }
    partial[lane] = squares;
    for (var reach = WG / 2u; reach > 0u; reach /= 2u) {
        workgroupBarrier();
        if lane < reach {
            partial[lane] += partial[lane + reach];
        }
    }
    workgroupBarrier();
    let scale = inverseSqrt(partial[0] / f32(p.head_dim) + p.eps);
    let own = head * p.weight_pitch;
    for (var pair = lane; pair < p.pairs; pair += WG) {
        var first = 2u * pair;
        var second = first + 1u;
        if HALVES == 1u {
            first = pair;
            second = pair + p.pairs;
        }
        let turn = table[rows[row].position * p.table_pitch + pair];
        let a = x[begin + first] * scale * weight[own + first];
        let b = x[begin + second] * scale * weight[own + second];
        x[begin + first] = a * turn.x - b * turn.y;
        x[begin + second] = b * turn.x + a * turn.y;
    }
    for (var d = 2u * p.pairs + lane; d < p.head_dim; d += WG) {
        x[begin + d] = x[begin + d] * scale * weight[own + d];
    }
}
