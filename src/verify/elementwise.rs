//! Cases of the ops that look at one element at a time, and of repitch.
//!
//! What goes wrong in them is range, not arithmetic: a tanh whose argument overflows is NaN on some drivers, x^3 is
//! infinite from 7e12 on, and random numbers of moderate size find neither. So every exponent of f32 is gone through, the
//! places where the formulas change over stand in a list, and one case is all of one number, in which any pattern is an
//! index that went wrong.

use super::inputs::Inputs;
use super::runner::{Bench, Stop, compare};
use super::{Layout, bounds};
use crate::reference::{self, Gelu};
use crate::tensor::DType;
use crate::{Pass, Tensor, ops};

/// Which numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Values {
    /// U\[-1, 1\] times a factor.
    Scaled(u32),
    /// The upper halves of all finite floats: every exponent, every sign.
    Sweep,
    /// 0, -0, 1, +-9.01, +-13, +-150, +-1e4, +-3e38 and their like, again and again.
    Extremes,
    /// One number: a pattern in the result is then an index that went wrong.
    Constant,
}

const EXTREMES: [f32; 22] = [
    0.0, -0.0, 1.0, -1.0, 2.7, -2.7, 9.01, -9.01, 10.06, -10.06, 10.2, -10.2, 12.9, -12.9, 13.1, -13.1, 150.0, -150.0,
    1e4, -1e4, 3e38, -3e38,
];

fn draw(values: Values, count: usize, inputs: &mut Inputs) -> Vec<f32> {
    let finite = |pattern: u32| Some(f32::from_bits(pattern << 16)).filter(|v| v.is_finite());
    match values {
        Values::Scaled(factor) => inputs.uniform(count).into_iter().map(|v| v * factor as f32).collect(),
        Values::Sweep => (0..1 << 16).map(|pattern| finite(pattern).unwrap_or(1.0)).take(count).collect(),
        Values::Extremes => EXTREMES.into_iter().cycle().take(count).collect(),
        Values::Constant => vec![-0.75; count],
    }
}

/// A tensor of a shape with such numbers.
#[derive(Debug, Clone)]
pub(crate) struct Elements {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Values,
}

impl Elements {
    fn count(&self) -> usize {
        self.shape.iter().product()
    }

    fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }
}

/// Runs `op` in place on x and returns the result.
fn in_place(
    bench: &mut Bench<'_>,
    case: &Elements,
    x: &[f32],
    op: impl FnOnce(&mut Pass, &mut Tensor) -> crate::Result<()>,
) -> Result<Vec<f32>, Stop> {
    let mut tensor = bench.in_out(bytemuck::cast_slice(x), &case.shape, DType::F32)?;
    bench.run(|pass| op(pass, &mut tensor.tensor))?;
    bench.read_f32(&tensor)
}

pub(crate) fn gelu(bench: &mut Bench<'_>, case: &Elements, form: Gelu, mut inputs: Inputs) -> Result<f64, Stop> {
    let x = draw(case.values, case.count(), &mut inputs);
    let got = in_place(bench, case, &x, |pass, x| ops::gelu(pass, x, form))?;
    let truth = reference::gelu(&x, form);
    let bound = match form {
        Gelu::Tanh => bounds::gelu_tanh,
        Gelu::Exact => bounds::gelu_exact,
    };
    compare(&got, &truth, case.columns(), |i| bound(f64::from(x[i]), truth[i]))
}

pub(crate) fn relu(bench: &mut Bench<'_>, case: &Elements, mut inputs: Inputs) -> Result<f64, Stop> {
    let x = draw(case.values, case.count(), &mut inputs);
    let got = in_place(bench, case, &x, ops::relu)?;
    // Subnormals may be flushed; all else is exact.
    let bound = |i: usize| if x[i].is_normal() { 0.0 } else { bounds::TINY };
    compare(&got, &reference::relu(&x), case.columns(), bound)
}

pub(crate) fn sigmoid(bench: &mut Bench<'_>, case: &Elements, mut inputs: Inputs) -> Result<f64, Stop> {
    let x = draw(case.values, case.count(), &mut inputs);
    let got = in_place(bench, case, &x, ops::sigmoid)?;
    let truth = reference::sigmoid(&x);
    compare(&got, &truth, case.columns(), |i| bounds::sigmoid(x[i].into(), truth[i]))
}

pub(crate) fn silu(bench: &mut Bench<'_>, case: &Elements, mut inputs: Inputs) -> Result<f64, Stop> {
    let x = draw(case.values, case.count(), &mut inputs);
    let got = in_place(bench, case, &x, ops::silu)?;
    let truth = reference::silu(&x);
    compare(&got, &truth, case.columns(), |i| bounds::silu(x[i].into(), truth[i]))
}

