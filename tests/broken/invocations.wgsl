//! op: invocations
// expect: 512 invocations per workgroup at the default knobs; WebGPU's default limit is 256

struct Params {
    m: u32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(512)
fn invocations(@builtin(global_invocation_id) id: vec3u) {
    if id.x < p.m {
        out[id.x] = x[id.x];
    }
}
