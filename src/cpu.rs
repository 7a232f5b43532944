//! The CPU backend: ops on tensors in host memory, at once.
//!
//! For now it runs on the twins of [`crate::reference`], rounded to f32: right, and slow. Every place that names the
//! backend says so.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use crate::error::{Error, Result};
use crate::reference::{self, Attention, Gelu, Row};
use crate::tensor::{Storage, Tensor, Weight};

type Words = Arc<RwLock<Vec<u32>>>;

fn words<'a>(tensor: &'a Tensor, op: &'static str) -> Result<&'a Words> {
    match &tensor.storage {
        Storage::Host(words) => Ok(words),
        Storage::Device(_) => Err(Error::ForeignBuffer { op }),
    }
}

/// A host tensor's elements, for reading.
struct Elements<'a> {
    guard: RwLockReadGuard<'a, Vec<u32>>,
    count: usize,
}

impl Elements<'_> {
    fn as_slice<T: bytemuck::Pod>(&self) -> &[T] {
        bytemuck::cast_slice(self.guard.get(..self.count).unwrap_or_default())
    }
}

fn read<'a>(tensor: &'a Tensor, op: &'static str) -> Result<Elements<'a>> {
    let guard = words(tensor, op)?.read().unwrap_or_else(PoisonError::into_inner);
    Ok(Elements { guard, count: tensor.rows() * tensor.columns() })
}

/// Replaces a host tensor's elements. Called when no guard is held, so that in-place ops do not lock themselves out.
fn write(tensor: &Tensor, op: &'static str, values: impl IntoIterator<Item = u32>) -> Result<()> {
    let mut target = words(tensor, op)?.write().unwrap_or_else(PoisonError::into_inner);
    for (to, value) in target.iter_mut().zip(values) {
        *to = value;
    }
    Ok(())
}

fn write_f64(tensor: &Tensor, op: &'static str, values: Vec<f64>) -> Result<()> {
    write(tensor, op, values.into_iter().map(|v| (v as f32).to_bits()))
}

pub(crate) fn copy(source: &Words, target: &Words) -> Result<()> {
    if Arc::ptr_eq(source, target) {
        return Err(Error::Alias { op: "copy", first: "source", second: "target" });
    }
    let source = source.read().unwrap_or_else(PoisonError::into_inner);
    let mut target = target.write().unwrap_or_else(PoisonError::into_inner);
    for (to, value) in target.iter_mut().zip(source.iter()) {
        *to = *value;
    }
    Ok(())
}

pub(crate) fn bytes(words: &Words, tensor: &Tensor) -> Vec<u8> {
    let guard = words.read().unwrap_or_else(PoisonError::into_inner);
    bytemuck::cast_slice(guard.get(..tensor.rows() * tensor.columns()).unwrap_or_default()).to_vec()
}

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

pub(crate) fn attention(
    rows: &Tensor,
    qkv: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    shape: &Attention,
    out: &Tensor,
) -> Result<()> {
    let op = "attention";
    let mut k: Vec<f32> = read(keys, op)?.as_slice().to_vec();
    let mut v: Vec<f32> = read(values, op)?.as_slice().to_vec();
    let result = {
        let (rows, qkv) = (read(rows, op)?, read(qkv, op)?);
        reference::attention(rows.as_slice::<Row>(), qkv.as_slice(), &mut k, &mut v, shape)
    };
    write(keys, op, k.into_iter().map(f32::to_bits))?;
    write(values, op, v.into_iter().map(f32::to_bits))?;
    write_f64(out, op, result)
}

pub(crate) fn layer_norm(
    x: &Tensor,
    first_row: usize,
    weight: &Tensor,
    bias: &Tensor,
    eps: f32,
    out: &Tensor,
) -> Result<()> {
    let op = "layer_norm";
    let n = out.columns();
    let result = {
        let (x, weight, bias) = (read(x, op)?, read(weight, op)?, read(bias, op)?);
        let x = &x.as_slice::<f32>()[first_row * n..][..out.rows() * n];
        reference::layer_norm(x, weight.as_slice(), bias.as_slice(), eps)
    };
    write_f64(out, op, result)
}

pub(crate) fn softmax(x: &Tensor) -> Result<()> {
    let result = reference::softmax(read(x, "softmax")?.as_slice(), x.columns());
    write_f64(x, "softmax", result)
}

pub(crate) fn gelu(x: &Tensor, form: Gelu) -> Result<()> {
    let result = reference::gelu(read(x, "gelu")?.as_slice(), form);
    write_f64(x, "gelu", result)
}

pub(crate) fn relu(x: &Tensor) -> Result<()> {
    let result = reference::relu(read(x, "relu")?.as_slice());
    write_f64(x, "relu", result)
}

pub(crate) fn add(x: &Tensor, y: &Tensor) -> Result<()> {
    let result = reference::add(read(x, "add")?.as_slice(), read(y, "add")?.as_slice());
    write_f64(x, "add", result)
}

pub(crate) fn embed(rows: &Tensor, w: &Weight, positions: &Tensor, out: &Tensor) -> Result<()> {
    let op = "embed";
    let Some(chunk) = w.chunks.first() else { return Ok(()) };
    let result = {
        let (rows, w, positions) = (read(rows, op)?, read(&chunk.tensor, op)?, read(positions, op)?);
        reference::embed(rows.as_slice(), w.as_slice(), positions.as_slice(), out.columns())
    };
    write_f64(out, op, result)
}

pub(crate) fn argmax(x: &Tensor, out: &Tensor) -> Result<()> {
    let result = reference::argmax(read(x, "argmax")?.as_slice(), x.columns());
    write(out, "argmax", result.into_iter().flatten())
}

pub(crate) fn advance(picked: &Tensor, rows: &Tensor) -> Result<()> {
    let op = "advance";
    let mut next: Vec<Row> = read(rows, op)?.as_slice().to_vec();
    reference::advance(read(picked, op)?.as_slice(), &mut next);
    write(rows, op, bytemuck::cast_slice(&next).iter().copied())
}
