//! op: dot
//! out[j] = sum over part j of x y.   x, y: one shape   out: one element per part
//! A workgroup owns a part: its invocations stride along it in quads and meet in a tree over workgroup memory. Padding is
//! zero and does not count.
//! grid: parts

/// Invocations per workgroup. Tune: 32u, 64u, 128u, 256u
const WG = 64u;

struct Params {
    /// Quads in x and in y, the padding of their rows included.
    quads: u32,
    /// Parts.
    parts: u32,
    /// Quads of a part; the last one may have fewer.
    length: u32,
    /// Row pitch of out, in elements.
    out_pitch: u32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read> y: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

var<workgroup> partial: array<f32, WG>;

@compute @workgroup_size(WG)
fn dot(
    @builtin(workgroup_id) group: vec3u,
    @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32,
) {
    let part = group.y * groups.x + group.x;
    if part >= p.parts {
        return;
    }
    let end = min(p.quads, (part + 1u) * p.length);
    var sums = vec4f();
    for (var quad = part * p.length + lane; quad < end; quad += WG) {
        sums += x[quad] * y[quad];
    }
    partial[lane] = (sums.x + sums.y) + (sums.z + sums.w);
    for (var reach = WG / 2u; reach > 0u; reach /= 2u) {
        workgroupBarrier();
        if lane < reach {
            partial[lane] += partial[lane + reach];
        }
    }
    if lane == 0u {
        out[part] = partial[0];
        if part + 1u == p.parts {
            // The tail of the row is zero.
            for (var i = p.parts; i < p.out_pitch; i++) {
                out[i] = 0.0;
            }
        }
    }
}
