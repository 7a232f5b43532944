//! How far a result may lie from the truth. Each bound follows from what WGSL guarantees of its operations ("Floating Point
//! Accuracy": +, -, x to either neighbour, division 2.5 ULP, exp 3 + 2|x| ULP, inverseSqrt 2 ULP, subnormals may be
//! flushed), whatever the order of a sum and whether or not it is fused. None is a tolerance that was tried until it passed.

use crate::kernel::Format;
use crate::ops::PART;
use crate::reference::{Activation, Gelu};

/// Unit roundoff where a result may be rounded to either neighbour: one ULP of f32.
pub(crate) const U: f64 = 1.0 / (1 << 23) as f64;
/// The smallest normal f32; what lies below may be flushed to zero.
pub(crate) const TINY: f64 = f32::MIN_POSITIVE as f64;
/// The fewest invocations that share a row: a reduction over n is a serial sum of n / 32, then a tree.
const LANES: usize = 32;
/// Levels of the largest tree, 256 invocations.
const TREE: usize = 8;

/// The relative error of k roundings: ku / (1 - ku). Higham, Accuracy and Stability of Numerical Algorithms, lemma 3.1.
pub(crate) fn gamma(k: usize) -> f64 {
    let ku = k as f64 * U;
    if ku < 1.0 { ku / (1.0 - ku) } else { f64::INFINITY }
}

/// Roundings that an element of a row of n meets on its way through a workgroup's reduction.
pub(crate) fn depth(n: usize) -> f64 {
    (n.div_ceil(LANES) + TREE) as f64
}

/// An inner product over k, scaled and with a bias: gamma_{k+3} (|scale| |a| . |b| + |bias|) + 2k tiny. Higham, chapter 3,
/// with one rounding each for the scale and the bias, and every product and sum flushed at worst.
///
/// A quantised number is scale q + minimum, and |b| the sum of the magnitudes of both: a part of 32 may be added up as scale
/// (q . x) + minimum (1 . x). A term then meets its product, 8 sums by fours, 3 within four, a product with the scale and a sum,
/// 14 roundings where k = 32 allows 35; scales themselves are exact. Sums before the scale would be flushed at the scale times
/// tiny, which is more than this where the scale is above 1; numbers that are drawn are multiples of 2^-23, and far from it.
pub(crate) fn product(k: usize, magnitude: f64) -> f64 {
    gamma(k + 3) * magnitude + 2.0 * (k + 1) as f64 * TINY
}

/// x (1 + factor)^times in single steps: each multiplies the error so far by no more than |factor| + 1 in two roundings, fused
/// or not, of |x factor| and of the sum.
pub(crate) fn probe(x: f64, factor: f64, times: u32) -> f64 {
    let step = |(v, error): (f64, f64), _| {
        let next = v * factor + v;
        let largest = v.abs() + error;
        (
            next,
            error * (1.0 + factor).abs() + U * (largest * factor.abs() + (next.abs() + error)) * (1.0 + U) + 2.0 * TINY,
        )
    };
    (0..times).fold((x, if x.abs() < TINY { TINY } else { 0.0 }), step).1
}

/// An activation of a product whose truth is z within `error`: the error times the steepest slope (1 of relu, at most 1.13
/// of gelu and 1.1 of silu), and the activation's own error where the product may lie. Silu, x / (1 + exp(-x)), relative:
/// 3 + 2|x| of exp, one sum, 2.5 of the division; what falls below the normal range may be zero.
pub(crate) fn activated(activation: Option<Activation>, error: f64, z: f64, y: f64) -> f64 {
    let slope = match activation {
        None | Some(Activation::Relu) => return error,
        Some(Activation::Gelu(_)) => 1.13,
        Some(Activation::Silu) => 1.1,
    };
    let (far_z, far_y) = (z.abs() + error, y.abs() + slope * error);
    let own = match activation {
        Some(Activation::Gelu(Gelu::Tanh)) => gelu_tanh(far_z, far_y),
        Some(Activation::Gelu(Gelu::Exact)) => gelu_exact(far_z, far_y),
        // Beyond 88 the result is x, or below the normal range.
        _ => (8.0 + 2.0 * far_z.min(88.0)) * U * far_y + TINY * far_z.clamp(1.0, 88.0),
    };
    slope * error + own
}

