//! op: failed_assert
// expect: const_assert

struct Params {
    m: u32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
const WG = 64u;
const_assert WG > 64u; // here

@compute @workgroup_size(WG)
fn failed_assert(@builtin(global_invocation_id) id: vec3u) {
    if id.x < p.m {
        out[id.x] = x[id.x];
    }
}
