//! Norms and softmax on the host: a row at a time, in lanes that the processor's vector units can take.

use rayon::prelude::*;

use super::elementwise::exp;
use super::{MIN_LEN, floats, floats_mut, lock};
use crate::error::Result;
use crate::tensor::Tensor;

/// Independent accumulators of a sum over a row. The bounds of the verifier count on as many.
const LANES: usize = 32;

pub(crate) fn layer_norm(
    x: &Tensor,
    first_row: usize,
    weight: &Tensor,
    bias: &Tensor,
    eps: f32,
    out: &Tensor,
) -> Result<()> {
    let mut locked = lock("layer_norm", [("x", x), ("weight", weight), ("bias", bias)], ("out", out))?;
    let ([x, weight, bias], out) = locked.parts();
    let n = weight.len();
    let x = floats(x).get(first_row * n..).unwrap_or_default();
    layer_norm_rows(x, floats(weight), floats(bias), eps, floats_mut(out));
    Ok(())
}

pub(crate) fn add_layer_norm(
    x: &Tensor,
    y: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f32,
    out: &Tensor,
) -> Result<()> {
    let op = "add_layer_norm";
    // Refuses what a device refuses before x is changed.
    drop(lock(op, [("x", x), ("y", y), ("weight", weight), ("bias", bias)], ("out", out))?);
    drop(lock(op, [("weight", weight), ("bias", bias)], ("x", x))?);
    add(op, x, y)?;
    let mut locked = lock(op, [("x", x), ("weight", weight), ("bias", bias)], ("out", out))?;
    let ([x, weight, bias], out) = locked.parts();
    layer_norm_rows(floats(x), floats(weight), floats(bias), eps, floats_mut(out));
    Ok(())
}

/// x += y.
fn add(op: &'static str, x: &Tensor, y: &Tensor) -> Result<()> {
    let mut locked = lock(op, [("y", y)], ("x", x))?;
    let ([y], x) = locked.parts();
    floats_mut(x).par_iter_mut().zip(floats(y)).with_min_len(MIN_LEN).for_each(|(x, y)| *x += y);
    Ok(())
}

fn layer_norm_rows(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    let n = weight.len();
    for_rows(x, n, out, |x, out| {
        let mean = sum(x, |v| v) / n as f32;
        let variance = sum(x, |v| (v - mean) * (v - mean)) / n as f32;
        let scale = 1.0 / (variance + eps).sqrt();
        for (((out, x), weight), bias) in out.iter_mut().zip(x).zip(weight).zip(bias) {
            *out = (x - mean) * scale * weight + bias;
        }
    });
}

pub(crate) fn rms_norm(x: &Tensor, first_row: usize, weight: &Tensor, eps: f32, out: &Tensor) -> Result<()> {
    let mut locked = lock("rms_norm", [("x", x), ("weight", weight)], ("out", out))?;
    let ([x, weight], out) = locked.parts();
    let x = floats(x).get(first_row * weight.len()..).unwrap_or_default();
    rms_norm_rows(x, floats(weight), eps, floats_mut(out));
    Ok(())
}

pub(crate) fn add_rms_norm(x: &Tensor, y: &Tensor, weight: &Tensor, eps: f32, out: &Tensor) -> Result<()> {
    let op = "add_rms_norm";
    // Refuses what a device refuses before x is changed.
    drop(lock(op, [("x", x), ("y", y), ("weight", weight)], ("out", out))?);
    drop(lock(op, [("weight", weight)], ("x", x))?);
    add(op, x, y)?;
    let mut locked = lock(op, [("x", x), ("weight", weight)], ("out", out))?;
    let ([x, weight], out) = locked.parts();
    rms_norm_rows(floats(x), floats(weight), eps, floats_mut(out));
    Ok(())
}

fn rms_norm_rows(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    for_rows(x, weight.len(), out, |x, out| {
        let scale = rms_scale(x, eps);
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * scale * weight;
        }
    });
}

/// One over the root of the mean of squares plus `eps`.
#[inline(always)]
pub(super) fn rms_scale(x: &[f32], eps: f32) -> f32 {
    1.0 / (sum(x, |v| v * v) / x.len() as f32 + eps).sqrt()
}

