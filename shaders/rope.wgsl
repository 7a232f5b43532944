//! op: rope
//! (a, b) becomes (a cos - b sin, b cos + a sin), in place, for the R / 2 pairs of each of the first H heads of every row;
//! (cos, sin) = table[rows[r].position, pair].   rows:[m]  table:[positions, R / 2]  x:[m, >= H D]
//! An invocation owns a pair. Elements of a head from R on and columns from H D on stay. Su et al. 2021, arXiv 2104.09864.
//! grid: ceil(m * heads * pairs / WG)

/// Invocations per workgroup. Tune: 32u, 64u, 128u, 256u
const WG = 64u;
/// A pair is one element of each half of the R (1), or two neighbours (0). Mode: 0u, 1u
const HALVES = 0u;

/// One row of a batch: which token, whose sequence, where in it, and the row at which its sequence begins in this batch.
struct Row { token: u32, slot: u32, position: u32, first: u32 }

struct Params {
    /// Rows.
    m: u32,
    /// Heads to rotate, H.
    heads: u32,
    /// Elements per head, D.
    head_dim: u32,
    /// Pairs per head, R / 2.
    pairs: u32,
    /// Row pitch of x, in elements.
    x_pitch: u32,
    /// Row pitch of the table, in pairs.
    table_pitch: u32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> rows: array<Row>;
@group(0) @binding(1) var<storage, read> table: array<vec2f>;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(WG)
fn rope(
    @builtin(global_invocation_id) id: vec3u,
    @builtin(num_workgroups) groups: vec3u,
) {
    let at = id.y * groups.x * WG + id.x;
    if at >= p.m * p.heads * p.pairs {
        return;
    }
    let pair = at % p.pairs;
    let head = at / p.pairs % p.heads;
    let row = at / p.pairs / p.heads;
    let begin = row * p.x_pitch + head * p.head_dim;
    var first = begin + 2u * pair;
    var second = first + 1u;
    if HALVES == 1u {
        first = begin + pair;
        second = first + p.pairs;
    }
    let turn = table[rows[row].position * p.table_pitch + pair];
    let a = x[first];
    let b = x[second];
    x[first] = a * turn.x - b * turn.y;
    x[second] = b * turn.x + a * turn.y;
}
