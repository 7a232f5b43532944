//! Weights: matrices that keep the format they are stored in. They are read in blocks of rows and laid out as kernels read
//! them on the way to the device, so that a model is never in memory twice; and they are cut into chunks of rows that each
//! fit a binding, because an embedding of today's vocabularies does not.

use std::ops::Range;

use rayon::prelude::*;

use super::{DType, Tensor, device_bytes, host_words, to_pitch};
use crate::error::{Error, Result};
use crate::gpu::GpuCompute;
use crate::kernel::Format;

/// A matrix `[rows, columns]` in a stored format, as row chunks that each fit one binding. One that is
/// [stacked](Weight::stacked) of others has their formats.
///
/// ```
/// use gristmill::{ComputeBackend, Format, GpuCompute, Weight, ops};
///
/// let gpu = GpuCompute::new(ComputeBackend::Gpu)?;
/// // [outputs, inputs], stored as halves.
/// let w = Weight::from_f32(&gpu, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], (2, 3), Format::F16)?;
/// let x = gpu.tensor(&[1.0, 10.0, 100.0], &[1, 3])?;
/// let mut pass = gpu.pass();
/// let mut y = pass.tensor(&[1, 2])?;
/// ops::linear(&mut pass, &x, &w, None, &mut y)?;
/// pass.submit()?;
/// assert_eq!(gpu.read::<f32>(&y)?, [321.0, 654.0]);
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Weight {
    pub(crate) chunks: Vec<Chunk>,
    rows: usize,
    columns: usize,
    format: Option<Format>,
}

/// Some rows of a [`Weight`]: `tensor` is `[n, columns]`, or `[n, words]` in a quantised format.
#[derive(Debug, Clone)]
pub(crate) struct Chunk {
    pub(crate) first_row: usize,
    pub(crate) format: Format,
    pub(crate) tensor: Tensor,
}

/// Bytes on the way to the device before the queue is emptied: staging memory is not bounded by wgpu.
pub(crate) const STAGING_BYTES: usize = 64 << 20;

/// Bytes of a weight that are read at a time.
const BLOCK_BYTES: usize = 16 << 20;