pub(crate) fn softmax(x: &Tensor) -> Result<()> {
    in_place("softmax", x, |row| {
        let highest = largest(row);
        let total = exps(row, |v| v - highest, |v, e| *v = e);
        let factor = 1.0 / total;
        row.iter_mut().for_each(|v| *v *= factor);
    })
}

pub(crate) fn log_softmax(x: &Tensor) -> Result<()> {
    in_place("log_softmax", x, |row| {
        let highest = largest(row);
        let log_sum = exps(row, |v| v - highest, |_, _| ()).ln();
        row.iter_mut().for_each(|v| *v = *v - highest - log_sum);
    })
}

/// Calls `f` with every row of x and of out, both of `n` columns, with the vector instructions that the processor has.
fn for_rows(x: &[f32], n: usize, out: &mut [f32], f: impl Fn(&[f32], &mut [f32]) + Sync) {
    if n > 0 {
        let arch = pulp::Arch::new();
        let rows = out.par_chunks_exact_mut(n).zip(x.par_chunks_exact(n)).with_min_len((MIN_LEN / n).max(1));
        rows.for_each(|(out, x)| arch.dispatch(|| f(x, out)));
    }
}

/// Calls `f` with every row of x.
fn in_place(op: &'static str, x: &Tensor, f: impl Fn(&mut [f32]) + Sync) -> Result<()> {
    let n = x.columns();
    let mut locked = lock(op, [], ("x", x))?;
    let ([], x) = locked.parts();
    if n > 0 {
        let arch = pulp::Arch::new();
        let rows = floats_mut(x).par_chunks_exact_mut(n).with_min_len((MIN_LEN / n).max(1));
        rows.for_each(|row| arch.dispatch(|| f(row)));
    }
    Ok(())
}

/// The sum of `of` over a row.
#[inline(always)]
fn sum(row: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    let (blocks, rest) = row.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for block in blocks {
        for (lane, &v) in lanes.iter_mut().zip(block) {
            *lane += of(v);
        }
    }
    for (lane, &v) in lanes.iter_mut().zip(rest) {
        *lane += of(v);
    }
    lanes.iter().sum()
}

/// The largest element of a row.
#[inline(always)]
fn largest(row: &[f32]) -> f32 {
    let (blocks, rest) = row.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for block in blocks {
        for (lane, &v) in lanes.iter_mut().zip(block) {
            *lane = if v > *lane { v } else { *lane };
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// The sum of exp(of(v)) over a row; `then` gets every v with its exponential.
#[inline(always)]
fn exps(row: &mut [f32], of: impl Fn(f32) -> f32, then: impl Fn(&mut f32, f32)) -> f32 {
    let (blocks, rest) = row.as_chunks_mut::<LANES>();
    let mut lanes = [0.0; LANES];
    for block in blocks {
        for (lane, v) in lanes.iter_mut().zip(block) {
            let e = exp(of(*v));
            then(v, e);
            *lane += e;
        }
    }
    for (lane, v) in lanes.iter_mut().zip(rest) {
        let e = exp(of(*v));
        then(v, e);
        *lane += e;
    }
    lanes.iter().sum()
}

#[cfg(test)]
mod tests {
    use crate::error::Error;
    use crate::gpu::{ComputeBackend, GpuCompute, Options};
    use crate::ops;

    /// As a device does, which records nothing.
    #[test]
    fn a_sum_and_norm_that_is_refused_leaves_x_alone() {
        let gpu = GpuCompute::open(&Options::new(ComputeBackend::Cpu)).unwrap();
        let (mut x, y) = (gpu.tensor(&[1.0, 2.0], &[1, 2]).unwrap(), gpu.tensor(&[3.0, 4.0], &[1, 2]).unwrap());
        let weight = gpu.tensor(&[5.0, 6.0], &[2]).unwrap();
        for mut out in [x.clone(), y.clone()] {
            let refused = ops::add_layer_norm(&mut gpu.pass(), &mut x, &y, &weight, &weight, 1e-5, &mut out);
            assert!(matches!(refused, Err(Error::Alias { op: "add_layer_norm", .. })), "{refused:?}");
            assert_eq!(gpu.read::<f32>(&x).unwrap(), [1.0, 2.0]);
        }
    }
}
