//! Cases of the four products: matmul, matmul_transpose_b, linear and matvec.
//!
//! Some are integers whose sums are exact in any order: there results are equal or wrong, and a missing slice of the depth
//! or a tile at the edge cannot hide. The others have a bound of |a| |b| for each element (Higham, Accuracy and Stability
//! of Numerical Algorithms, chapter 3), which holds for every order of summing: one tolerance for a whole matrix would be
//! too loose for most of its elements and, where numbers cancel, too tight for some.

use super::bounds;
use super::inputs::{Fill, Inputs};
use super::runner::{Bench, Guarded, Stop, compare};
use super::stored::Stored;
use crate::kernel::Format;
use crate::reference::Activation;
use crate::tensor::{DType, Tensor};
use crate::{ops, reference};

/// One product. What an op does not have (a bias, batches, chunks) it ignores.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Product {
    pub(crate) m: usize,
    pub(crate) k: usize,
    pub(crate) n: usize,
    pub(crate) format: Format,
    pub(crate) fill: Fill,
    pub(crate) bias: bool,
    pub(crate) activation: Option<Activation>,
    pub(crate) scale: f32,
    /// 0: two dimensions.
    pub(crate) batches: usize,
    /// One matrix b serves every batch.
    pub(crate) shared: bool,
    pub(crate) rows_per_chunk: Option<usize>,
    /// Added to what is there.
    pub(crate) accumulate: bool,
}

impl Product {
    pub(crate) fn new((m, k, n): (usize, usize, usize), format: Format, fill: Fill) -> Product {
        let (bias, activation, scale, batches, shared, rows_per_chunk) = (false, None, 1.0, 0, false, None);
        Product { m, k, n, format, fill, bias, activation, scale, batches, shared, rows_per_chunk, accumulate: false }
    }

    fn shape(&self) -> (usize, usize, usize) {
        (self.m, self.k, self.n)
    }

    fn epilogue<'a>(&self, bias: Option<&'a Tensor>) -> ops::Epilogue<'a> {
        ops::Epilogue { bias, activation: self.activation, accumulate: self.accumulate }
    }

    /// A bias, or none.
    fn draw_bias(&self, inputs: &mut Inputs) -> Option<Vec<f32>> {
        self.bias.then(|| inputs.fill(self.fill, self.n, self.n))
    }

    /// What out holds before, and out: poison, unless it is added to.
    fn draw_out(&self, bench: &Bench<'_>, inputs: &mut Inputs) -> Result<(Vec<f32>, Guarded), Stop> {
        let shape = [self.m, self.n];
        if !self.accumulate {
            return Ok((vec![0.0; self.m * self.n], bench.output(&shape, DType::F32)?));
        }
        let before = inputs.fill(self.fill, self.m * self.n, self.n);
        let out = bench.in_out(bytemuck::cast_slice(&before), &shape, DType::F32)?;
        Ok((before, out))
    }

    /// Compares with the activation of z, the product and the bias; `magnitude` is |scale| |a| |b| + |bias|. What was there
    /// before is one more summand of both.
    fn check_added(&self, got: &[f32], z: &[f64], magnitude: &[f64], before: &[f32]) -> Result<f64, Stop> {
        let plus = |to: &[f64], of: fn(f32) -> f32| -> Vec<f64> {
            to.iter().zip(before).map(|(&v, &before)| v + f64::from(of(before))).collect()
        };
        self.check(got, &plus(z, |v| v), &plus(magnitude, f32::abs))
    }

    /// Compares with the activation of z, the product and the bias; `magnitude` is |scale| |a| |b| + |bias|.
    fn check(&self, got: &[f32], z: &[f64], magnitude: &[f64]) -> Result<f64, Stop> {
        if self.activation.is_none() {
            return check(self.fill, (self.k, self.n), got, z, magnitude);
        }
        let truth = reference::epilogue(z, None, self.activation, self.n);
        let error = |i: usize| if self.fill == Fill::Integers { 0.0 } else { bounds::product(self.k, magnitude[i]) };
        compare(got, &truth, self.n, |i| bounds::activated(self.activation, error(i), z[i], truth[i]))
    }
}

/// Compares products over k, in rows of n, with the truth; `magnitude` is |scale| |a| |b| + |bias|, not looked at where
/// integers are exact.
pub(super) fn check(
    fill: Fill,
    (k, n): (usize, usize),
    got: &[f32],
    truth: &[f64],
    magnitude: &[f64],
) -> Result<f64, Stop> {
    let exact = fill == Fill::Integers;
    let worst = compare(got, truth, n, |i| if exact { 0.0 } else { bounds::product(k, magnitude[i]) })?;
    if fill == Fill::Uniform && truth.len() >= 64 && k > 0 {
        let squares = |of: &mut dyn Iterator<Item = f64>| of.map(|v| v * v).sum::<f64>().sqrt();
        let error = squares(&mut got.iter().zip(truth).map(|(&got, truth)| f64::from(got) - truth));
        let relative = error / squares(&mut truth.iter().copied());
        let limit = bounds::statistical(k);
        if relative > limit {
            let message = format!("every element is within its bound, but the 2-norm of the error, {relative:.2e}");
            return Err(Stop::Failed(format!("{message}, is more than rounding makes of it, {limit:.2e}")));
        }
    }
    Ok(worst)
}

