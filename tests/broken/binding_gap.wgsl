//! op: binding_gap
// expect: `out` is binding 2, 1 is missing: no gaps in bindings

struct Params {
    m: u32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn binding_gap(@builtin(global_invocation_id) id: vec3u) {
    if id.x < p.m {
        out[id.x] = x[id.x];
    }
}
