//! Products on the host.

use super::{Elements, read, write_f64};
use crate::error::Result;
use crate::reference;
use crate::tensor::{Tensor, Weight};

pub(crate) fn matmul(x: &Tensor, w: &Tensor, out: &Tensor) -> Result<()> {
    let shape = (x.rows(), x.columns(), w.columns());
    let product = reference::matmul(read(x, "matmul")?.as_slice(), read(w, "matmul")?.as_slice(), shape);
    write_f64(out, "matmul", product)
}

pub(crate) fn matmul_transpose_b(x: &Tensor, w: &Tensor, scale: f32, out: &Tensor) -> Result<()> {
    let op = "matmul_transpose_b";
    let (m, k) = (out.rows(), x.columns());
    let n = out.columns();
    let batches = if out.shape().len() == 3 { out.shape()[0] } else { 1 };
    let shape = (m / batches.max(1), k, n);
    let (x, w) = (read(x, op)?, read(w, op)?);
    let (a, b) = (x.as_slice::<f32>(), w.as_slice::<f32>());
    let shared = b.len() == n * k;
    let mut products = Vec::with_capacity(m * n);
    for batch in 0..batches {
        let a = &a[batch * shape.0 * k..];
        let b = if shared { b } else { &b[batch * n * k..] };
        products.extend(reference::matmul_transpose_b(a, b, None, scale, shape));
    }
    drop((x, w));
    write_f64(out, op, products)
}

pub(crate) fn linear(x: &Tensor, w: &Weight, bias: Option<&Tensor>, out: &Tensor) -> Result<()> {
    let op = "linear";
    let Some(chunk) = w.chunks.first() else { return Ok(()) };
    let shape = (x.rows(), x.columns(), w.rows());
    let product = {
        let (x, w, bias) = (read(x, op)?, read(&chunk.tensor, op)?, bias.map(|bias| read(bias, op)).transpose()?);
        reference::matvec(x.as_slice(), w.as_slice(), bias.as_ref().map(Elements::as_slice), shape)
    };
    write_f64(out, op, product)
}
