//! op: gelu
//! x = x Phi(x), in place: the tanh form (FORM 0) or the exact one (FORM 1).   x: any shape
//! gelu.wgsl for processors, whose lanes read and write one by one, as many bits at a time as a number of the type has: eight
//! elements are four of 64 bits here. For x of whole eights.
//! The exact form is that of gelu.wgsl with a power of two of its own, which need not serve all numbers; its polynomial, too,
//! is fitted by tests/oracle/gelu_fit.py (relative error 8.2e-8).
//! grid: ceil(eights / WG)

/// Invocations per workgroup. Tune: 32u, 64u, 128u, 256u
const WG = 128u;
/// 0: tanh form, 1: exact form. Mode: 0u, 1u
const FORM = 0u;

struct Params {
    /// Eight elements each in x, the padding of its rows included.
    eights: u32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read_write> x: array<vec4<u64>>;

/// As in gelu.wgsl.
const FAR = vec4f(87.337);

/// As in gelu.wgsl.
fn gelu_tanh(v: vec4f) -> vec4f {
    // Below -13 the result is 0 and above 7 it is x; the clamp keeps the cube finite.
    let c = clamp(v, vec4f(-13.0), vec4f(7.0));
    let minus_2u = -1.5957691216057308 * (c + 0.044715 * c * c * c);
    let y = v / (1.0 + exp(min(minus_2u, FAR)));
    return select(y, vec4f(), minus_2u > FAR);
}

/// 2^-y for y = 0 .. 127: of f = ceil(y) - y a polynomial, from whose exponent ceil(y) is taken. 1.5 * 2^23 - i ends in the
/// bits of -i. Beyond 126 it is below the normal range, and as good as 0.
fn one_over_2_to(y: vec4f) -> vec4f {
    let whole = ceil(y);
    let f = whole - y;
    let of_f = 1.0 + f * (0.6931513 + f * (0.24016444 + f * (0.055799913 + f * (0.00901703 + f * 0.0018671302))));
    return bitcast<vec4f>(bitcast<vec4u>(of_f) + (bitcast<vec4u>(12582912.0 - whole) << vec4u(23u)));
}

/// As in gelu.wgsl, but for the power of two. 11.2694^2 is 126.9994.
fn gelu_exact_wide(v: vec4f) -> vec4f {
    let b = min(0.8493218 * abs(v), vec4f(11.2694));
    let above = b * (8.195748 + b * (6.6765213 + b * (2.5088072 + b * 0.39882722)));
    let below = 13.921657 + b * (24.419458 + b * (17.55341 + b * (6.280563 + b)));
    return select(v, vec4f(), v < vec4f()) - above / below * one_over_2_to(b * b);
}

fn gelu_of(pairs: vec2<u64>) -> vec2<u64> {
    let v = bitcast<vec4f>(vec4u(u32(pairs.x), u32(pairs.x >> 32u), u32(pairs.y), u32(pairs.y >> 32u)));
    var y: vec4f;
    if FORM == 0u {
        y = gelu_tanh(v);
    } else {
        y = gelu_exact_wide(v);
    }
    let bits = bitcast<vec4u>(y);
    return vec2(u64(bits.x) | (u64(bits.y) << 32u), u64(bits.z) | (u64(bits.w) << 32u));
}

@compute @workgroup_size(WG)
fn gelu_wide(
    @builtin(global_invocation_id) id: vec3u,
    @builtin(num_workgroups) groups: vec3u,
) {
    let at = id.y * groups.x * WG + id.x;
    if at < p.eights {
        let eight = x[at];
        x[at] = vec4(gelu_of(eight.xy), gelu_of(eight.zw));
    }
}
