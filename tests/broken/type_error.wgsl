//! op: type_error
// expect: the type of `v` is expected to be `u32`, but got `f32`

struct Params {
    m: u32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn type_error(@builtin(global_invocation_id) id: vec3u) {
    let v: u32 = x[id.x]; // here
    out[id.x] = f32(v);
}
