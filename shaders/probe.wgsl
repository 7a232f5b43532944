//! op: probe
//! x = fma(x, factor, x), `times` times, in place.   x: any shape
//! What a device can do at most: its peak multiply-add where `times` is large, its bandwidth where `times` is 1. Zeros, and
//! with them the padding of rows, stay zeros.
//! grid: ceil(quads / WG)

/// Invocations per workgroup. Tune: 64u, 128u, 256u
const WG = 64u;

struct Params {
    /// Quads in x, the padding of its rows included.
    quads: u32,
    /// How often.
    times: u32,
    /// What to multiply with.
    factor: f32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read_write> x: array<vec4f>;

@compute @workgroup_size(WG)
fn probe(
    @builtin(global_invocation_id) id: vec3u,
    @builtin(num_workgroups) groups: vec3u,
) {
    let quad = id.y * groups.x * WG + id.x;
    if quad < p.quads {
        let factor = vec4f(p.factor);
        var v = x[quad];
        // Eight in a round, so that the loop itself costs nothing beside them.
        for (var i = 0u; i < p.times / 8u; i++) {
            v = fma(v, factor, v);
            v = fma(v, factor, v);
            v = fma(v, factor, v);
            v = fma(v, factor, v);
            v = fma(v, factor, v);
            v = fma(v, factor, v);
            v = fma(v, factor, v);
            v = fma(v, factor, v);
        }
        for (var i = 0u; i < p.times % 8u; i++) {
            v = fma(v, factor, v);
        }
        x[quad] = v;
    }
}
