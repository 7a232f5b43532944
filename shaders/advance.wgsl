//! op: advance
//! rows[r].token = picked[r].id and rows[r].position += 1: the next step's rows, without the host.   rows:[m] picked:[m, 2]
//! grid: ceil(m / WG)

/// Invocations per workgroup. Tune: 32u, 64u
const WG = 64u;

/// One row of a batch: which token, whose sequence, where in it, and the row at which its sequence begins in this batch.
struct Row { token: u32, slot: u32, position: u32, first: u32 }

struct Params {
    /// Rows.
    m: u32,
    /// Row pitch of picked, in words.
    picked_pitch: u32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> picked: array<u32>;
@group(0) @binding(1) var<storage, read_write> rows: array<Row>;

@compute @workgroup_size(WG)
fn advance(
    @builtin(global_invocation_id) id: vec3u,
    @builtin(num_workgroups) groups: vec3u,
) {
    let r = id.y * groups.x * WG + id.x;
    if r < p.m {
        rows[r].token = picked[r * p.picked_pitch];
        rows[r].position += 1u;
    }
}
