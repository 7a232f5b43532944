//! op: sigmoid
//! x = 1 / (1 + exp(-x)), in place.   x: rows of n
//! With e = exp(-|x|), which is never above 1, it is 1 / (1 + e) or e / (1 + e): nothing overflows, and no divisor leaves
//! [1, 2].
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
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read_write> x: array<vec4f>;

@compute @workgroup_size(WG)
fn sigmoid(
    @builtin(global_invocation_id) id: vec3u,
    @builtin(num_workgroups) groups: vec3u,
) {
    let quad = id.y * groups.x * WG + id.x;
    if quad < p.quads {
        let v = x[quad];
        // Beyond 88, e is below the normal range.
        let e = exp(-min(abs(v), vec4f(88.0)));
        let y = select(vec4f(1.0), e, v < vec4f()) / (1.0 + e);
        // sigmoid(0) is not 0, and padding is.
        let column = quad % p.pitch * 4u + vec4u(0u, 1u, 2u, 3u);
        x[quad] = select(vec4f(), y, column < vec4u(p.n));
    }
}
