//! What looks at one element at a time, on the host: formulas of f32 in loops that become vector code for whatever the
//! processor has. No operation is fused, so the result is the same on all of them.

use rayon::prelude::*;

use super::{MIN_LEN, floats, floats_mut, lock};
use crate::error::Result;
use crate::reference::Gelu;
use crate::tensor::Tensor;

pub(crate) fn gelu(x: &Tensor, form: Gelu) -> Result<()> {
    match form {
        Gelu::Tanh => map("gelu", x, gelu_tanh),
        Gelu::Exact => map("gelu", x, gelu_exact),
    }
}

pub(crate) fn relu(x: &Tensor) -> Result<()> {
    map("relu", x, |v| v.max(0.0))
}

pub(crate) fn sigmoid(x: &Tensor) -> Result<()> {
    map("sigmoid", x, |v| {
        let e = exp(-v.abs());
        (if v < 0.0 { e } else { 1.0 }) / (1.0 + e)
    })
}

pub(crate) fn silu(x: &Tensor) -> Result<()> {
    map("silu", x, silu_one)
}

pub(crate) fn tanh(x: &Tensor) -> Result<()> {
    map("tanh", x, tanh_one)
}

pub(crate) fn scale(x: &Tensor, factor: f32) -> Result<()> {
    map("scale", x, move |v| v * factor)
}

pub(crate) fn probe(x: &Tensor, factor: f32, times: u32) -> Result<()> {
    let mut locked = lock("probe", [], ("x", x))?;
    let ([], x) = locked.parts();
    floats_mut(x).par_chunks_mut(MIN_LEN).for_each(|x| pulp::Arch::new().dispatch(Probe { x, factor, times }));
    Ok(())
}

/// x = x * factor + x, fused as products are, in as many registers as hide how long one takes.
struct Probe<'a> {
    x: &'a mut [f32],
    factor: f32,
    times: u32,
}

impl pulp::WithSimd for Probe<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) {
        let Probe { x, factor, times } = self;
        let by = simd.splat_f32s(factor);
        let (registers, rest) = S::as_mut_simd_f32s(x);
        let (blocks, singles) = registers.as_chunks_mut::<12>();
        for block in blocks {
            let mut held = *block;
            for _ in 0..times {
                // A closure would not get the processor's instructions, nor be inlined.
                for v in &mut held {
                    *v = simd.mul_add_f32s(*v, by, *v);
                }
            }
            *block = held;
        }
        for v in singles {
            for _ in 0..times {
                *v = simd.mul_add_f32s(*v, by, *v);
            }
        }
        for v in rest {
            for _ in 0..times {
                *v = *v * factor + *v;
            }
        }
    }
}

pub(crate) fn add(x: &Tensor, y: &Tensor) -> Result<()> {
    zip("add", x, y, |x, y| x + y)
}

pub(crate) fn mul(x: &Tensor, y: &Tensor) -> Result<()> {
    zip("mul", x, y, |x, y| x * y)
}

pub(crate) fn swiglu(x: &Tensor, out: &Tensor) -> Result<()> {
    let n = out.columns();
    let mut locked = lock("swiglu", [("x", x)], ("out", out))?;
    let ([x], out) = locked.parts();
    if n == 0 {
        return Ok(());
    }
    let rows = floats_mut(out).par_chunks_mut(n).zip(floats(x).par_chunks(2 * n)).with_min_len(MIN_LEN.div_ceil(n));
    rows.for_each(|(out, x)| {
        let (gate, up) = x.split_at(n);
        pulp::Arch::new().dispatch(|| {
            for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
                *out = silu_one(gate) * up;
            }
        });
    });
    Ok(())
}

fn map(op: &'static str, x: &Tensor, f: impl Fn(f32) -> f32 + Sync) -> Result<()> {
    let mut locked = lock(op, [], ("x", x))?;
    let ([], x) = locked.parts();
    floats_mut(x).par_chunks_mut(MIN_LEN).for_each(|x| {
        pulp::Arch::new().dispatch(|| {
            for v in x.iter_mut() {
                *v = f(*v);
            }
        });
    });
    Ok(())
}

