//! op:  
// expect: the first line must be `//! op: NAME`

struct Params {
    m: u32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn empty_op(@builtin(global_invocation_id) id: vec3u) {
    if id.x < p.m {
        out[id.x] = x[id.x];
    }
}
