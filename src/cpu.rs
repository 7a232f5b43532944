//! The CPU backend: ops on tensors in host memory, at once.
//!
//! A host tensor is words of 4 bytes, its elements dense: halves lie two to a word, and stay halves. Threads are rayon's,
//! vectors those that `pulp` finds the processor to have, products of many rows those of the `gemm` crate. An op that is
//! computed by its twin in [`crate::reference`] counts as unverified ([`SHARES_TWIN`]).

mod attention;
mod batched;
mod cast;
mod elementwise;
mod gemm;
mod layout;
mod norms;
mod products;
mod quants;
mod reduce;
mod rows;
mod sample;
mod vectors;

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use half::slice::HalfFloatSliceExt;

use crate::error::{Error, Result};
use crate::kernel::Format;
use crate::tensor::{Storage, Tensor};
pub(crate) use attention::attention;
pub(crate) use batched::{contiguous, epilogue, matmul_transpose_b};
pub(crate) use cast::cast;
pub(crate) use elementwise::{add, gelu, mul, probe, relu, scale, sigmoid, silu, swiglu, tanh};
pub(crate) use layout::transpose;
pub(crate) use norms::{add_layer_norm, add_rms_norm, layer_norm, log_softmax, rms_norm, softmax};
pub(crate) use products::{linear, matmul, product_of_slices};
pub(crate) use reduce::{dot, reduce};
pub(crate) use rows::{argmax, embed, gather, norm_rope, rope};
pub(crate) use sample::{pick, sample, uniform};

/// Ops that are computed by their own twin, so that comparing the two says nothing. `tests/house.rs` keeps the list true.
pub(crate) const SHARES_TWIN: &[&str] = &[];

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

/// Refuses a tensor that is written and is another one too, for ops that lock more than once: the last `outs` are written.
pub(crate) fn check_apart(op: &'static str, tensors: &[(&'static str, &Tensor)], outs: usize) -> Result<()> {
    for (i, (second, out)) in tensors.iter().enumerate().skip(tensors.len() - outs) {
        for (first, other) in tensors.iter().take(i) {
            if Arc::ptr_eq(words(other, op)?, words(out, op)?) {
                return Err(Error::Alias { op, first, second });
            }
        }
    }
    Ok(())
}

/// Words as floats.
fn floats(words: &[u32]) -> &[f32] {
    bytemuck::cast_slice(words)
}

/// Words as floats, to be written.
fn floats_mut(words: &mut [u32]) -> &mut [f32] {
    bytemuck::cast_slice_mut(words)
}

/// Row `row` of a weight of `columns` columns as it lies on the host, as f32; zeros where there is no such row.
fn weight_row(words: &[u32], format: Format, columns: usize, row: usize, out: &mut [f32]) {
    let pitch = if format.is_quantized() { quants::row_bytes(format, columns) } else { columns };
    let held = row.checked_mul(pitch).and_then(|start| {
        let range = start..start.checked_add(pitch)?;
        match format {
            Format::F16 => bytemuck::cast_slice::<u32, half::f16>(words).get(range)?.convert_to_f32_slice(out),
            Format::F32 => out.copy_from_slice(floats(words).get(range)?),
            Format::BF16 => {
                quants::widen(format, bytemuck::cast_slice(bytemuck::cast_slice::<u32, u16>(words).get(range)?), 0, out)
            }
            _ => quants::widen(format, bytemuck::cast_slice::<u32, u8>(words).get(range)?, 0, out),
        }
        Some(())
    });
    if held.is_none() {
        out.fill(0.0);
    }
}

/// Rows of `columns` in a quantised format, as a file has them, as f32.
#[cfg_attr(not(feature = "models"), allow(dead_code, reason = "models alone need it"))]
pub(crate) fn dequantize(format: Format, stored: &[u8], columns: usize) -> Vec<f32> {
    let row_bytes = format.stored_bytes(columns).filter(|&bytes| bytes > 0).unwrap_or(usize::MAX);
    let mut values = vec![0.0; stored.len() / row_bytes * columns];
    let mut words = vec![0u32; quants::row_bytes(format, columns).div_ceil(4)];
    for (row, out) in stored.chunks_exact(row_bytes).zip(values.chunks_exact_mut(columns.max(1))) {
        words.fill(0);
        crate::quants::lay_out(format, row, bytemuck::cast_slice_mut(&mut words));
        weight_row(&words, format, columns, 0, out);
    }
    values
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

/// The words of a tensor.
pub(crate) fn copied(words: &Words, tensor: &Tensor) -> Vec<u32> {
    let guard = words.read().unwrap_or_else(PoisonError::into_inner);
    guard.get(..tensor.words()).unwrap_or_default().to_vec()
}

#[cfg(test)]
mod tests {
    use super::weight_row;
    use crate::kernel::Format;

    #[test]
    fn rows_of_either_type_come_as_floats() {
        // Three columns: rows of halves begin within a word.
        let values: Vec<f32> = (0..9u8).map(|i| f32::from(i) / 4.0 - 1.0).collect();
        let halves: Vec<half::f16> = values.iter().map(|&v| half::f16::from_f32(v)).chain([half::f16::ONE]).collect();
        let (floats, halves) = (bytemuck::cast_slice(&values), bytemuck::pod_collect_to_vec::<half::f16, u32>(&halves));
        for (words, format) in [(floats, Format::F32), (&halves[..], Format::F16)] {
            for row in 0..3 {
                let mut out = [f32::NAN; 3];
                weight_row(words, format, 3, row, &mut out);
                assert_eq!(out, values[3 * row..][..3], "row {row} of {format:?}");
            }
            for row in [3, 4, usize::MAX / 3, usize::MAX] {
                let mut out = [f32::NAN; 3];
                weight_row(words, format, 3, row, &mut out);
                assert_eq!(out, [0.0; 3], "row {row} of {format:?}");
            }
        }
    }
}
