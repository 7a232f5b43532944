//! op: gelu
//! x = x Phi(x), in place: the tanh form (FORM 0) or the exact one (FORM 1).   x: any shape
//! tanh form: 0.5 x (1 + tanh u), u = sqrt(2/pi) (x + 0.044715 x^3), written x / (1 + exp(-2u)), which neither cancels in
//! the tail nor needs a tanh (WGSL's may overflow). Hendrycks, Gimpel 2016, arXiv 1606.08415.
//! Exact form: Phi(x) = erfc(-x / sqrt 2) / 2, erfc by the Chebyshev fit of Numerical Recipes 6.2 (relative error 1.2e-7).
//! grid: ceil(quads / WG)

/// Invocations per workgroup. Tune: 32u, 64u, 128u, 256u
const WG = 64u;
/// 0: tanh form, 1: exact form. Mode: 0u, 1u
const FORM = 0u;

struct Params {
    /// Quads in x, the padding of its rows included.
    quads: u32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read_write> x: array<vec4f>;

/// exp(FAR) = 2^126, the largest divisor for which WGSL vouches; beyond it a quotient is below x times the smallest normal
/// number.
const FAR = vec4f(87.337);

fn gelu_tanh(v: vec4f) -> vec4f {
    // Below -13 the result is 0 and above 7 it is x; the clamp keeps the cube finite.
    let c = clamp(v, vec4f(-13.0), vec4f(7.0));
    let minus_2u = -1.5957691216057308 * (c + 0.044715 * c * c * c);
    let y = v / (1.0 + exp(min(minus_2u, FAR)));
    return select(y, vec4f(), minus_2u > FAR);
}

fn gelu_exact(v: vec4f) -> vec4f {
    let z = min(abs(v) * 0.7071067811865476, vec4f(9.3));
    let t = 1.0 / (1.0 + 0.5 * z);
    let fit = -1.26551223 + t * (1.00002368 + t * (0.37409196 + t * (0.09678418 + t * (-0.18628806
        + t * (0.27886807 + t * (-1.13520398 + t * (1.48851587 + t * (-0.82215223 + t * 0.17087277))))))));
    let tail = 0.5 * t * exp(fit - z * z);
    let y = v * select(1.0 - tail, tail, v < vec4f());
    return select(y, vec4f(), v < vec4f(-13.0));
}

@compute @workgroup_size(WG)
fn gelu(
    @builtin(global_invocation_id) id: vec3u,
    @builtin(num_workgroups) groups: vec3u,
) {
    let quad = id.y * groups.x * WG + id.x;
    if quad < p.quads {
        if FORM == 0u {
            x[quad] = gelu_tanh(x[quad]);
        } else {
            x[quad] = gelu_exact(x[quad]);
        }
    }
}
