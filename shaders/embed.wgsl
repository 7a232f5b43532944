//! op: embed
//! out[r] = w[rows[r].token - row0], + positions[rows[r].position] where POSITIONS is 1.
//! rows:[m]  w:[n, k]  positions:[_, k]  out:[m, k]
//! w is one chunk of the embedding, rows row0.. of it: a dispatch per chunk, and each row of out is written by the one
//! whose chunk holds its token.
//! grid: m

/// Invocations per workgroup. Tune: 32u, 64u, 128u
const WG = 64u;
/// Positions have embeddings of their own (1), or none (0), and then nothing of them is read. Mode: 1u, 0u
const POSITIONS = 1u;

/// One row of a batch: which token, whose sequence, where in it, and the row at which its sequence begins in this batch.
struct Row { token: u32, slot: u32, position: u32, first: u32 }

struct Params {
    /// Rows of out.
    m: u32,
    /// k / 4, rounded up: row pitch of positions and out, in quads.
    quads: u32,
    /// Row pitch of w, in 16 bytes.
    w_pitch: u32,
    /// Token of the chunk's first row.
    row0: u32,
    /// Rows of the chunk.
    n: u32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> rows: array<Row>;
@group(0) @binding(1) var<storage, read> w: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> positions: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> out: array<vec4f>;

@compute @workgroup_size(WG)
fn embed(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let r = group.y * groups.x + group.x;
    if r >= p.m {
        return;
    }
    let row = rows[r];
    if row.token < p.row0 || row.token - p.row0 >= p.n {
        return;
    }
    for (var quad = lane; quad < p.quads; quad += WG) {
        var value = weight4(row.token - p.row0, quad);
        if POSITIONS == 1u {
            value += positions[row.position * p.quads + quad];
        }
        out[r * p.quads + quad] = value;
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
