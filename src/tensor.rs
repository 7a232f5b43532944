//! Tensors and weights: where numbers live, and how they lie there.
//!
//! A tensor is rows of its last dimension. On the device every row starts at a multiple of 16 bytes (the *pitch*), and the
//! tail between the last element and the pitch is zero: kernels read quads and never look at the remainder. On the CPU
//! backend rows are dense.

use std::ops::Range;
use std::sync::{Arc, RwLock};

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::gpu::GpuCompute;
use crate::kernel::Format;
use crate::pool::Lease;

/// The element type of a [`Tensor`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// 32-bit floats.
    F32,
    /// 16-bit floats, IEEE 754 binary16.
    F16,
    /// The upper half of an f32.
    BF16,
    /// 32-bit words: rows, token ids.
    U32,
}

impl DType {
    /// Bytes per element.
    pub fn bytes(self) -> usize {
        match self {
            DType::F32 | DType::U32 => 4,
            DType::F16 | DType::BF16 => 2,
        }
    }
}

/// What the tensor of a weight in this format has as elements: words where the format is quantised.
impl From<Format> for DType {
    fn from(format: Format) -> DType {
        match format {
            Format::F32 => DType::F32,
            Format::F16 => DType::F16,
            Format::BF16 => DType::BF16,
            _ => DType::U32,
        }
    }
}

impl DType {
    /// The format of a tensor that stands where a weight may: f32 or f16.
    pub(crate) fn format(self) -> Format {
        if self == DType::F16 { Format::F16 } else { Format::F32 }
    }
}

/// At most this many dimensions.
pub(crate) const MAX_RANK: usize = 4;

/// Numbers on a device, or in host memory on the CPU backend. Cloning makes another handle on the same memory.
#[derive(Clone)]
pub struct Tensor {
    pub(crate) storage: Storage,
    /// Start within the buffer, in bytes, a multiple of 256.
    pub(crate) offset: u64,
    dims: [usize; MAX_RANK],
    rank: usize,
    /// Elements from one row to the next.
    pitch: usize,
    dtype: DType,
}

#[derive(Clone)]
pub(crate) enum Storage {
    Device(Arc<Lease>),
    Host(Arc<RwLock<Vec<u32>>>),
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = match self.storage {
            Storage::Device(_) => "device",
            Storage::Host(_) => "host",
        };
        write!(f, "Tensor({:?} {:?} on {place}, pitch {})", self.dtype, self.shape(), self.pitch)
    }
}

/// Elements per row so that rows start at multiples of 16 bytes.
pub(crate) fn pitch(columns: usize, dtype: DType) -> usize {
    columns.next_multiple_of(16 / dtype.bytes())
}

/// Checks a shape and returns (dimensions, rows, columns). A scalar is one row of one column.
///
/// Even where a dimension is 0, the others must make a tensor whose padded bytes a machine word counts, so that no
/// product of dimensions overflows, in whatever order it is computed.
fn layout(shape: &[usize]) -> Result<([usize; MAX_RANK], usize, usize)> {
    const LIMIT: u64 = i64::MAX as u64;
    let mut dims = [1; MAX_RANK];
    let too_many = || Error::Shape { op: "tensor", message: format!("{shape:?}: more than 4 dimensions") };
    dims.get_mut(..shape.len()).ok_or_else(too_many)?.copy_from_slice(shape);
    let (columns, outer) = shape.split_last().map_or((1, shape), |(last, outer)| (*last, outer));
    let row = 4 * (columns.max(1) as u128).next_multiple_of(8);
    let bytes = outer.iter().fold(row, |bytes, &d| bytes.saturating_mul(d.max(1) as u128));
    let needed = u64::try_from(bytes).unwrap_or(u64::MAX);
    if needed > LIMIT.min(isize::MAX as u64) {
        return Err(Error::TooLarge { what: format!("a tensor {shape:?}, in bytes"), needed, limit: LIMIT });
    }
    Ok((dims, outer.iter().product(), columns))
}