pub(super) fn magnitudes(values: &[f32]) -> Vec<f32> {
    values.iter().map(|v| v.abs()).collect()
}

pub(crate) fn matmul(bench: &mut Bench<'_>, case: &Product, mut inputs: Inputs) -> Result<f64, Stop> {
    let (m, k, n) = case.shape();
    let a = inputs.fill(case.fill, m * k, k);
    let stored = Stored::draw(&mut inputs, case.fill, (k, n), case.format);
    let (b, x, w) = (&stored.values, bench.input(&a, &[m, k])?, bench.matrix(&stored, &[k, n])?);
    let bias = case.draw_bias(&mut inputs);
    let bias_tensor = bias.as_ref().map(|bias| bench.input(bias, &[n])).transpose()?;
    let (before, mut out) = case.draw_out(bench, &mut inputs)?;
    let epilogue = case.epilogue(bias_tensor.as_ref());
    bench.run(|pass| ops::matmul_with(pass, &x, &w, epilogue, &mut out.tensor))?;
    let z = reference::epilogue(&reference::matmul(&a, b, case.shape()), bias.as_deref(), None, n);
    let magnitude = reference::matmul(&magnitudes(&a), &stored.magnitudes, case.shape());
    let magnitude = reference::epilogue(&magnitude, bias.as_deref().map(magnitudes).as_deref(), None, n);
    case.check_added(&bench.read_f32(&out)?, &z, &magnitude, &before)
}

pub(crate) fn matmul_transpose_b(bench: &mut Bench<'_>, case: &Product, mut inputs: Inputs) -> Result<f64, Stop> {
    let (m, k, n) = case.shape();
    let batches = case.batches.max(1);
    let b_batches = if case.shared { 1 } else { batches };
    let a = inputs.fill(case.fill, batches * m * k, k);
    let stored = Stored::draw(&mut inputs, case.fill, (b_batches * n, k), case.format);
    let three = |rows: usize, columns: usize| match case.batches {
        0 => vec![rows, columns],
        batches => vec![batches, rows, columns],
    };
    let b_shape = if case.shared { vec![n, k] } else { three(n, k) };
    let (x, w) = (bench.input(&a, &three(m, k))?, bench.matrix(&stored, &b_shape)?);
    let mut out = bench.output(&three(m, n), DType::F32)?;
    bench.run(|pass| ops::matmul_transpose_b(pass, &x, &w, case.scale, &mut out.tensor))?;
    let (mut truth, mut magnitude) = (Vec::new(), Vec::new());
    let abs_a = magnitudes(&a);
    for batch in 0..batches {
        let (from_a, from_b) = (batch * m * k, if case.shared { 0 } else { batch * n * k });
        let product = |a: &[f32], b: &[f32], scale| {
            reference::matmul_transpose_b(&a[from_a..], &b[from_b..], None, scale, case.shape())
        };
        truth.extend(product(&a, &stored.values, case.scale));
        magnitude.extend(product(&abs_a, &stored.magnitudes, case.scale.abs()));
    }
    case.check(&bench.read_f32(&out)?, &truth, &magnitude)
}

pub(crate) fn linear(bench: &mut Bench<'_>, case: &Product, inputs: Inputs) -> Result<f64, Stop> {
    layer(bench, case, inputs, ops::linear_with)
}

pub(crate) fn matvec(bench: &mut Bench<'_>, case: &Product, inputs: Inputs) -> Result<f64, Stop> {
    layer(bench, case, inputs, ops::matvec_with)
}

/// [`ops::linear_with`] and [`ops::matvec_with`].
type Layer =
    fn(&mut crate::Pass, &crate::Tensor, &crate::Weight, ops::Epilogue<'_>, &mut crate::Tensor) -> crate::Result<()>;

fn layer(bench: &mut Bench<'_>, case: &Product, mut inputs: Inputs, op: Layer) -> Result<f64, Stop> {
    let (m, k, n) = case.shape();
    let a = inputs.fill(case.fill, m * k, k);
    let stored = Stored::draw(&mut inputs, case.fill, (n, k), case.format);
    let bias = case.draw_bias(&mut inputs);
    let x = bench.input(&a, &[m, k])?;
    let w = bench.weight(&stored, (n, k), case.rows_per_chunk)?;
    let bias_tensor = bias.as_ref().map(|bias| bench.input(bias, &[n])).transpose()?;
    let (before, mut out) = case.draw_out(bench, &mut inputs)?;
    let epilogue = case.epilogue(bias_tensor.as_ref());
    bench.run(|pass| op(pass, &x, &w, epilogue, &mut out.tensor))?;
    let truth = reference::matvec(&a, &stored.values, bias.as_deref(), case.shape());
    let bias = bias.as_deref().map(magnitudes);
    let magnitude = reference::matvec(&magnitudes(&a), &stored.magnitudes, bias.as_deref(), case.shape());
    case.check_added(&bench.read_f32(&out)?, &truth, &magnitude, &before)
}
