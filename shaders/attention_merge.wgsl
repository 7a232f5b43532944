//! op: attention_decode
//! out[r, h] = sum over parts of exp(l[r, part, h]) o[r, part, h] / sum over parts of exp(l[r, part, h]).
//! x:[m, parts, H D + H]: of each part of the positions the attention to them alone, o, and the logarithms of the sums, l.
//! out:[m, H D].   An invocation owns an element. Dao et al. 2023, "Flash-Decoding for long-context inference".
//! grid: ceil(m * columns / WG)

/// Invocations per workgroup. Tune: 32u, 64u, 128u, 256u
const WG = 64u;

struct Params {
    /// Rows.
    m: u32,
    /// Columns of out, H D.
    columns: u32,
    /// Elements per head, D.
    head_dim: u32,
    /// Parts of a row.
    parts: u32,
    /// Row pitch of x, in elements.
    x_pitch: u32,
    /// Row pitch of out, in elements.
    out_pitch: u32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(WG)
fn attention_merge(
    @builtin(global_invocation_id) id: vec3u,
    @builtin(num_workgroups) groups: vec3u,
) {
    let at = id.y * groups.x * WG + id.x;
    if at >= p.m * p.columns {
        return;
    }
    let r = at / p.columns;
    let column = at % p.columns;
    let first = r * p.parts * p.x_pitch;
    let logarithm = first + p.columns + column / p.head_dim;
    // The first part has a position, and its logarithm is finite.
    var highest = x[logarithm];
    for (var part = 1u; part < p.parts; part++) {
        highest = max(highest, x[logarithm + part * p.x_pitch]);
    }
    var sum = 0.0;
    var total = 0.0;
    for (var part = 0u; part < p.parts; part++) {
        let weight = exp(x[logarithm + part * p.x_pitch] - highest);
        sum += weight * x[first + part * p.x_pitch + column];
        total += weight;
    }
    out[r * p.out_pitch + column] = sum / total;
}