/// What rounding errors of an inner product over k add up to where they are random: relative error in the 2-norm, of a
/// whole matrix of U\[-1, 1\]. Sequential f32 sums were simulated at 0.3 sqrt(k) 2^-24; the law is Ipsen and Zhou, arXiv
/// 1906.10465. [`product`] allows what an adversary could do; this does not, and so it sees a lost term.
pub(crate) fn statistical(k: usize) -> f64 {
    2.0 * ((k + 3) as f64).sqrt() * 0.5 * U
}

/// Softmax, relative: (3 + 3|z| + 3 + 3 ln n + depth + 2.5) u, z = x - max: the exp of the element, those of the sum
/// (weighted by their own share, so that |z| averages to at most ln n), the sum, the division. Plus what is flushed.
pub(crate) fn softmax(z: f64, n: usize, p: f64) -> f64 {
    let n_log = (n.max(1) as f64).ln();
    (8.5 + 3.0 * z.abs() + 3.0 * n_log + depth(n)) * U * p + TINY
}

/// How far a row of softmax may be from adding up to 1: the errors of exp cancel, sum and division stay.
pub(crate) fn softmax_sum(n: usize) -> f64 {
    (depth(n) + 5.5) * U + n as f64 * TINY
}

/// Log softmax, z - ln S for z = x - max and the sum S of exp(z): one rounding of z and one of the result; the logarithm, 4 u
/// (2^-21) near 1 and 3 ULP elsewhere; and the relative error of S, absolute after the logarithm: 3 + 3 ln n + depth as for
/// [`softmax`], and n terms that may be flushed out of a sum of 1 at least.
pub(crate) fn log_softmax(z: f64, n: usize, y: f64) -> f64 {
    let n_log = (n.max(1) as f64).ln();
    let log_sum = z - y;
    (7.0 + z.abs() + y.abs() + 3.0 * log_sum.abs() + 3.0 * n_log + depth(n)) * U + (n + 2) as f64 * TINY
}

/// How far the cumulative probability that a draw steps at may lie from the truth: two sums of weights, up to the step and
/// the whole, and the product with the uniform. `exps` is the mean of (3 + 5.5 |z|), z = (logit - largest) / temperature: exp
/// itself is 3 + 2|z|, and a subtraction and a division before it are 3.5 of |z|. A sum adds one invocation's share to those
/// before it, 64 invocations at least and 256 at most for n tokens; candidates of a top-k are 64 at most in all.
pub(crate) fn step(exps: f64, n: usize, candidates: bool) -> f64 {
    let depth = if candidates { 64.0 } else { (n.div_ceil(64) + 256) as f64 };
    2.0 * (exps + depth + 1.0) * U + 2.0 * n as f64 * TINY
}

/// What one row of a layer norm is like.
pub(crate) struct Normed {
    /// Length of the row.
    pub(crate) n: usize,
    /// Mean of |x|.
    pub(crate) magnitude: f64,
    /// 1 / sqrt(variance + eps).
    pub(crate) scale: f64,
}

impl Normed {
    /// |g| s u ((d + 2) mean|x| + |c|) + |c s g| (d/2 + 6) u + u (|y| + |b|) for c = x - mean: the mean's error reaches every
    /// element, and grows with |mean| / deviation even in two passes. The one-pass variance exceeds it 8 times at mean
    /// 100 and 10^4 times at mean 10^4 (simulated), so the bound tells them apart.
    pub(crate) fn bound(&self, centred: f64, weight: f64, bias: f64, y: f64) -> f64 {
        let d = depth(self.n);
        let mean_error = weight.abs() * self.scale * U * ((d + 2.0) * self.magnitude + centred.abs());
        let scaled = (centred * self.scale * weight).abs();
        mean_error + scaled * (d / 2.0 + 6.0) * U + U * (y.abs() + bias.abs()) + TINY
    }
}