fn zip(op: &'static str, x: &Tensor, y: &Tensor, f: impl Fn(f32, f32) -> f32 + Sync) -> Result<()> {
    let mut locked = lock(op, [("y", y)], ("x", x))?;
    let ([y], x) = locked.parts();
    floats_mut(x).par_chunks_mut(MIN_LEN).zip(floats(y).par_chunks(MIN_LEN)).for_each(|(x, y)| {
        pulp::Arch::new().dispatch(|| {
            for (x, &y) in x.iter_mut().zip(y) {
                *x = f(*x, y);
            }
        });
    });
    Ok(())
}

/// e^x within 2 units in the last place, for x up to 88; 0 from -87.7 down, where it is below the normal range. The range is
/// reduced by n ln 2 in two parts, the rest is a polynomial that interpolates at Chebyshev nodes (relative error 1.1e-8).
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// 1.5 * 2^23: adding it rounds to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in 10 bits, whose products with n are exact, and what is missing.
    const LN2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);
    let x = x.clamp(-87.9, 88.0);
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = (x - n * LN2.0) - n * LN2.1;
    let fit = 0.5 + r * (0.166_665_73 + r * (0.041_666_55 + r * (0.008_363_767 + r * 0.001_392_691_8)));
    // 2^n, by its exponent bits; n = -127 makes 0.
    let power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23));
    (1.0 + (r + r * r * fit)) * power
}

/// The formula of silu.wgsl.
#[inline(always)]
fn silu_one(v: f32) -> f32 {
    let e = exp(-v.abs());
    // `exp` is 0 from -88 on, so that nothing grows again.
    (if v < 0.0 { v * e } else { v }) / (1.0 + e)
}

/// The formula of tanh.wgsl.
#[inline(always)]
fn tanh_one(v: f32) -> f32 {
    let a = v.abs();
    let e = exp(-2.0 * a.min(15.0));
    let far = (1.0 - e) / (1.0 + e);
    let c = a.min(0.625);
    let z = c * c;
    let fit = -0.333_333_28 + z * (0.133_327_7 + z * (-0.053_850_91 + z * (0.020_997_18 + z * -0.006_096_714)));
    let near = c + c * (z * fit);
    (if a < 0.625 { near } else { far }).copysign(v)
}

/// The formula of gelu.wgsl, tanh form.
#[inline(always)]
fn gelu_tanh(v: f32) -> f32 {
    let c = v.clamp(-13.0, 13.0);
    let minus_2u = -1.595_769 * (c + 0.044715 * c * c * c);
    // Beyond 88, where `exp` ends, the result is below the normal range.
    let y = v / (1.0 + exp(minus_2u.min(88.0)));
    if minus_2u > 88.0 { 0.0 } else { y }
}

/// The formula of gelu.wgsl, exact form.
#[inline(always)]
fn gelu_exact(v: f32) -> f32 {
    let z = (v.abs() * std::f32::consts::FRAC_1_SQRT_2).min(9.3);
    let t = 1.0 / (1.0 + 0.5 * z);
    let low = -0.186_288_06
        + t * (0.278_868_07 + t * (-1.135_204 + t * (1.488_515_9 + t * (-0.822_152_23 + t * 0.170_872_77))));
    let fit = -1.265_512_2 + t * (1.000_023_7 + t * (0.374_091_96 + t * (0.096_784_18 + t * low)));
    let tail = 0.5 * t * exp(fit - z * z);
    let y = v * if v < 0.0 { tail } else { 1.0 - tail };
    if v < -13.0 { 0.0 } else { y }
}

#[cfg(test)]
mod tests {
    use super::exp;

    /// Every x of [-100, 88] whose lowest 8 bits are zero, and those around the end of the normal range.
    #[test]
    fn exp_is_within_two_ulp() {
        let ends = (-87.34f32).to_bits();
        let all = (0..=(-100.0f32).to_bits() >> 8).map(|high| high << 8);
        let all = all.filter(|&bits| f32::from_bits(bits) <= 88.0);
        let mut worst = 0.0f64;
        for x in all.chain(ends - 2000..ends).map(f32::from_bits) {
            let (got, truth) = (f64::from(exp(x)), f64::from(x).exp());
            if truth < f64::from(f32::MIN_POSITIVE) {
                assert!(got <= 1.001 * f64::from(f32::MIN_POSITIVE), "exp({x}) is {got}");
            } else {
                worst = worst.max((got - truth).abs() / truth / f64::from(f32::EPSILON));
            }
        }
        assert!(worst <= 2.0, "{worst} ULP");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-1e30), 0.0);
    }
}