impl Weight {
    /// Rows, the output dimension of a product with it.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns, the dimension that is summed over.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// How it is stored; `None` if its parts are stored differently.
    pub fn format(&self) -> Option<Format> {
        self.format
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.tensor.bytes()).sum()
    }

    /// Builds a weight `[rows, columns]` from blocks of rows in `format`'s bytes, dense, little-endian: `read(range)`
    /// returns those of a range of rows. It is called in order, with ranges of about 16 MiB. The bytes of a quantised format
    /// are ggml's, as a GGUF file has them; they are laid out anew here, without a change of any number.
    ///
    /// # Errors
    /// What `read` returns; [`Error::Shape`] if a row is not whole blocks of the format, or the bytes are not those rows;
    /// [`Error::TooLarge`] if one row exceeds a binding; [`Error::OutOfMemory`].
    pub fn from_rows(
        gpu: &GpuCompute,
        (rows, columns): (usize, usize),
        format: Format,
        read: impl FnMut(Range<usize>) -> Result<Vec<u8>>,
    ) -> Result<Weight> {
        Weight::from_rows_within(gpu, (rows, columns), format, u64::MAX, read)
    }

    /// [`Weight::from_rows`] in chunks of at most `max_bytes`, for a look at the chunked paths on any device.
    pub(crate) fn from_rows_within(
        gpu: &GpuCompute,
        (rows, columns): (usize, usize),
        format: Format,
        max_bytes: u64,
        read: impl FnMut(Range<usize>) -> Result<Vec<u8>>,
    ) -> Result<Weight> {
        let (numbers, _) = format.block();
        if !columns.is_multiple_of(numbers) {
            let message = format!("rows of {columns} in {}, which has blocks of {numbers}", format.name());
            return Err(Error::Shape { op: "Weight::from_rows", message });
        }
        let limit = max_bytes.min(gpu.binding_limit());
        let chunks = match gpu.engine() {
            None => vec![host_chunk((rows, columns), format, read)?],
            Some(_) => device_chunks(gpu, (rows, columns), format, limit, read)?,
        };
        Ok(Weight { chunks, rows, columns, format: Some(format) })
    }

    /// The parts, one over the other, each in its format, as one matrix: what is multiplied with the same rows, such as
    /// queries, keys and values, is then one call, with a dispatch per part. Nothing is copied.
    ///
    /// # Errors
    /// [`Error::Shape`] if they differ in columns, there is none, or another one follows a part whose rows are not a multiple
    /// of 4: kernels write four columns at a time.
    ///
    /// ```
    /// use gristmill::{ComputeBackend, Format, GpuCompute, Weight, ops};
    ///
    /// let gpu = GpuCompute::new(ComputeBackend::Cpu)?;
    /// let (four, one) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], [0.5, 0.25]);
    /// let (four, one) =
    ///     (Weight::from_f32(&gpu, &four, (4, 2), Format::F16)?, Weight::from_f32(&gpu, &one, (1, 2), Format::F32)?);
    /// let w = Weight::stacked(vec![four, one])?;
    /// assert_eq!((w.rows(), w.format()), (5, None));
    /// let (mut pass, x, mut y) = (gpu.pass(), gpu.tensor(&[1.0, 10.0], &[1, 2])?, gpu.zeros(&[1, 5])?);
    /// ops::linear(&mut pass, &x, &w, None, &mut y)?;
    /// pass.submit()?;
    /// assert_eq!(gpu.read::<f32>(&y)?, [21.0, 43.0, 65.0, 87.0, 3.0]);
    /// # Ok::<(), gristmill::Error>(())
    /// ```
    pub fn stacked(parts: Vec<Weight>) -> Result<Weight> {
        let mut parts = parts.into_iter();
        let wrong = |message| Error::Shape { op: "Weight::stacked", message };
        let mut whole = parts.next().ok_or_else(|| wrong("no parts".to_owned()))?;
        for part in parts {
            if part.columns != whole.columns || !whole.rows.is_multiple_of(4) {
                let (above, below) = ([whole.rows, whole.columns], [part.rows, part.columns]);
                return Err(wrong(format!(
                    "{below:?} below {above:?}; as many columns, and 4, 8, .. rows, are needed"
                )));
            }
            let moved = |chunk: Chunk| Chunk { first_row: chunk.first_row + whole.rows, ..chunk };
            whole.chunks.extend(part.chunks.into_iter().map(moved));
            whole.rows += part.rows;
            whole.format = whole.format.filter(|&format| part.format == Some(format));
        }
        Ok(whole)
    }

    /// A weight `[rows, columns]` from dense floats, rounded to `format`, which is not a quantised one: how to quantise well
    /// is decided where files are made, and [`Weight::from_rows`] takes what is in them.
    ///
    /// # Errors
    /// As [`Weight::from_rows`]; [`Error::Shape`] if `data` has another length or the format is quantised.
    pub fn from_f32(gpu: &GpuCompute, data: &[f32], shape: (usize, usize), format: Format) -> Result<Weight> {
        let (rows, columns) = shape;
        if format.is_quantized() {
            let message = format!("floats are not quantised here; give the stored {} to from_rows", format.name());
            return Err(Error::Shape { op: "Weight::from_f32", message });
        }
        if Some(data.len()) != rows.checked_mul(columns) {
            let message = format!("{} elements for [{rows}, {columns}]", data.len());
            return Err(Error::Shape { op: "Weight::from_f32", message });
        }
        Weight::from_rows(gpu, shape, format, |range| {
            let block = data.get(range.start * columns..range.end * columns).unwrap_or_default();
            Ok(match format {
                Format::F16 => block.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect(),
                Format::BF16 => block.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect(),
                _ => bytemuck::cast_slice(block).to_vec(),
            })
        })
    }

    /// Rows of a chunk of at most `limit` bytes: a multiple of 4, so that output quads do not straddle.
    pub(crate) fn rows_per_chunk(row_bytes: usize, limit: u64) -> Result<usize> {
        let rows = usize::try_from(limit / row_bytes.max(1) as u64).unwrap_or(usize::MAX) / 4 * 4;
        if rows == 0 {
            let needed = (row_bytes as u64).saturating_mul(4);
            return Err(Error::TooLarge { what: "four rows of a weight, in bytes".to_owned(), needed, limit });
        }
        Ok(rows)
    }
}

