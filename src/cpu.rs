//! The CPU backend: ops on tensors in host memory, at once.
//!
//! What still runs on the twins of [`crate::reference`] is right, and slow.
//! backend says so.

mod attention;
mod elementwise;
mod norms;
mod products;
mod rows;
mod sample;

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::error::{Error, Result};
use crate::tensor::{Storage, Tensor};
pub(crate) use attention::attention;
pub(crate) use elementwise::{add, gelu, relu};
pub(crate) use norms::{layer_norm, softmax};
pub(crate) use products::{linear, matmul, matmul_transpose_b};
pub(crate) use rows::{advance, argmax, embed};
pub(crate) use sample::{pick, sample, uniform};

/// Elements below which another thread is not worth its start.
const MIN_LEN: usize = 16 << 10;

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
        (at.unwrap_or(usize::MAX), input.rows() * input.columns())
    });
    let write = write.ok_or(Error::ForeignBuffer { op })?;
    Ok(Locked { reads, inputs, write, count: out.rows() * out.columns() })
}

/// Words as floats.
fn floats(words: &[u32]) -> &[f32] {
    bytemuck::cast_slice(words)
}

/// Words as floats, to be written.
fn floats_mut(words: &mut [u32]) -> &mut [f32] {
    bytemuck::cast_slice_mut(words)
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