/// RMS norm of a row of n, y = x s w for s = 1 / sqrt(mean + eps): a square, `depth` sums, a division (2.5) and a sum with eps
/// reach the argument of the root, which halves them; the root itself (2) and two products do not shrink: (d / 2 + 6.25) u,
/// to first order. Squares and sums flushed cost tiny each, 2 tiny in the mean, s^2 tiny in s.
pub(crate) fn rms_norm(n: usize, scale: f64, weight: f64, y: f64) -> f64 {
    y.abs() * ((depth(n) / 2.0 + 6.5) * U + scale * scale * TINY) + (1.0 + weight.abs()) * TINY
}

/// One element of a turned pair: two products and a sum, gamma_2 (|a cos| + |b sin|), at most 2 u of the pair's norm.
pub(crate) fn rope(magnitude: f64) -> f64 {
    gamma(2) * magnitude + 3.0 * TINY
}

/// A number rounded to f16, to either neighbour: 11 digits from the leading one on, none below 2^-24.
pub(crate) fn half(v: f64) -> f64 {
    v.abs() / 1024.0 + 2f64.powi(-24)
}

/// A factor rounded to a half before it is multiplied, [`half`], where a subnormal one may be flushed; beyond halves without
/// end.
pub(crate) fn halved(v: f64) -> f64 {
    match v.abs() {
        size if size > half::f16::MAX.to_f64() => f64::INFINITY,
        size if size < half::f16::MIN_POSITIVE.to_f64() => size + 2f64.powi(-24),
        size => size / 1024.0,
    }
}

/// [`statistical`] where both factors are halves: each is off by a third of 2^-10 at the root of the mean square where it is
/// rounded to the nearest, by a part of it that is always of one sign where it is cut off.
pub(crate) fn statistical_halves(k: usize) -> f64 {
    statistical(k) + 2f64.sqrt() / 1024.0
}

/// A stored number read back: exact, but that a subnormal, of f16 where it is stored so, may be flushed. The scales of quantised
/// numbers that are drawn are normal.
pub(crate) fn stored(y: f64, format: Format) -> f64 {
    let smallest_normal = match format {
        Format::F16 => half::f16::MIN_POSITIVE.to_f64(),
        _ => TINY,
    };
    if y.abs() < smallest_normal { y.abs() } else { 0.0 }
}

/// GELU, tanh form as x / (1 + exp(-2u)): relative (12 + 14|u|) u, because the exponent's rounding is amplified by exp. What
/// falls below the normal range may be zero, and is anyhow below it from -14 on.
pub(crate) fn gelu_tanh(x: f64, y: f64) -> f64 {
    let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
    // Beyond 44 the result is x, or below the normal range.
    (12.0 + 14.0 * u.abs().min(44.0)) * U * y.abs() + TINY * x.abs().clamp(1.0, 14.0)
}

/// GELU, exact form from Mills' ratio fitted to 1.8 (1 + z^2 / 3) u: relative (24 + 8 z^2) u for z^2 = x^2 / 2. Of z^2 the root
/// has two roundings, so that z^2 has four and its own, and 3 + 2 log2(e) z^2 ULP of exp2 make 8 z^2; the ratio and its division,
/// exp2 near 0 and what follows have 22 roundings. A power of two of the kernel's own is better than that.
pub(crate) fn gelu_exact(x: f64, y: f64) -> f64 {
    // Beyond 13 the result is x, or below the normal range.
    let square = x.abs().min(14.0).powi(2) / 2.0;
    (24.0 + 8.0 * square) * U * y.abs() + TINY * x.abs().clamp(1.0, 14.0)
}