/// (the shape of a tensor of `rows` rows in a format, the bytes of a row of it, those of a row as it is read).
fn place((rows, columns): (usize, usize), format: Format) -> Result<([usize; 2], usize, usize)> {
    let what = || format!("a row of {columns} in {}, in bytes", format.name());
    let too_many = || Error::TooLarge { what: what(), needed: u64::MAX, limit: i64::MAX as u64 };
    let (row_bytes, stored) = (format.row_bytes(columns), format.stored_bytes(columns).ok_or_else(too_many)?);
    let elements = if format.is_quantized() { row_bytes / 4 } else { columns };
    Ok(([rows, elements], row_bytes, stored))
}

/// Rows as a file has them, as they are on a device.
fn lay_out(block: Vec<u8>, columns: usize, format: Format) -> Vec<u8> {
    let (row_bytes, stored) = (format.row_bytes(columns), format.stored_bytes(columns).unwrap_or(0));
    if !format.is_quantized() {
        return if row_bytes == stored { block } else { to_pitch(&block, stored, row_bytes) };
    }
    if stored == 0 {
        return Vec::new();
    }
    let mut rows = vec![0; block.len() / stored * row_bytes];
    let each = rows.par_chunks_exact_mut(row_bytes).zip(block.par_chunks_exact(stored));
    each.for_each(|(row, stored)| crate::quants::lay_out(format, stored, row));
    rows
}

fn device_chunks(
    gpu: &GpuCompute,
    (rows, columns): (usize, usize),
    format: Format,
    limit: u64,
    mut read: impl FnMut(Range<usize>) -> Result<Vec<u8>>,
) -> Result<Vec<Chunk>> {
    let (_, row_bytes, stored_row) = place((0, columns), format)?;
    let per_chunk = Weight::rows_per_chunk(row_bytes, limit)?;
    let per_block = (BLOCK_BYTES / row_bytes.max(1)).max(1);
    let mut chunks = Vec::new();
    for first_row in (0..rows).step_by(per_chunk) {
        let n = per_chunk.min(rows - first_row);
        let (shape, ..) = place((n, columns), format)?;
        let tensor = gpu.exact_tensor(&shape, format.into())?;
        for start in (0..n).step_by(per_block) {
            let end = (start + per_block).min(n);
            let block = read(first_row + start..first_row + end)?;
            if block.len() != (end - start) * stored_row {
                return Err(wrong_block(&block, end - start, stored_row));
            }
            gpu.write_bytes(&tensor, (start * row_bytes) as u64, &lay_out(block, columns, format))?;
        }
        chunks.push(Chunk { first_row, format, tensor });
    }
    Ok(chunks)
}

/// On the CPU backend a weight of one format is one chunk: dense, or with quantised rows as on a device.
fn host_chunk(
    (rows, columns): (usize, usize),
    format: Format,
    mut read: impl FnMut(Range<usize>) -> Result<Vec<u8>>,
) -> Result<Chunk> {
    let dtype = DType::from(format);
    let (shape, padded_row, stored_row) = place((rows, columns), format)?;
    let row_bytes = if format.is_quantized() { padded_row } else { stored_row };
    // Checks that the bytes can be counted.
    device_bytes(&shape, dtype)?;
    let mut words = host_words(rows * row_bytes)?;
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
    let per_block = (BLOCK_BYTES / row_bytes.max(1)).max(1);
    for start in (0..rows).step_by(per_block) {
        let end = (start + per_block).min(rows);
        let block = read(start..end)?;
        if block.len() != (end - start) * stored_row {
            return Err(wrong_block(&block, end - start, stored_row));
        }
        let block = if format.is_quantized() { lay_out(block, columns, format) } else { block };
        if let Some(place) = bytes.get_mut(start * row_bytes..end * row_bytes) {
            place.copy_from_slice(&block);
        }
    }
    Ok(Chunk { first_row: 0, format, tensor: Tensor::on_host(words, &shape, dtype)? })
}

fn wrong_block(block: &[u8], rows: usize, row_bytes: usize) -> Error {
    let message = format!("{} bytes for {rows} rows of {row_bytes}", block.len());
    Error::Shape { op: "Weight::from_rows", message }
}
