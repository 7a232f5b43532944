//! op: scale
//! x *= factor, in place.   x: rows of n
//! grid: ceil(quads / WG)

/// Invocations per workgroup. Tune: 32u, 64u, 128u, 256u
const WG = 64u;

struct Params {
    /// Quads in x, the padding of its rows included.
    quads: u32,
    /// Columns.
    n: u32,
    /// Row pitch, in quads.
    pitch: u32,
    /// What to multiply with.
    factor: f32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read_write> x: array<vec4f>;

@compute @workgroup_size(WG)
fn scale(
    @builtin(global_invocation_id) id: vec3u,
    @builtin(num_workgroups) groups: vec3u,
) {
    let quad = id.y * groups.x * WG + id.x;
    if quad < p.quads {
        // A negative factor makes -0 of padding, which is 0.
        let column = quad % p.pitch * 4u + vec4u(0u, 1u, 2u, 3u);
        x[quad] = select(vec4f(), x[quad] * p.factor, column < vec4u(p.n));
    }
}
