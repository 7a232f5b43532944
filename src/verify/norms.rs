//! Cases of the norms and softmaxes.
//!
//! Means of up to 10,000 are there because of one mistake: the variance as E\[x^2\] - mean^2 is right for centred numbers,
//! 1 % off where the mean is 100 times the deviation, and may be negative at 10,000 times. The bound follows the arithmetic
//! of two passes and so discriminates. Rows before and after those of the case are NaN, so that a row read from elsewhere
//! is seen; a softmax must add up to one, and give the same bits for logits that are shifted.

use super::bounds::{self, Normed};
use super::inputs::Inputs;
use super::runner::{Bench, Stop, compare, compare_words};
use crate::tensor::DType;
use crate::{Pass, Tensor, ops, reference};

/// One norm.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Norm {
    pub(crate) m: usize,
    pub(crate) n: usize,
    /// Mean of x; its deviation is 0.58.
    pub(crate) mean: f32,
    pub(crate) eps: f32,
    pub(crate) first_row: usize,
    /// Every element of a row is the mean.
    pub(crate) constant: bool,
}

impl Norm {
    fn draw(&self, inputs: &mut Inputs) -> Vec<f32> {
        let spread = if self.constant { 0.0 } else { 1.0 };
        inputs.uniform(self.m * self.n).into_iter().map(|v| self.mean + spread * v).collect()
    }

    /// x from its first row on; the rows before and after those of the case are NaN.
    fn among_others(&self, bench: &Bench<'_>, x: &[f32]) -> Result<Tensor, Stop> {
        let &Norm { m, n, first_row, .. } = self;
        let mut all = vec![f32::NAN; first_row * n];
        all.extend(x);
        all.resize((first_row + m + 1) * n, f32::NAN);
        bench.input(&all, &[first_row + m + 1, n])
    }
}

pub(crate) fn layer_norm(bench: &mut Bench<'_>, case: &Norm, mut inputs: Inputs) -> Result<f64, Stop> {
    let &Norm { m, n, eps, first_row, .. } = case;
    let x = case.draw(&mut inputs);
    let (weight, bias) = (inputs.uniform(n), inputs.uniform(n));
    let x_tensor = case.among_others(&bench.either(&mut inputs), &x)?;
    let (w_tensor, b_tensor) = (bench.input(&weight, &[n])?, bench.input(&bias, &[n])?);
    let mut out = bench.output(&[m, n], DType::F32)?;
    bench.run(|pass| ops::layer_norm(pass, (&x_tensor, first_row), &w_tensor, &b_tensor, eps, &mut out.tensor))?;
    let truth = reference::layer_norm(&x, &weight, &bias, eps);
    compare_normed(&bench.read_f32(&out)?, &truth, &x, (&weight, &bias, eps))
}

/// Compares with the layer norm of x.
fn compare_normed(
    got: &[f32],
    truth: &[f64],
    x: &[f32],
    (weight, bias, eps): (&[f32], &[f32], f32),
) -> Result<f64, Stop> {
    let bounds = layer_norm_bounds(x, (weight, bias, eps), truth);
    compare(got, truth, weight.len(), |i| bounds[i])
}

/// The bound of every element of the layer norm of x, which is `truth`.
pub(crate) fn layer_norm_bounds(x: &[f32], (weight, bias, eps): (&[f32], &[f32], f32), truth: &[f64]) -> Vec<f64> {
    let n = weight.len();
    let rows: Vec<(f64, Normed)> = x.chunks(n.max(1)).map(|row| normed(row, eps)).collect();
    let bound = |i: usize| {
        let (row, column) = (&rows[i / n], i % n);
        row.1.bound(f64::from(x[i]) - row.0, weight[column].into(), bias[column].into(), truth[i])
    };
    (0..x.len()).map(bound).collect()
}

/// Multiples of 2^-10, of which the sums are exact: x must be equal, and so its norm is that of one x only.
fn summands(case: &Norm, inputs: &mut Inputs) -> (Vec<f32>, Vec<f32>) {
    let coarse = |values: Vec<f32>| values.into_iter().map(|v| (v * 1024.0).round() / 1024.0).collect();
    let (x, count) = (case.draw(inputs), case.m * case.n);
    (coarse(x), coarse(if case.constant { vec![0.5; count] } else { inputs.uniform(count) }))
}

