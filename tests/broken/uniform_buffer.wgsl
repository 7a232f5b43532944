//! op: uniform_buffer
// expect: `extra` is not a storage buffer

struct Params {
    m: u32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<uniform> extra: vec4f;

@compute @workgroup_size(64)
fn uniform_buffer(@builtin(global_invocation_id) id: vec3u) {
    out[id.x] = x[id.x] + extra.x;
}
