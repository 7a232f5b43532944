//! op: eight_buffers
// expect: 8 storage buffers; at most 7

struct Params {
    m: u32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> x1: array<f32>;
@group(0) @binding(2) var<storage, read> x2: array<f32>;
@group(0) @binding(3) var<storage, read> x3: array<f32>;
@group(0) @binding(4) var<storage, read> x4: array<f32>;
@group(0) @binding(5) var<storage, read> x5: array<f32>;
@group(0) @binding(6) var<storage, read> x6: array<f32>;
@group(0) @binding(7) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn eight_buffers(@builtin(global_invocation_id) id: vec3u) {
    out[id.x] = x[id.x] + x1[id.x] + x2[id.x] + x3[id.x] + x4[id.x] + x5[id.x] + x6[id.x];
}