pub(crate) fn add_layer_norm(bench: &mut Bench<'_>, case: &Norm, mut inputs: Inputs) -> Result<f64, Stop> {
    let &Norm { m, n, eps, .. } = case;
    let (mut x, y) = summands(case, &mut inputs);
    let (weight, bias) = (inputs.uniform(n), inputs.uniform(n));
    let mut x_tensor = bench.either(&mut inputs).in_out(bytemuck::cast_slice(&x), &[m, n], DType::F32)?;
    let y_tensor = bench.either(&mut inputs).input(&y, &[m, n])?;
    let (w_tensor, b_tensor) = (bench.input(&weight, &[n])?, bench.input(&bias, &[n])?);
    let mut out = bench.output(&[m, n], DType::F32)?;
    bench.run(|pass| {
        let (x, out) = (&mut x_tensor.tensor, &mut out.tensor);
        ops::add_layer_norm(pass, x, &y_tensor, &w_tensor, &b_tensor, eps, out)
    })?;
    let truth = reference::add_layer_norm(&mut x, &y, &weight, &bias, eps);
    let sums: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
    compare(&bench.read_f32(&x_tensor)?, &sums, n, |_| 0.0)?;
    compare_normed(&bench.read_f32(&out)?, &truth, &x, (&weight, &bias, eps))
}

pub(crate) fn rms_norm(bench: &mut Bench<'_>, case: &Norm, mut inputs: Inputs) -> Result<f64, Stop> {
    let &Norm { m, n, eps, first_row, .. } = case;
    let (x, weight) = (case.draw(&mut inputs), inputs.uniform(n));
    let (x_tensor, w_tensor) = (case.among_others(&bench.either(&mut inputs), &x)?, bench.input(&weight, &[n])?);
    let mut out = bench.output(&[m, n], DType::F32)?;
    bench.run(|pass| ops::rms_norm(pass, (&x_tensor, first_row), &w_tensor, eps, &mut out.tensor))?;
    let truth = reference::rms_norm(&x, &weight, eps);
    compare_rms_normed(&bench.read_f32(&out)?, &truth, &x, (&weight, eps))
}

/// Compares with the RMS norm of x.
fn compare_rms_normed(got: &[f32], truth: &[f64], x: &[f32], (weight, eps): (&[f32], f32)) -> Result<f64, Stop> {
    let bounds = rms_norm_bounds(x, (weight, eps), truth);
    compare(got, truth, weight.len(), |i| bounds[i])
}

/// The bound of every element of the RMS norm of x, which is `truth`.
pub(crate) fn rms_norm_bounds(x: &[f32], (weight, eps): (&[f32], f32), truth: &[f64]) -> Vec<f64> {
    let n = weight.len();
    let scale = |row: &[f32]| {
        let squares: f64 = row.iter().map(|&v| f64::from(v).powi(2)).sum();
        1.0 / (squares / n as f64 + f64::from(eps)).sqrt()
    };
    let scales: Vec<f64> = x.chunks(n.max(1)).map(scale).collect();
    (0..x.len()).map(|i| bounds::rms_norm(n, scales[i / n], f64::from(weight[i % n]), truth[i])).collect()
}

pub(crate) fn add_rms_norm(bench: &mut Bench<'_>, case: &Norm, mut inputs: Inputs) -> Result<f64, Stop> {
    let &Norm { m, n, eps, .. } = case;
    let (mut x, y) = summands(case, &mut inputs);
    let weight = inputs.uniform(n);
    let mut x_tensor = bench.either(&mut inputs).in_out(bytemuck::cast_slice(&x), &[m, n], DType::F32)?;
    let y_tensor = bench.either(&mut inputs).input(&y, &[m, n])?;
    let w_tensor = bench.input(&weight, &[n])?;
    let mut out = bench.output(&[m, n], DType::F32)?;
    bench.run(|pass| ops::add_rms_norm(pass, &mut x_tensor.tensor, &y_tensor, &w_tensor, eps, &mut out.tensor))?;
    let truth = reference::add_rms_norm(&mut x, &y, &weight, eps);
    let sums: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
    compare(&bench.read_f32(&x_tensor)?, &sums, n, |_| 0.0)?;
    compare_rms_normed(&bench.read_f32(&out)?, &truth, &x, (&weight, eps))
}

