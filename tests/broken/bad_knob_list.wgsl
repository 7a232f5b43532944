//! op: bad_knob_list
// expect: write `const NAME = 32u;` with a doc comment that ends in `Tune: 16u, 32u`

struct Params {
    m: u32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
/// Invocations per workgroup. Tune: 32u or 64u
const WG = 64u;

@compute @workgroup_size(WG)
fn bad_knob_list(@builtin(global_invocation_id) id: vec3u) {
    if id.x < p.m {
        out[id.x] = x[id.x];
    }
}
