//! The CPU backend: ops on tensors in host memory, at once.
//!
//! A host tensor is words of 4 bytes, its elements dense: halves lie two to a word, and stay halves. Threads are rayon's,
//! vectors those that `pulp` finds the processor to have, products of many rows those of the `gemm` crate.

mod attention;
mod cast;
mod elementwise;
mod gemm;
mod norms;
mod products;
mod rows;
mod vectors;

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::error::{Error, Result};
use crate::tensor::{DType, Storage, Tensor};
pub(crate) use attention::attention;
pub(crate) use cast::cast;
pub(crate) use elementwise::{add, gelu, relu};
use half::slice::HalfFloatSliceExt;
pub(crate) use norms::{layer_norm, softmax};
pub(crate) use products::{linear, matmul, matmul_transpose_b};
pub(crate) use rows::{advance, argmax, embed};

/// Elements below which another thread is not worth its start.
const MIN_LEN: usize = 16 << 10;
/// The same in multiplications of a product.
const MIN_WORK: usize = 128 << 10;

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
    Ok(Elements { guard, count: tensor.words() })
}

/// The tensors of one op, locked together.
struct Locked<'a, const N: usize> {
    reads: Vec<RwLockReadGuard<'a, Vec<u32>>>,
    /// Of each input, its guard in `reads` and its length in words.
    inputs: [(usize, usize); N],
    write: RwLockWriteGuard<'a, Vec<u32>>,
    count: usize,
}

impl<const N: usize> Locked<'_, N> {
    /// The words of the inputs and of the output.
    fn parts(&mut self) -> ([&[u32]; N], &mut [u32]) {
        let reads = &self.reads;
        let input = |(guard, count): (usize, usize)| reads.get(guard).and_then(|g| g.get(..count)).unwrap_or_default();
        (self.inputs.map(input), self.write.get_mut(..self.count).unwrap_or_default())
    }
}

/// Locks the inputs of an op for reading and its output for writing; an op in place has its tensor as output only. Locks
/// are taken in the order of their addresses, each once, so that ops on other threads cannot wait for each other for ever.
///
/// # Errors
/// [`Error::Alias`] if an input is the output, as on a device; [`Error::ForeignBuffer`] for a tensor of a device.
fn lock<'a, const N: usize>(
    op: &'static str,
    inputs: [(&'static str, &'a Tensor); N],
    (out_name, out): (&'static str, &'a Tensor),
) -> Result<Locked<'a, N>> {
    let target = words(out, op)?;
    let mut order: Vec<&'a Words> = vec![target];
    for (first, input) in inputs {
        let input = words(input, op)?;
        if Arc::ptr_eq(input, target) {
            return Err(Error::Alias { op, first, second: out_name });
        }
        order.push(input);
    }
    order.sort_unstable_by_key(|words| Arc::as_ptr(words));
    order.dedup_by_key(|words| Arc::as_ptr(words));
    let (mut write, mut reads, mut read_of) = (None, Vec::with_capacity(N), Vec::with_capacity(N));
    for words in order {
        if Arc::ptr_eq(words, target) {
            write = Some(words.write().unwrap_or_else(PoisonError::into_inner));
        } else {
            reads.push(words.read().unwrap_or_else(PoisonError::into_inner));
            read_of.push(Arc::as_ptr(words));
        }
    }
    let inputs = inputs.map(|(_, input)| {
        let at = words(input, op).ok().and_then(|words| read_of.iter().position(|known| *known == Arc::as_ptr(words)));
        (at.unwrap_or(usize::MAX), input.words())
    });
    let write = write.ok_or(Error::ForeignBuffer { op })?;
    Ok(Locked { reads, inputs, write, count: out.words() })
}

/// Words as floats.
fn floats(words: &[u32]) -> &[f32] {
    bytemuck::cast_slice(words)
}

/// Words as floats, to be written.
fn floats_mut(words: &mut [u32]) -> &mut [f32] {
    bytemuck::cast_slice_mut(words)
}

/// A row of a matrix of f32 or f16 as f32; zeros if there is no such row.
fn weight_row(words: &[u32], dtype: DType, columns: usize, row: usize, out: &mut [f32]) {
    let range = || Some(row.checked_mul(columns)?..row.checked_add(1)?.checked_mul(columns)?);
    let held = match dtype {
        DType::F16 => {
            let halves = range().and_then(|range| bytemuck::cast_slice::<u32, half::f16>(words).get(range));
            halves.map(|halves| halves.convert_to_f32_slice(out))
        }
        _ => range().and_then(|range| floats(words).get(range)).map(|row| out.copy_from_slice(row)),
    };
    if held.is_none() {
        out.fill(0.0);
    }
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

/// Copies the elements of `source` to the beginning of `target`, which is at least as long.
pub(crate) fn copy(source: &Tensor, target: &Tensor) -> Result<()> {
    let count = source.rows() * source.columns() * source.dtype().bytes();
    let mut locked = lock("copy", [("source", source)], ("target", target))?;
    let ([source], target) = locked.parts();
    let (source, target): (&[u8], &mut [u8]) = (bytemuck::cast_slice(source), bytemuck::cast_slice_mut(target));
    if let (Some(source), Some(target)) = (source.get(..count), target.get_mut(..count)) {
        target.copy_from_slice(source);
    }
    Ok(())
}

pub(crate) fn bytes(words: &Words, tensor: &Tensor) -> Vec<u8> {
    let guard = words.read().unwrap_or_else(PoisonError::into_inner);
    bytemuck::cast_slice(guard.get(..tensor.words()).unwrap_or_default()).to_vec()
}
