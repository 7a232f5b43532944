//! Cases of layers with the norm before them and the gate after them.
//!
//! The bound is made of those of its parts: every element of the norm has its own, a product passes them on by |w|, and a
//! gate by its slope.

use super::bounds;
use super::inputs::{Fill, Inputs};
use super::norms::{layer_norm_bounds, rms_norm_bounds};
use super::runner::{Bench, Stop, compare};
use super::stored::Stored;
use crate::kernel::Format;
use crate::ops;
use crate::reference::{self, Activation};
use crate::tensor::DType;

/// One layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layered {
    pub(crate) m: usize,
    pub(crate) k: usize,
    /// Columns of out.
    pub(crate) n: usize,
    pub(crate) format: Format,
    /// Mean of x, whose deviation is 0.58. The layer norm takes it away.
    pub(crate) mean: f32,
    /// The norm has a bias, and takes the mean away.
    pub(crate) by_mean: bool,
    pub(crate) bias: bool,
    pub(crate) after: After,
    pub(crate) rows_per_chunk: Option<usize>,
    /// The norm has a dispatch of its own, as models on processors have it.
    pub(crate) apart: bool,
}

/// What becomes of the product.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum After {
    Nothing,
    Activation(Activation),
    Gate,
    Accumulate,
}

/// The truth, and how far a result may lie from it.
type Bounded = (f64, f64);

pub(crate) fn norm_linear(bench: &mut Bench<'_>, case: &Layered, mut inputs: Inputs) -> Result<f64, Stop> {
    const EPS: f32 = 1e-5;
    let &Layered { m, k, n, format, mean, by_mean, after, .. } = case;
    let rows = if after == After::Gate { 2 * n } else { n };
    let x: Vec<f32> = inputs.uniform(m * k).into_iter().map(|v| mean + v).collect();
    let weight = inputs.uniform(k);
    let shift = by_mean.then(|| inputs.uniform(k));
    let stored = Stored::draw(&mut inputs, Fill::Uniform, (rows, k), format);
    let bias = case.bias.then(|| inputs.uniform(rows));
    let before = if after == After::Accumulate { inputs.uniform(m * n) } else { vec![0.0; m * n] };

    let x_tensor = bench.either(&mut inputs).input(&x, &[m, k])?;
    let weight_tensor = bench.input(&weight, &[k])?;
    let shift_tensor = shift.as_ref().map(|shift| bench.input(shift, &[k])).transpose()?;
    let w = bench.weight(&stored, (rows, k), case.rows_per_chunk)?;
    let bias_tensor = bias.as_ref().map(|bias| bench.input(bias, &[rows])).transpose()?;
    let mut out = match after {
        After::Accumulate => bench.in_out(bytemuck::cast_slice(&before), &[m, n], DType::F32)?,
        _ => bench.output(&[m, n], DType::F32)?,
    };
    let norm = ops::Norm { weight: &weight_tensor, bias: shift_tensor.as_ref(), eps: EPS };
    let activation = if let After::Activation(activation) = after { Some(activation) } else { None };
    let accumulate = after == After::Accumulate;
    let epilogue = ops::Epilogue { bias: bias_tensor.as_ref(), activation, accumulate, parts: None };
    let gated = after == After::Gate;
    bench.run(|pass| {
        if !case.apart {
            return ops::norm_linear(pass, &x_tensor, Some(&norm), &w, epilogue, gated, &mut out.tensor);
        }
        let mut normed = pass.tensor(&[m, k])?;
        norm.of(pass, (&x_tensor, 0), &mut normed)?;
        ops::norm_linear(pass, &normed, None, &w, epilogue, gated, &mut out.tensor)
    })?;

    let truth = reference::norm_linear(&x, (&weight, shift.as_deref(), EPS), &stored.values, bias.as_deref());
    let errors = product_bounds(bench, case, &x, (&weight, shift.as_deref(), EPS), &stored, bias.as_deref());
    let products: Vec<Bounded> = truth.into_iter().zip(errors).collect();
    let expected = finish(&products, &before, (n, rows), after);
    compare(&bench.read_f32(&out)?, &expected.iter().map(|e| e.0).collect::<Vec<_>>(), n, |i| expected[i].1)
}

/// The bound of every product: what the norm leaves, by |w|, and what summing makes of it.
fn product_bounds(
    bench: &Bench<'_>,
    case: &Layered,
    x: &[f32],
    (weight, shift, eps): (&[f32], Option<&[f32]>, f32),
    stored: &Stored,
    bias: Option<&[f32]>,
) -> Vec<f64> {
    let k = case.k;
    let halves = bench.halves();
    let halved = |v: f64| if halves { bounds::halved(v) } else { 0.0 };
    let (normed, errors) = match shift {
        Some(shift) => {
            let normed = reference::layer_norm(x, weight, shift, eps);
            let errors = layer_norm_bounds(x, (weight, shift, eps), &normed);
            (normed, errors)
        }
        None => {
            let normed = reference::rms_norm(x, weight, eps);
            let errors = rms_norm_bounds(x, (weight, eps), &normed);
            (normed, errors)
        }
    };
    let mut bounds = Vec::new();
    for (normed, errors) in normed.chunks(k.max(1)).zip(errors.chunks(k.max(1))) {
        let rows = stored.magnitudes.chunks(k.max(1)).zip(stored.values.chunks(k.max(1)));
        for (j, (w, values)) in rows.enumerate() {
            let (mut passed, mut magnitude) = (0.0, 0.0);
            for (((v, error), &w), &value) in normed.iter().zip(errors).zip(w).zip(values) {
                let (v, w) = (v.abs(), f64::from(w));
                let (v_error, w_error) = (error + halved(v + error), halved(value.into()));
                passed += v_error * (w + w_error) + v * w_error;
                magnitude += (v + v_error) * (w + w_error);
            }
            let bias = bias.map_or(0.0, |bias| f64::from(bias[j].abs()));
            // What is there before is one more summand, of at most 1.
            bounds.push(passed + bounds::product(k + 1, magnitude + bias + 1.0));
        }
    }
    bounds
}

/// What the products become, `rows` of them in each row of out\[m,n\].
fn finish(products: &[Bounded], before: &[f32], (n, rows): (usize, usize), after: After) -> Vec<Bounded> {
    let activated = |activation: Activation, (z, error): Bounded| {
        let y = reference::epilogue(&[z], None, Some(activation), 1)[0];
        (y, bounds::activated(Some(activation), error, z, y))
    };
    let one = |(i, &before): (usize, &f32)| {
        let (truth, error) = products[i / n * rows + i % n];
        match after {
            After::Nothing => (truth, error),
            After::Activation(activation) => activated(activation, (truth, error)),
            After::Accumulate => (truth + f64::from(before), error),
            After::Gate => {
                let (gate, gate_error) = activated(Activation::Silu, (truth, error));
                let (other, other_error) = products[i / n * rows + n + i % n];
                let error = gate.abs() * other_error + (other.abs() + other_error) * gate_error;
                (gate * other, error + bounds::U * ((gate * other).abs() + error) + bounds::TINY)
            }
        }
    };
    before.iter().enumerate().map(one).collect()
}