/// A row's mean, and what its bound depends on.
fn normed(row: &[f32], eps: f32) -> (f64, Normed) {
    let mean_of = |f: &dyn Fn(f64) -> f64| row.iter().map(|&v| f(f64::from(v))).sum::<f64>() / row.len() as f64;
    let mean = mean_of(&|v| v);
    let variance = mean_of(&|v| (v - mean).powi(2));
    let scale = 1.0 / (variance + f64::from(eps)).sqrt();
    (mean, Normed { n: row.len(), magnitude: mean_of(&f64::abs), scale })
}

/// What a row of logits is like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Logits {
    /// U\[-1, 1\] times a factor.
    Scaled(f32),
    /// All equal.
    Equal(f32),
    /// One is larger than the rest by this much.
    Dominant(f32),
    /// Multiples of 2^-6, and the same again 1000 higher: the results must be equal, bit by bit.
    Shifted,
}

pub(crate) fn softmax(
    bench: &mut Bench<'_>,
    (m, n): (usize, usize),
    logits: Logits,
    mut inputs: Inputs,
) -> Result<f64, Stop> {
    let (x, got) = run_softmax(bench, (m, n), logits, &mut inputs, ops::softmax)?;
    for (row, probabilities) in got.chunks(n.max(1)).enumerate() {
        let sum: f64 = probabilities.iter().map(|&p| f64::from(p)).sum();
        if (sum - 1.0).abs() > bounds::softmax_sum(n) {
            return Err(Stop::Failed(format!("row {row} adds up to {sum}")));
        }
    }
    let truth = reference::softmax(&x, n);
    let bounds = softmax_bounds(&x, n, &truth);
    compare(&got, &truth, n, |i| bounds[i])
}

/// The bound of every element of the softmax of x, which is `truth`.
pub(crate) fn softmax_bounds(x: &[f32], n: usize, truth: &[f64]) -> Vec<f64> {
    below_largest(x, n).into_iter().zip(truth).map(|(z, &p)| bounds::softmax(z, n, p)).collect()
}

pub(crate) fn log_softmax(
    bench: &mut Bench<'_>,
    (m, n): (usize, usize),
    logits: Logits,
    mut inputs: Inputs,
) -> Result<f64, Stop> {
    let (x, got) = run_softmax(bench, (m, n), logits, &mut inputs, ops::log_softmax)?;
    let truth = reference::log_softmax(&x, n);
    let bounds = log_softmax_bounds(&x, n, &truth);
    compare(&got, &truth, n, |i| bounds[i])
}

/// The bound of every element of the logarithm of the softmax of x, which is `truth`.
pub(crate) fn log_softmax_bounds(x: &[f32], n: usize, truth: &[f64]) -> Vec<f64> {
    below_largest(x, n).into_iter().zip(truth).map(|(z, &y)| bounds::log_softmax(z, n, y)).collect()
}

/// Every element minus the largest of its row.
fn below_largest(x: &[f32], n: usize) -> Vec<f64> {
    let of_row = |row: &[f32]| {
        let highest = row.iter().copied().fold(f32::MIN, f32::max);
        row.iter().map(|&v| f64::from(v) - f64::from(highest)).collect::<Vec<f64>>()
    };
    x.chunks(n.max(1)).flat_map(of_row).collect()
}

/// Draws logits and runs `op` on them; the result for shifted ones must be the same.
fn run_softmax(
    bench: &mut Bench<'_>,
    (m, n): (usize, usize),
    logits: Logits,
    inputs: &mut Inputs,
    op: fn(&mut Pass, &mut Tensor) -> crate::Result<()>,
) -> Result<(Vec<f32>, Vec<f32>), Stop> {
    let mut x = inputs.uniform(m * n);
    match logits {
        Logits::Scaled(factor) => x.iter_mut().for_each(|v| *v *= factor),
        Logits::Equal(value) => x.fill(value),
        Logits::Dominant(lead) => x.chunks_mut(n).for_each(|row| row[inputs.below(n)] += lead),
        Logits::Shifted => x.iter_mut().for_each(|v| *v = (*v * 640.0).round() / 64.0),
    }
    let mut run = |x: &[f32]| {
        let mut tensor = bench.in_out(bytemuck::cast_slice(x), &[m, n], DType::F32)?;
        bench.run(|pass| op(pass, &mut tensor.tensor))?;
        bench.read_f32(&tensor)
    };
    let got = run(&x)?;
    if logits == Logits::Shifted {
        let shifted: Vec<f32> = x.iter().map(|v| v + 1000.0).collect();
        compare_words("shifted", bytemuck::cast_slice(&run(&shifted)?), bytemuck::cast_slice(&got), n)?;
    }
    Ok((x, got))
}
