//! Products of matrices that lie within tensors, and what is done to products before they leave, on the host.

use std::borrow::Cow;

use rayon::prelude::*;

use super::{MIN_LEN, floats, floats_mut, lock};
use crate::error::{Error, Result};
use crate::ops::Matrices;
use crate::reference::{Activation, Gelu};
use crate::tensor::{DType, Tensor};

pub(crate) fn contiguous(x: &Matrices<'_>, out: &Tensor) -> Result<()> {
    let columns = x.shape()[3];
    let mut locked = lock("repitch", [("x", x.tensor())], ("out", out))?;
    let ([x_words], out) = locked.parts();
    for (to, from) in out.chunks_mut(columns.max(1)).zip(x.gather(x_words)) {
        to.copy_from_slice(from);
    }
    Ok(())
}

pub(crate) fn matmul_transpose_b(a: &Matrices<'_>, b: &Matrices<'_>, scale: f32, out: &Tensor) -> Result<()> {
    let op = "matmul_transpose_b";
    if b.dtype() != DType::F32 {
        return Err(Error::Shape { op, message: format!("b is {:?}; on the CPU backend f32 is needed", b.dtype()) });
    }
    let ([outer, inner, m, depth], [b_outer, b_inner, n, _]) = (a.shape(), b.shape());
    let mut locked = lock(op, [("x", a.tensor()), ("w", b.tensor())], ("out", out))?;
    let ([a_words, b_words], out) = locked.parts();
    let (a_floats, b_floats) = (floats(a_words), floats(b_words));
    let (r, s) = (outer / b_outer.max(1), inner / b_inner.max(1));
    let products = floats_mut(out).par_chunks_mut((m * n).max(1)).enumerate();
    products.for_each(|(batch, product)| {
        let (i, j) = (batch / inner, batch % inner);
        let a = dense(a, a_floats, (i, j));
        let b = dense(b, b_floats, (i / r, j / s));
        gemm_nt(&a, &b, (m, depth, n), scale, product);
    });
    Ok(())
}

/// One matrix of a view: where it lies, or a copy if its rows are apart.
fn dense<'w>(x: &Matrices<'_>, words: &'w [f32], (i, j): (usize, usize)) -> Cow<'w, [f32]> {
    let ([outer_stride, inner_stride, stride], [_, _, rows, columns]) = (x.strides(), x.shape());
    let start = x.offset() + i * outer_stride + j * inner_stride;
    if stride == columns {
        return Cow::Borrowed(words.get(start..start + rows * columns).unwrap_or_default());
    }
    let row = |row: usize| words.get(start + row * stride..start + row * stride + columns).unwrap_or_default();
    Cow::Owned((0..rows).flat_map(row).copied().collect())
}

/// out\[m,n\] = scale * a\[m,k\] b\[n,k\]^T, all dense.
fn gemm_nt(a: &[f32], b: &[f32], (m, k, n): (usize, usize, usize), scale: f32, out: &mut [f32]) {
    if k == 0 {
        return out.fill(0.0);
    }
    debug_assert!(a.len() == m * k && b.len() == n * k);
    out.par_chunks_mut(n.max(1)).zip(a.par_chunks(k)).for_each(|(out, a)| {
        for (out, b) in out.iter_mut().zip(b.chunks(k)) {
            *out = scale * dot(a, b);
        }
    });
}

/// The inner product, in eight sums that do not wait for each other.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_blocks, a_rest) = a.as_chunks::<8>();
    let (b_blocks, b_rest) = b.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// Adds the bias to every row of a product, then applies the activation.
pub(crate) fn epilogue(
    op: &'static str,
    bias: Option<&Tensor>,
    activation: Option<Activation>,
    out: &Tensor,
) -> Result<()> {
    let columns = out.columns().max(1);
    if let Some(bias) = bias {
        let mut locked = lock(op, [("bias", bias)], ("out", out))?;
        let ([bias], out) = locked.parts();
        let bias = floats(bias);
        let rows = floats_mut(out).par_chunks_mut(columns).with_min_len(MIN_LEN / columns);
        rows.for_each(|row| row.iter_mut().zip(bias).for_each(|(sum, bias)| *sum += bias));
    }
    if let Some(activation) = activation {
        let mut locked = lock(op, [], ("out", out))?;
        let ([], out) = locked.parts();
        floats_mut(out).par_iter_mut().with_min_len(MIN_LEN).for_each(|v| *v = activate(*v, activation));
    }
    Ok(())
}

/// Quotients rather than tanh, which would cancel in the tail.
fn activate(x: f32, activation: Activation) -> f32 {
    match activation {
        Activation::Relu => x.max(0.0),
        Activation::Gelu(Gelu::Tanh) => {
            // Beyond 13 the result is x or 0; the clamp keeps the cube finite.
            let c = x.clamp(-13.0, 13.0);
            x / (1.0 + (-1.595_769 * (c + 0.044_715 * c * c * c)).exp())
        }
        Activation::Gelu(Gelu::Exact) => 0.5 * x * libm::erfcf(-x * std::f32::consts::FRAC_1_SQRT_2),
        Activation::Silu => x / (1.0 + (-x).exp()),
    }
}
