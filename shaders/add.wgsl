//! op: add
//! x += y, in place.   x, y: one shape
//! grid: ceil(quads / WG)

/// Invocations per workgroup. Tune: 32u, 64u, 128u, 256u
const WG = 64u;

struct Params {
    /// Quads in x and in y, the padding of their rows included.
    quads: u32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> y: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> x: array<vec4f>;

@compute @workgroup_size(WG)
fn add(
    @builtin(global_invocation_id) id: vec3u,
    @builtin(num_workgroups) groups: vec3u,
) {
    let quad = id.y * groups.x * WG + id.x;
    if quad < p.quads {
        x[quad] += y[quad];
    }
}
