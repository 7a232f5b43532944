//! op: reduce
//! out[r parts + j] = factor * the sum over part j of row r of x (OP 0), or its largest element (OP 1).   x:[m, n]
//! out: m parts elements, in rows of out_n
//! A workgroup owns a part of a row. Its invocations stride along the part and meet in a tree over workgroup memory.
//! grid: count

/// Invocations per workgroup. Tune: 32u, 64u, 128u, 256u
const WG = 64u;
/// 0: sum, 1: largest. Mode: 0u, 1u
const OP = 0u;

struct Params {
    /// Elements of out.
    count: u32,
    /// Columns of x.
    n: u32,
    /// Row pitch of x, in elements.
    x_pitch: u32,
    /// Parts of a row.
    parts: u32,
    /// Elements of a part; the last one may have fewer.
    length: u32,
    /// Columns of out.
    out_n: u32,
    /// Row pitch of out, in elements.
    out_pitch: u32,
    /// Factor of a sum.
    factor: f32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;

var<workgroup> partial: array<f32, WG>;

fn join(a: f32, b: f32) -> f32 {
    if OP == 1u {
        return max(a, b);
    }
    return a + b;
}

@compute @workgroup_size(WG)
fn reduce(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let id = group.y * groups.x + group.x;
    if id >= p.count {
        return;
    }
    let begin = id / p.parts * p.x_pitch;
    let first = id % p.parts * p.length;
    let end = min(p.n, first + p.length);
    // The lowest number is below every other, and no part of a row with elements is empty.
    var value = select(0.0, -3.4028234e38, OP == 1u);
    for (var i = first + lane; i < end; i += WG) {
        value = join(value, x[begin + i]);
    }
    partial[lane] = value;
    for (var reach = WG / 2u; reach > 0u; reach /= 2u) {
        workgroupBarrier();
        if lane < reach {
            partial[lane] = join(partial[lane], partial[lane + reach]);
        }
    }
    if lane == 0u {
        let column = id % p.out_n;
        let at = id / p.out_n * p.out_pitch + column;
        out[at] = select(partial[0] * p.factor, partial[0], OP == 1u);
        if column + 1u == p.out_n {
            // The tail of a row is zero.
            for (var i = p.out_n; i < p.out_pitch; i++) {
                out[at + 1u + i - p.out_n] = 0.0;
            }
        }
    }
}