/// The bytes a tensor of `shape` takes on a device.
pub(crate) fn device_bytes(shape: &[usize], dtype: DType) -> Result<u64> {
    let (_, rows, columns) = layout(shape)?;
    Ok((rows * pitch(columns, dtype) * dtype.bytes()) as u64)
}

impl Tensor {
    pub(crate) fn on_device(lease: Arc<Lease>, offset: u64, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let (dims, _, columns) = layout(shape)?;
        let storage = Storage::Device(lease);
        Ok(Tensor { storage, offset, dims, rank: shape.len(), pitch: pitch(columns, dtype), dtype })
    }

    pub(crate) fn on_host(words: Vec<u32>, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let (dims, _, columns) = layout(shape)?;
        let storage = Storage::Host(Arc::new(RwLock::new(words)));
        Ok(Tensor { storage, offset: 0, dims, rank: shape.len(), pitch: columns, dtype })
    }

    /// A dense tensor, whose rows may start anywhere.
    pub(crate) fn dense_on_device(lease: Arc<Lease>, offset: u64, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let mut tensor = Tensor::on_device(lease, offset, shape, dtype)?;
        tensor.pitch = tensor.columns();
        Ok(tensor)
    }

    /// Wraps the caller's own buffer of dense rows. Where a row is not a multiple of 16 bytes, ops that read quads copy it
    /// first; rows of f16 must be, except for [`cast`](crate::ops::cast). A tensor ends with a whole word of 4 bytes, so an
    /// odd number of halves has one more behind it.
    ///
    /// # Errors
    /// [`Error::Shape`] if `offset` is not a multiple of 256, the buffer is too short or lacks `STORAGE` usage.
    pub fn from_buffer(buffer: wgpu::Buffer, offset: u64, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let wrong = |message: String| Error::Shape { op: "Tensor::from_buffer", message };
        // The padded size is checked to fit a machine word, and so the dense one does.
        device_bytes(shape, dtype)?;
        let count: usize = shape.iter().product();
        let end = offset.checked_add((count * dtype.bytes()).next_multiple_of(4) as u64);
        if !offset.is_multiple_of(256) || end.is_none_or(|end| end > buffer.size()) {
            let size = buffer.size();
            return Err(wrong(format!("{shape:?} at byte {offset} of {size}; offsets are multiples of 256")));
        }
        if !buffer.usage().contains(wgpu::BufferUsages::STORAGE) {
            return Err(wrong("the buffer has no STORAGE usage".to_owned()));
        }
        Tensor::dense_on_device(Lease::borrowed(buffer), offset, shape, dtype)
    }

    /// The dimensions.
    pub fn shape(&self) -> &[usize] {
        self.dims.get(..self.rank).unwrap_or_default()
    }

    /// Product of all dimensions but the last.
    pub fn rows(&self) -> usize {
        self.shape().iter().rev().skip(1).product()
    }

    /// The last dimension.
    pub fn columns(&self) -> usize {
        self.shape().last().copied().unwrap_or(1)
    }

    /// Elements from one row to the next.
    pub fn pitch(&self) -> usize {
        self.pitch
    }

