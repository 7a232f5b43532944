//! op: no_entry
// expect: 0 entry points; a kernel has one

struct Params {
    m: u32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;

fn helper() -> f32 {
    return x[0];
}
