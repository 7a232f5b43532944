//! op: gelu
//! x = x Phi(x), in place: the tanh form (FORM 0) or the exact one (FORM 1).   x: any shape
//! tanh form: 0.5 x (1 + tanh u), u = sqrt(2/pi) (x + 0.044715 x^3), written x / (1 + exp(-2u)), which neither cancels in
//! the tail nor needs a tanh (WGSL's may overflow). Hendrycks, Gimpel 2016, arXiv 1606.08415.
//! Exact form: max(x, 0) - a Phi(-a) for a = |x|. b = a sqrt(log2(e) / 2), a Phi(-a) = b N(b) / D(b) 2^(-b^2): N / D is Mills'
//! ratio but for factors, fitted by tests/oracle/gelu_fit.py (relative error 1.1e-7 (1 + a^2 / 6)).
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
    let b = min(0.8493218 * abs(v), vec4f(12.0));
    let above = b * (8.195748 + b * (6.6765213 + b * (2.5088072 + b * 0.39882722)));
    let below = 13.921657 + b * (24.419458 + b * (17.55341 + b * (6.280563 + b)));
    return select(v, vec4f(), v < vec4f()) - above / below * exp2(-b * b);
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