/// 1 / (1 + exp(-x)) as 1 / (1 + e) or e / (1 + e), e = exp(-|x|): e carries (3 + 2|x|) u into the result at most, then one
/// sum and a division; 1/2 for what is of second order.
pub(crate) fn sigmoid(x: f64, y: f64) -> f64 {
    // Beyond 88 the result is 1, or below the normal range.
    (7.0 + 2.0 * x.abs().min(88.0)) * U * y.abs() + TINY
}

/// x / (1 + exp(-x)): [`sigmoid`] and a product. Where e is flushed, from -87.3 on, x e is lost; from -100 on it is below the
/// normal range.
pub(crate) fn silu(x: f64, y: f64) -> f64 {
    (8.0 + 2.0 * x.abs().min(88.0)) * U * y.abs() + TINY * x.abs().clamp(1.0, 100.0)
}

/// tanh. From 0.625 on (1 - e) / (1 + e): e = exp(-2|x|) carries (3 + 4|x|) u 2e / (1 - e^2), 3.5 u at most, then two sums and a
/// division of 2.5 make 8 u. Below, x + x^3 P: the last sum, 0.13 of x with 15 roundings, and the fit make 3.5 u.
pub(crate) fn tanh(y: f64) -> f64 {
    8.5 * U * y.abs() + TINY
}

/// silu(gate) * up: [`silu`], one more product.
pub(crate) fn swiglu(gate: f64, up: f64, y: f64) -> f64 {
    (9.0 + 2.0 * gate.abs().min(88.0)) * U * y.abs() + TINY * (1.0 + up.abs() * gate.abs().clamp(1.0, 100.0))
}

/// Roundings of a sum over n: [`depth`] within a part, and the same again over the parts.
fn roundings(n: usize) -> f64 {
    if n <= PART { depth(n) } else { depth(PART) + roundings(n.div_ceil(PART)) }
}

/// A sum over n in parts; `magnitude` is the sum of |x|.
pub(crate) fn reduced(n: usize, magnitude: f64) -> f64 {
    gamma(roundings(n) as usize) * magnitude + n as f64 * TINY
}

/// [`reduced`] over n: by 1/n, rounded once, or by a division.
pub(crate) fn mean(n: usize, magnitude: f64) -> f64 {
    gamma(roundings(n) as usize + 3) * magnitude / n as f64 + 2.0 * TINY
}

/// [`reduced`] of products: one rounding each, and two sums within a quad.
pub(crate) fn dot(n: usize, magnitude: f64) -> f64 {
    gamma(roundings(n) as usize + 3) * magnitude + 2.0 * (n + 1) as f64 * TINY
}

/// One sum, or one product.
pub(crate) fn sum(y: f64) -> f64 {
    U * y.abs() + TINY
}

/// One head of attention at one row: gamma_n plus the softmax, relative to the sum of p |v|.
pub(crate) struct Attended {
    /// Positions attended to.
    pub(crate) n: usize,
    /// The error of a score: gamma_{d+2} of the largest |scale| |q| . |k|.
    pub(crate) score_error: f64,
    /// Largest score minus smallest: what a running maximum may climb, rescaling as it goes.
    pub(crate) span: f64,
}

impl Attended {
    /// The relative error of the contribution of a position whose score is `z` below the maximum: its own score and those
    /// of the sum (2 e), two exps and their rescaling by tiles of 32 positions or more, and two sums over n.
    pub(crate) fn relative(&self, z: f64) -> f64 {
        let tiles = self.n.div_ceil(LANES) as f64;
        let n_log = (self.n.max(1) as f64).ln();
        let exps = 8.5 + 3.0 * z.abs() + 3.0 * n_log + 2.0 * self.span + 5.0 * tiles;
        2.0 * self.score_error + exps * U + 2.0 * gamma(self.n + 1)
    }
}
