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
    /// Of the depth.
    pub(crate) parts: Option<usize>,
}

impl Product {
    pub(crate) fn new((m, k, n): (usize, usize, usize), format: Format, fill: Fill) -> Product {
        let (bias, activation, scale, batches, shared, rows_per_chunk) = (false, None, 1.0, 0, false, None);
        let (accumulate, parts) = (false, None);
        Product { m, k, n, format, fill, bias, activation, scale, batches, shared, rows_per_chunk, accumulate, parts }
    }

    fn shape(&self) -> (usize, usize, usize) {
        (self.m, self.k, self.n)
    }

    fn epilogue<'a>(&self, bias: Option<&'a Tensor>) -> ops::Epilogue<'a> {
        ops::Epilogue { bias, activation: self.activation, accumulate: self.accumulate, parts: self.parts }
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

    /// Compares with the activation of z, the product and the bias; `sizes` are of |scale| |a| |b| + |bias|. What was there
    /// before is one more summand of both.
    fn check_added(&self, got: &[f32], z: &[f64], mut sizes: Sizes, before: &[f32]) -> Result<f64, Stop> {
        let z: Vec<f64> = z.iter().zip(before).map(|(&z, &before)| z + f64::from(before)).collect();
        sizes.sums.iter_mut().zip(before).for_each(|(size, before)| *size += f64::from(before.abs()));
        self.check(got, &z, &sizes)
    }

    /// Compares with the activation of z, the product and the bias; `sizes` are of |scale| |a| |b| + |bias|.
    fn check(&self, got: &[f32], z: &[f64], sizes: &Sizes) -> Result<f64, Stop> {
        if self.activation.is_none() {
            return check(self.fill, (self.k, self.n), got, z, sizes);
        }
        let truth = reference::epilogue(z, None, self.activation, self.n);
        let error = |i: usize| if self.fill == Fill::Integers { 0.0 } else { sizes.error(self.k, i) };
        compare(got, &truth, self.n, |i| bounds::activated(self.activation, error(i), z[i], truth[i]))
    }
}

/// What errors of products are measured by.
#[derive(Default)]
pub(super) struct Sizes {
    /// |scale| |a| |b| + |bias|, of factors as they are multiplied.
    sums: Vec<f64>,
    /// What is lost where factors are rounded to halves first; not finite where one is beyond them.
    lost: Option<Vec<f64>>,
}

impl Sizes {
    /// `product` of magnitudes; each factor is its magnitudes and its values.
    pub(super) fn new(
        bench: &Bench<'_>,
        (a, a_values): (&[f32], &[f32]),
        (b, b_values): (&[f32], &[f32]),
        product: impl Fn(&[f32], &[f32]) -> Vec<f64>,
    ) -> Sizes {
        let sums = product(a, b);
        if !bench.halves() {
            return Sizes { sums, lost: None };
        }
        let rounded = product(&halved(a, a_values), &halved(b, b_values));
        let lost = rounded.iter().zip(&sums).map(|(rounded, exact)| rounded - exact).collect();
        Sizes { sums: rounded, lost: Some(lost) }
    }

    /// How far a product over k may be off.
    fn error(&self, k: usize, i: usize) -> f64 {
        bounds::product(k, self.sums[i]) + self.lost.as_ref().map_or(0.0, |lost| lost[i])
    }

    /// The truth, where there is one: what has a factor beyond halves is not finite, and must not look as if it were.
    pub(super) fn finite(&self, truth: &[f64]) -> Vec<f64> {
        let finite = |(i, &v): (usize, &f64)| match &self.lost {
            Some(lost) if !lost[i].is_finite() => f64::NAN,
            _ => v,
        };
        truth.iter().enumerate().map(finite).collect()
    }

    /// Compares whatever the numbers are like, each product with its own bound.
    pub(super) fn compare(&self, (k, n): (usize, usize), got: &[f32], truth: &[f64]) -> Result<f64, Stop> {
        compare(got, &self.finite(truth), n, |i| self.error(k, i))
    }
}

/// Magnitudes of factors after they were rounded to halves, at most; a little more, for the rounding to f32 here.
pub(crate) fn halved(magnitudes: &[f32], values: &[f32]) -> Vec<f32> {
    let most = |(&magnitude, &value): (&f32, &f32)| {
        let error = bounds::halved(value.into());
        if error == 0.0 { magnitude } else { ((f64::from(magnitude) + error) * (1.0 + 2f64.powi(-22))) as f32 }
    };
    magnitudes.iter().zip(values).map(most).collect()
}

/// Compares products over k, in rows of n, with the truth; `sizes` are not looked at where integers are exact: those that are
/// drawn are halves too.
pub(super) fn check(
    fill: Fill,
    (k, n): (usize, usize),
    got: &[f32],
    truth: &[f64],
    sizes: &Sizes,
) -> Result<f64, Stop> {
    if fill == Fill::Integers {
        return compare(got, truth, n, |_| 0.0);
    }
    let worst = sizes.compare((k, n), got, truth)?;
    if fill == Fill::Uniform && truth.len() >= 64 && k > 0 {
        let squares = |of: &mut dyn Iterator<Item = f64>| of.map(|v| v * v).sum::<f64>().sqrt();
        let error = squares(&mut got.iter().zip(truth).map(|(&got, truth)| f64::from(got) - truth));
        let relative = error / squares(&mut truth.iter().copied());
        let limit = if sizes.lost.is_some() { bounds::statistical_halves(k) } else { bounds::statistical(k) };
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
    let bias = bias.as_deref().map(magnitudes);
    let sizes = Sizes::new(bench, (&magnitudes(&a), &a), (&stored.magnitudes, &stored.values), |a, b| {
        reference::epilogue(&reference::matmul(a, b, case.shape()), bias.as_deref(), None, n)
    });
    case.check_added(&bench.read_f32(&out)?, &z, sizes, &before)
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
    let product = |a: &[f32], b: &[f32], scale: f32| -> Vec<f64> {
        let from = |batch: usize| (batch * m * k, if case.shared { 0 } else { batch * n * k });
        let one = |(from_a, from_b): (usize, usize)| {
            reference::matmul_transpose_b(&a[from_a..], &b[from_b..], None, scale, case.shape())
        };
        (0..batches).flat_map(|batch| one(from(batch))).collect()
    };
    let truth = product(&a, &stored.values, case.scale);
    let factors = ((&*magnitudes(&a), &*a), (&*stored.magnitudes, &*stored.values));
    let sizes = Sizes::new(bench, factors.0, factors.1, |a, b| product(a, b, case.scale.abs()));
    case.check(&bench.read_f32(&out)?, &truth, &sizes)
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
    let sizes = Sizes::new(bench, (&magnitudes(&a), &a), (&stored.magnitudes, &stored.values), |a, w| {
        reference::matvec(a, w, bias.as_deref(), case.shape())
    });
    case.check_added(&bench.read_f32(&out)?, &truth, sizes, &before)
}