    /// Rows start at multiples of 16 bytes, and their tails are there to be read.
    pub(crate) fn is_aligned(&self) -> bool {
        (self.pitch * self.dtype.bytes()).is_multiple_of(16)
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Bytes from the first element to the end of the last row's padding, in whole words of 4 bytes.
    pub fn bytes(&self) -> u64 {
        (self.rows() * self.pitch * self.dtype.bytes()).next_multiple_of(4) as u64
    }

    /// Words of 4 bytes that hold it, as [`Tensor::bytes`] counts them.
    pub(crate) fn words(&self) -> usize {
        (self.rows() * self.pitch * self.dtype.bytes()).div_ceil(4)
    }

    /// The first `rows` rows, as a tensor `[rows, columns]` on the same memory.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are fewer.
    pub fn first_rows(&self, rows: usize) -> Result<Tensor> {
        if rows > self.rows() {
            let message = format!("first {rows} rows of {:?}", self.shape());
            return Err(Error::Shape { op: "first_rows", message });
        }
        let mut view = self.clone();
        (view.dims, view.rank) = ([rows, self.columns(), 1, 1], 2);
        Ok(view)
    }

    /// The device buffer behind it, unless it lives on the host.
    pub(crate) fn lease(&self) -> Option<&Arc<Lease>> {
        match &self.storage {
            Storage::Device(lease) => Some(lease),
            Storage::Host(_) => None,
        }
    }
}

/// Drops the padding of pitched rows, and what follows the last element in its word. `bytes` holds whole elements.
pub(crate) fn unpitch<T: bytemuck::Pod>(bytes: &[u8], (rows, columns): (usize, usize), pitch: usize) -> Vec<T> {
    let mut all: Vec<T> = bytemuck::pod_collect_to_vec(bytes);
    all.truncate(rows * pitch);
    if columns == pitch || columns == 0 {
        return all;
    }
    all.chunks(pitch).flat_map(|row| row.iter().take(columns).copied()).collect()
}

/// Zeros for as many bytes. Asked for before they are taken, because `vec!` ends the process where there are not as many.
pub(crate) fn host_words(bytes: usize) -> Result<Vec<u32>> {
    let none = |_| Error::OutOfMemory { bytes: bytes as u64, context: "a tensor in host memory".to_owned() };
    Vec::<u32>::new().try_reserve_exact(bytes.div_ceil(4)).map_err(none)?;
    Ok(vec![0; bytes.div_ceil(4)])
}

/// Bytes as words, the last one filled up with zeros.
pub(crate) fn to_words(bytes: &[u8]) -> Vec<u32> {
    let mut words = vec![0; bytes.len().div_ceil(4)];
    if let Some(to) = bytemuck::cast_slice_mut(&mut words).get_mut(..bytes.len()) {
        to.copy_from_slice(bytes);
    }
    words
}

/// Puts dense rows at a pitch, with zeros between.
pub(crate) fn to_pitch(dense: &[u8], row_bytes: usize, pitch_bytes: usize) -> Vec<u8> {
    if row_bytes == pitch_bytes || row_bytes == 0 {
        return dense.to_vec();
    }
    let mut padded = Vec::with_capacity(dense.len() / row_bytes * pitch_bytes);
    for row in dense.chunks(row_bytes) {
        padded.extend_from_slice(row);
        padded.resize(padded.len().next_multiple_of(pitch_bytes), 0);
    }
    padded
}

/// A matrix `[rows, columns]` in a stored format, as row chunks that each fit one binding.
#[derive(Debug, Clone)]
pub struct Weight {
    pub(crate) chunks: Vec<Chunk>,
    rows: usize,
    columns: usize,
    format: Format,
}

/// Some rows of a [`Weight`]: `tensor` is `[n, columns]`, or `[n, words]` in a quantised format.
#[derive(Debug, Clone)]
pub(crate) struct Chunk {
    pub(crate) first_row: usize,
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

    /// How it is stored.
    pub fn format(&self) -> Format {
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
        Ok(Weight { chunks, rows, columns, format })
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
    let (mut chunks, mut staged) = (Vec::new(), 0);
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
            let laid_out = lay_out(block, columns, format);
            staged += laid_out.len();
            gpu.write_bytes(&tensor, (start * row_bytes) as u64, &laid_out);
            if staged >= STAGING_BYTES {
                gpu.flush()?;
                staged = 0;
            }
        }
        chunks.push(Chunk { first_row, tensor });
    }
    Ok(chunks)
}

/// On the CPU backend a weight is one matrix in its format: dense, or with quantised rows as on a device.
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
    Ok(Chunk { first_row: 0, tensor: Tensor::on_host(words, &shape, dtype)? })
}

fn wrong_block(block: &[u8], rows: usize, row_bytes: usize) -> Error {
    let message = format!("{} bytes for {rows} rows of {row_bytes}", block.len());
    Error::Shape { op: "Weight::from_rows", message }
}
