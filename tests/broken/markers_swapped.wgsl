//! op: markers_swapped
// expect: stands before

struct Params {
    m: u32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> w: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn markers_swapped(@builtin(global_invocation_id) id: vec3u) {
    out[id.x] = x[id.x] + f32(w[id.x].x);
}

// --- end of weight format ---
// --- weight format ---
