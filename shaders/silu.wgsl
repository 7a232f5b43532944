//! op: silu
//! x = x / (1 + exp(-x)), in place.   x: any shape
//! With e = exp(-|x|) it is x / (1 + e) or x e / (1 + e): nothing overflows. Elfwing, Uchibe, Doya 2017, arXiv 1702.03118.
//! grid: ceil(quads / WG)

/// Invocations per workgroup. Tune: 32u, 64u, 128u, 256u
const WG = 64u;

struct Params {
    /// Quads in x, the padding of its rows included.
    quads: u32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read_write> x: array<vec4f>;

@compute @workgroup_size(WG)
fn silu(
    @builtin(global_invocation_id) id: vec3u,
    @builtin(num_workgroups) groups: vec3u,
) {
    let quad = id.y * groups.x * WG + id.x;
    if quad < p.quads {
        let v = x[quad];
        // Below -100 the result is below the normal range; the clamp keeps it from growing again where e no longer shrinks.
        let e = exp(-min(abs(v), vec4f(100.0)));
        x[quad] = select(v, max(v, vec4f(-100.0)) * e, v < vec4f()) / (1.0 + e);
    }
}
