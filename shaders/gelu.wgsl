//! op: gelu
//! x = x Phi(x), in place: the tanh form (FORM 0) or the exact one (FORM 1).   x: any shape
//! tanh form: 0.5 x (1 + tanh u), u = sqrt(2/pi) (x + 0.044715 x^3), written x / (1 + exp(-2u)), which neither cancels in
//! the tail nor needs a tanh (WGSL's may overflow). Hendrycks, Gimpel 2016, arXiv 1606.08415.
//! Exact form: max(x, 0) - a Phi(-a) for a = |x|, Phi(-a) = t 2^(P(t) - a^2 log2(e) / 2) for t = 1 / (1 + 0.33 a), a form of
//! Numerical Recipes 6.2 to base 2. P is fitted by tests/oracle/gelu_fit.py (relative error 2.5e-7).
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
    let a = min(abs(v), vec4f(14.0));
    let t = 1.0 / (1.0 + 0.33 * a);
    let fit = -2.924593 + t * (1.430342 + t * (0.6670291 + t * (-0.29510328 + t * (1.1413591
        + t * (-1.9963125 + t * (1.2584403 + t * -0.2811615))))));
    return select(v, vec4f(), v < vec4f()) - a * t * exp2(fit - 0.7213475204444817 * a * a);
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
