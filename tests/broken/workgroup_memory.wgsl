//! op: workgroup_memory
// expect: 16400 bytes of workgroup memory at the default knobs; WebGPU's default limit is 16384

struct Params {
    m: u32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
var<workgroup> tile: array<f32, 4097>;

@compute @workgroup_size(64)
fn workgroup_memory(@builtin(global_invocation_id) id: vec3u) {
    tile[id.x] = x[id.x];
    workgroupBarrier();
    out[id.x] = tile[id.x];
}
