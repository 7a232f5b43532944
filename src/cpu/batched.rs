//! Products of matrices that lie within tensors, and what is done to products before they leave, on the host.

use std::borrow::Cow;

use rayon::prelude::*;

use super::products::{Stored, transpose_b};
use super::{MIN_LEN, MIN_WORK, floats, floats_mut, gelu, lock, relu, silu};
use crate::error::Result;
use crate::ops::Matrices;
use crate::reference::Activation;
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
    let ([outer, inner, m, depth], [b_outer, b_inner, n, _]) = (a.shape(), b.shape());
    let mut locked = lock("matmul_transpose_b", [("x", a.tensor()), ("w", b.tensor())], ("out", out))?;
    let ([a_words, b_words], out) = locked.parts();
    let (r, s) = (outer / b_outer.max(1), inner / b_inner.max(1));
    let work = (m * n).saturating_mul(depth).max(1);
    let products = floats_mut(out).par_chunks_mut((m * n).max(1)).enumerate().with_min_len((MIN_WORK / work).max(1));
    products.try_for_each(|(batch, product)| {
        let (i, j) = (batch / inner, batch % inner);
        let (a, at) = (dense(a, floats(a_words), (i, j)), (i / r, j / s));
        let mut multiply = |b| transpose_b(scale, &a, b, None, (m, depth, n), product);
        match b.dtype() {
            DType::F16 => multiply(Stored::F16(&dense(b, bytemuck::cast_slice(b_words), at))),
            _ => multiply(Stored::F32(&dense(b, floats(b_words), at))),
        }
    })
}

/// One matrix of a view: where it lies, or a copy if its rows are apart.
fn dense<'w, T: Copy>(x: &Matrices<'_>, elements: &'w [T], (i, j): (usize, usize)) -> Cow<'w, [T]> {
    let ([outer_stride, inner_stride, stride], [_, _, rows, columns]) = (x.strides(), x.shape());
    let start = x.offset() + i * outer_stride + j * inner_stride;
    if stride == columns {
        return Cow::Borrowed(elements.get(start..start + rows * columns).unwrap_or_default());
    }
    let row = |row: usize| elements.get(start + row * stride..start + row * stride + columns).unwrap_or_default();
    Cow::Owned((0..rows).flat_map(row).copied().collect())
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
        let rows = floats_mut(out).par_chunks_mut(columns).with_min_len((MIN_LEN / columns).max(1));
        rows.for_each(|row| row.iter_mut().zip(bias).for_each(|(sum, bias)| *sum += bias));
    }
    match activation {
        None => Ok(()),
        Some(Activation::Relu) => relu(out),
        Some(Activation::Gelu(form)) => gelu(out, form),
        Some(Activation::Silu) => silu(out),
    }
}