pub(crate) fn tanh(bench: &mut Bench<'_>, case: &Elements, mut inputs: Inputs) -> Result<f64, Stop> {
    let x = draw(case.values, case.count(), &mut inputs);
    let got = in_place(bench, case, &x, ops::tanh)?;
    let truth = reference::tanh(&x);
    compare(&got, &truth, case.columns(), |i| bounds::tanh(truth[i]))
}

pub(crate) fn scale(bench: &mut Bench<'_>, case: &Elements, factor: f32, mut inputs: Inputs) -> Result<f64, Stop> {
    let x = draw(case.values, case.count(), &mut inputs);
    let got = in_place(bench, case, &x, |pass, x| ops::scale(pass, x, factor))?;
    let truth = reference::scale(&x, factor);
    compare(&got, &truth, case.columns(), |i| bounds::sum(truth[i]))
}

pub(crate) fn probe(
    bench: &mut Bench<'_>,
    case: &Elements,
    (factor, times): (f32, u32),
    mut inputs: Inputs,
) -> Result<f64, Stop> {
    let x = draw(case.values, case.count(), &mut inputs);
    let got = in_place(bench, case, &x, |pass, x| ops::probe(pass, x, factor, times))?;
    let truth = reference::probe(&x, factor, times);
    compare(&got, &truth, case.columns(), |i| bounds::probe(x[i].into(), factor.into(), times))
}

pub(crate) fn mul(bench: &mut Bench<'_>, case: &Elements, mut inputs: Inputs) -> Result<f64, Stop> {
    let x = draw(case.values, case.count(), &mut inputs);
    let y = inputs.uniform(case.count());
    let y_tensor = bench.input(&y, &case.shape)?;
    let got = in_place(bench, case, &x, |pass, x| ops::mul(pass, x, &y_tensor))?;
    let truth = reference::mul(&x, &y);
    compare(&got, &truth, case.columns(), |i| bounds::sum(truth[i]))
}

/// The numbers of a case are gates; what they let through is U\[-1, 1\].
pub(crate) fn swiglu(bench: &mut Bench<'_>, case: &Elements, mut inputs: Inputs) -> Result<f64, Stop> {
    let n = case.columns();
    let gates = draw(case.values, case.count(), &mut inputs);
    let ups = inputs.uniform(case.count());
    let x = gates.chunks(n.max(1)).zip(ups.chunks(n.max(1))).flat_map(|(gate, up)| [gate, up].concat());
    let x: Vec<f32> = x.collect();
    let mut x_shape = case.shape.clone();
    x_shape.iter_mut().rev().take(1).for_each(|columns| *columns *= 2);
    let x_tensor = bench.input(&x, &x_shape)?;
    let mut out = bench.output(&case.shape, DType::F32)?;
    bench.run(|pass| ops::swiglu(pass, &x_tensor, &mut out.tensor))?;
    let truth = reference::swiglu(&x, n);
    compare(&bench.read_f32(&out)?, &truth, n, |i| bounds::swiglu(gates[i].into(), ups[i].into(), truth[i]))
}

pub(crate) fn add(bench: &mut Bench<'_>, case: &Elements, mut inputs: Inputs) -> Result<f64, Stop> {
    let x = draw(case.values, case.count(), &mut inputs);
    let y = inputs.uniform(case.count());
    let y_tensor = bench.input(&y, &case.shape)?;
    let got = in_place(bench, case, &x, |pass, x| ops::add(pass, x, &y_tensor))?;
    let truth = reference::add(&x, &y);
    compare(&got, &truth, case.columns(), |i| bounds::sum(truth[i]))
}

/// From one layout to the other, and back.
pub(crate) fn repitch(bench: &mut Bench<'_>, case: &Elements, mut inputs: Inputs) -> Result<f64, Stop> {
    let x = draw(case.values, case.count(), &mut inputs);
    let mut worst: f64 = 0.0;
    for (from, to) in [(Layout::Padded, Layout::Dense), (Layout::Dense, Layout::Padded), (Layout::Dense, Layout::Dense)]
    {
        let x_tensor = bench.with_layout(from).input(&x, &case.shape)?;
        let mut out = bench.with_layout(to).output(&case.shape, DType::F32)?;
        bench.run(|pass| ops::repitch(pass, &x_tensor, &mut out.tensor))?;
        worst = worst.max(compare(&bench.read_f32(&out)?, &reference::repitch(&x), case.columns(), |_| 0.0)?);
    }
    Ok(worst)
}
