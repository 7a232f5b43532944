//! Cases of the ops that make one number of many: reduce and dot.
//!
//! A sum of many numbers in f32 is what its order makes of it, so the bound counts the roundings that an element meets, and
//! integers are exact. Numbers far from zero and all negative ones are there for the neutral element: a maximum that starts
//! at 0, or a tail of a workgroup that adds one, is right for inputs around zero.

use super::bounds;
use super::inputs::{Fill, Inputs};
use super::runner::{Bench, Stop, compare};
use crate::ops;
use crate::reference::{self, Reduction};
use crate::tensor::DType;

/// One reduction of x to out.
#[derive(Debug, Clone)]
pub(crate) struct Reducing {
    pub(crate) x: Vec<usize>,
    pub(crate) out: Vec<usize>,
    pub(crate) how: Reduction,
    pub(crate) fill: Fill,
    /// Added to every element.
    pub(crate) shift: f32,
}

pub(crate) fn reduce(bench: &mut Bench<'_>, case: &Reducing, mut inputs: Inputs) -> Result<f64, Stop> {
    let n = case.x.last().copied().unwrap_or(1);
    let m: usize = case.x.iter().rev().skip(1).product();
    let mut x = inputs.fill(case.fill, m * n, n);
    x.iter_mut().for_each(|v| *v += case.shift);
    let x_tensor = bench.input(&x, &case.x)?;
    let mut out = bench.output(&case.out, DType::F32)?;
    bench.run(|pass| ops::reduce(pass, &x_tensor, case.how, &mut out.tensor))?;
    let truth = reference::reduce(&x, (m, n), case.how);
    let bound = |row: usize| match case.how {
        // No rounding, and no subnormal among the inputs.
        Reduction::Max => 0.0,
        // All partial sums are integers below 2^24.
        Reduction::Sum if case.fill == Fill::Integers => 0.0,
        Reduction::Sum => bounds::reduced(n, magnitude(&x[row * n..][..n])),
        Reduction::Mean => bounds::mean(n, magnitude(&x[row * n..][..n])),
    };
    compare(&bench.read_f32(&out)?, &truth, case.out.last().copied().unwrap_or(1), bound)
}

fn magnitude(x: &[f32]) -> f64 {
    x.iter().map(|&v| f64::from(v).abs()).sum()
}

/// The inner product of two tensors of one shape.
pub(crate) fn dot(bench: &mut Bench<'_>, shape: &[usize], fill: Fill, mut inputs: Inputs) -> Result<f64, Stop> {
    let (count, columns) = (shape.iter().product(), shape.last().copied().unwrap_or(1));
    let (x, y) = (inputs.fill(fill, count, columns), inputs.fill(fill, count, columns));
    let (x_tensor, y_tensor) = (bench.input(&x, shape)?, bench.input(&y, shape)?);
    let mut out = bench.output(&[1], DType::F32)?;
    bench.run(|pass| ops::dot(pass, &x_tensor, &y_tensor, &mut out.tensor))?;
    let magnitude: f64 = x.iter().zip(&y).map(|(&x, &y)| (f64::from(x) * f64::from(y)).abs()).sum();
    // Products of integers up to 8 add up exactly below 2^24.
    let bound = if fill == Fill::Integers { 0.0 } else { bounds::dot(count, magnitude) };
    compare(&bench.read_f32(&out)?, &[reference::dot(&x, &y)], 1, |_| bound)
}
