//! op: transpose
//! out[b, j, i] = x[b, i, j].   x:[b, m, n]  out:[b, n, m], 32-bit elements of any kind
//! A workgroup carries a tile of TILE x TILE elements through workgroup memory, so that rows are read and written as rows.
//! grid: batches * ceil(m / TILE) * ceil(n / TILE)

/// Rows and columns of a tile, a multiple of 4. Tune: 16u, 32u
const TILE = 32u;
/// Lines of a tile that the invocations carry at once. Tune: 4u, 8u
const LINES = 8u;

/// Pitch of the tile: one element of padding per row keeps a column on different banks.
const STRIDE = TILE + 1u;
const_assert TILE % 4u == 0u && TILE % LINES == 0u && TILE * LINES <= 256u;

struct Params {
    /// Matrices.
    batches: u32,
    /// Rows of a matrix of x, columns of out.
    m: u32,
    /// Columns of x, rows of a matrix of out.
    n: u32,
    /// Row pitch of x, in elements.
    x_pitch: u32,
    /// Row pitch of out, in elements.
    out_pitch: u32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;

var<workgroup> tile: array<u32, TILE * STRIDE>;

@compute @workgroup_size(TILE, LINES)
fn transpose(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_id) local: vec3u,
) {
    let down = (p.m + TILE - 1u) / TILE;
    let across = (p.n + TILE - 1u) / TILE;
    let index = group.y * groups.x + group.x;
    let batch = index / (down * across);
    if batch >= p.batches {
        return;
    }
    let row0 = index / across % down * TILE;
    let column0 = index % across * TILE;
    for (var line = local.y; line < TILE; line += LINES) {
        let row = row0 + line;
        let column = column0 + local.x;
        // Zeros past the m-th row of x become the tails of the rows of out.
        var word = 0u;
        if row < p.m && column < p.n {
            word = x[(batch * p.m + row) * p.x_pitch + column];
        }
        tile[line * STRIDE + local.x] = word;
    }
    workgroupBarrier();
    for (var line = local.y; line < TILE; line += LINES) {
        let row = column0 + line;
        let column = row0 + local.x;
        if row < p.n && column < p.out_pitch {
            out[(batch * p.n + row) * p.out_pitch + column] = tile[local.x * STRIDE + line];
        }
    }
}
