//! Cases of cast. The arithmetic is exact but for one rounding that is defined, so results are equal, bit by bit.
//!
//! A tolerance would hide the cases that matter: ties, subnormals, infinities and NaN are few among random numbers and off
//! by one unit where they are wrong. So every half there is is converted, and on the way down every exponent and every tie.

use super::Layout;
use super::inputs::Inputs;
use super::runner::{Bench, Guarded, Stop, compare_words};
use crate::ops;
use crate::reference::{self, Cast};
use crate::tensor::DType;

/// Which bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bits {
    /// Random floats of the magnitudes that halves have, and some beyond; random halves.
    Random,
    /// Every half, again and again: as they are, or as the f32 that they are.
    Every,
    /// Around every half the floats at, just below and just above the midpoint to the next one.
    Ties,
    /// The upper halves of all floats, with three kinds of lower ones: every exponent, infinities and NaN.
    Exponents,
    /// One number: a pattern in the result is then an index that went wrong.
    Constant,
}

/// One cast.
#[derive(Debug, Clone)]
pub(crate) struct Casting {
    pub(crate) kind: Cast,
    pub(crate) shape: Vec<usize>,
    pub(crate) bits: Bits,
    /// Layout of x and of out, where it is not the bench's.
    pub(crate) layouts: Option<(Layout, Layout)>,
}

/// What x and out are.
fn types(kind: Cast) -> (DType, DType) {
    match kind {
        Cast::F32ToF16 => (DType::F32, DType::F16),
        Cast::F16ToF32 => (DType::F16, DType::F32),
        Cast::Bf16ToF32 => (DType::BF16, DType::F32),
    }
}

/// The bits of one float, among `i` of them.
fn float(bits: Bits, i: usize, inputs: &mut Inputs) -> u32 {
    let half = (i % (1 << 16)) as u32;
    match bits {
        // 2^-28 to 2^18, with both signs.
        Bits::Random => {
            let exponent = 99 + inputs.below(47) as u32;
            (inputs.below(2) as u32) << 31 | exponent << 23 | inputs.below(1 << 23) as u32
        }
        Bits::Every => reference::cast(&[half], Cast::F16ToF32)[0],
        Bits::Ties => {
            let near = |half: u32| f64::from(f32::from_bits(reference::cast(&[half], Cast::F16ToF32)[0]));
            let half = (i / 3 % 0x7c00) as u32;
            let next = if half == 0x7bff { 65536.0 } else { near(half + 1) };
            let middle = ((near(half) + next) / 2.0) as f32;
            let sign = ((i / 3 / 0x7c00 % 2) as u32) << 31;
            (middle.to_bits() + (i % 3) as u32 - 1) | sign
        }
        Bits::Exponents => half << 16 | [0, 1, 0xffff][i / (1 << 16) % 3],
        Bits::Constant => (-0.75f32).to_bits(),
    }
}

/// The bits of one half.
fn half(bits: Bits, i: usize, inputs: &mut Inputs) -> u32 {
    match bits {
        Bits::Random => inputs.below(1 << 16) as u32,
        Bits::Constant => 0xba00,
        Bits::Every | Bits::Ties | Bits::Exponents => (i % (1 << 16)) as u32,
    }
}

/// Dense elements as words.
fn packed(elements: &[u32], dtype: DType) -> Vec<u32> {
    match dtype.bytes() {
        2 => elements.chunks(2).map(|pair| pair[0] | pair.get(1).map_or(0, |high| high << 16)).collect(),
        _ => elements.to_vec(),
    }
}

fn elements(bench: &Bench<'_>, guarded: &Guarded) -> Result<Vec<u32>, Stop> {
    match guarded.tensor.dtype().bytes() {
        2 => Ok(bench.read::<u16>(guarded)?.into_iter().map(u32::from).collect()),
        _ => bench.read(guarded),
    }
}

pub(crate) fn cast(bench: &mut Bench<'_>, case: &Casting, mut inputs: Inputs) -> Result<f64, Stop> {
    let (from, to) = types(case.kind);
    let count = case.shape.iter().product();
    let draw = if from == DType::F32 { float } else { half };
    let x: Vec<u32> = (0..count).map(|i| draw(case.bits, i, &mut inputs)).collect();
    let layouts = case.layouts.map(|(x, out)| (bench.with_layout(x), bench.with_layout(out)));
    let (of_x, of_out) = layouts.as_ref().map_or((&*bench, &*bench), |(x, out)| (x, out));
    let x_tensor = of_x.in_out(&packed(&x, from), &case.shape, from)?;
    let mut out = of_out.output(&case.shape, to)?;
    bench.run(|pass| ops::cast(pass, &x_tensor.tensor, &mut out.tensor))?;
    let columns = case.shape.last().copied().unwrap_or(1);
    compare_words("out", &elements(bench, &out)?, &reference::cast(&x, case.kind), columns)
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use crate::reference::{Cast, cast};

    /// The twin computes in f64; `half` shifts bits. Where they agree there is no third opinion.
    #[test]
    fn the_twin_is_what_half_says() {
        for bits in 0..=u16::MAX {
            let wide = [cast(&[bits.into()], Cast::F16ToF32)[0], cast(&[bits.into()], Cast::Bf16ToF32)[0]];
            assert_eq!(wide, [f16::from_bits(bits).to_f32().to_bits(), bf16::from_bits(bits).to_f32().to_bits()]);
        }
        // A prime step reaches every exponent and ends of every kind.
        for bits in (0..=u32::MAX).step_by(1009).chain((0x3300_0000..0x3380_0100).step_by(13)) {
            let half = f16::from_f32(f32::from_bits(bits)).to_bits();
            assert_eq!(cast(&[bits], Cast::F32ToF16)[0], u32::from(half), "{bits:#010x}");
        }
    }
}
