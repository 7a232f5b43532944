//! Tensors, and weights below them: where numbers live, and how they lie there.
//!
//! A tensor is rows of its last dimension. On the device every row starts at a multiple of 16 bytes (the *pitch*), and the
//! tail between the last element and the pitch is zero: kernels read quads and never look at the remainder. On the CPU
//! backend rows are dense.

mod weight;

use std::sync::{Arc, RwLock};

use crate::error::{Error, Result};
use crate::kernel::Format;
use crate::pool::Lease;
pub use weight::Weight;
pub(crate) use weight::{Chunk, STAGING_BYTES};

/// The element type of a [`Tensor`].
///
/// ```
/// use gristmill::{ComputeBackend, DType, GpuCompute, half::f16};
///
/// let gpu = GpuCompute::new(ComputeBackend::Cpu)?;
/// let x = gpu.tensor_f16(&[f16::ONE; 3], &[3])?;
/// assert_eq!((x.dtype(), x.dtype().bytes()), (DType::F16, 2));
/// # Ok::<(), gristmill::Error>(())
/// ```
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
///
/// ```
/// use gristmill::{ComputeBackend, GpuCompute};
///
/// let gpu = GpuCompute::new(ComputeBackend::Gpu)?;
/// let x = gpu.tensor(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3])?;
/// assert_eq!((x.shape(), x.rows(), x.columns()), (&[2, 3][..], 2, 3));
/// // On a device rows start at multiples of 16 bytes; what is read back is dense again.
/// assert_eq!((x.pitch(), x.bytes()), (4, 32));
/// assert_eq!(gpu.read::<f32>(&x)?, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
/// # Ok::<(), gristmill::Error>(())
/// ```
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
    /// [`Error::Shape`] for more than 4 dimensions, or if `offset` is not a multiple of 256, the buffer is too short or
    /// lacks `STORAGE` usage; [`Error::TooLarge`] for a shape whose bytes a machine word does not count.
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

    /// The device buffer it lies in, unless it lives on the host: for a caller's own commands.
    pub fn buffer(&self) -> Option<&wgpu::Buffer> {
        self.lease().map(|lease| &lease.buffer)
    }

    /// Where it starts within its buffer, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
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

/// Drops the padding of pitched rows, and what follows the last element in its word. `T` is as large as an element.
pub(crate) fn unpitch<T: bytemuck::Pod>(words: &[u32], (rows, columns): (usize, usize), pitch: usize) -> Vec<T> {
    let all: &[T] = bytemuck::try_cast_slice(words).unwrap_or_default();
    let all = all.get(..rows * pitch).unwrap_or(all);
    if columns == pitch {
        return all.to_vec();
    }
    all.chunks(pitch.max(1)).flat_map(|row| row.iter().take(columns).copied()).collect()
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
