//! GGUF, the file format of llama.cpp: a model in one file, its metadata typed, its tensors quantised.
//!
//! The files come from strangers, so reading goes in three steps, as for safetensors: [`Gguf::open`] *inspects*, reading
//! the header and no tensor, and holds every length, count and offset against the file's size before it asks for memory;
//! then the caller *admits*, comparing names, types and shapes with what its model needs; then tensors are read, some rows
//! at a time. No step panics, whatever the bytes. The first holds at most the header and 16 MiB, and its work is a few
//! passes over the header's bytes.
//!
//! Nothing of a file is executed or interpreted: a chat template is text.
//!
//! Versions 1 and 2, big-endian files, models in several files and the types that are not among [`GgmlType::ALL`] are
//! refused by name. So are what a valid file never has: names that are given twice, tensors out of order, arrays of arrays.

#![forbid(unsafe_code)]
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used)]
#![deny(clippy::panic, clippy::unreachable)]

mod cursor;
mod header;
mod metadata;
mod named;
mod types;
mod value;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use super::checkpoint::json::show;
use super::file::ModelFile;
use crate::error::{Error, Result};
use header::Header;
use metadata::Entry;
use named::Named;

pub use types::GgmlType;
pub use value::{Array, Value, ValueType};

/// What a GGUF file says about one tensor.
///
/// ```
/// use gristmill::model::{Gguf, gguf::GgmlType};
///
/// let file = Gguf::open("tests/oracle/gguf/quants.gguf".as_ref())?;
/// let info = file.tensor("q4_0").expect("a tensor");
/// assert_eq!((info.dtype, info.shape.as_slice(), info.byte_len()), (GgmlType::Q4_0, &[8, 512][..], 8 * 512 / 32 * 18));
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorInfo {
    /// How its elements are stored.
    pub dtype: GgmlType,
    /// Dimensions, outermost first, at most four; empty for a scalar. None is zero, the innermost is a multiple of
    /// [`GgmlType::block_len`], and the element count is below 2^63.
    pub shape: Vec<usize>,
    /// Its first byte in the file.
    begin: u64,
    bytes: u64,
    /// The first byte of its record in the header.
    record: u64,
}

impl TensorInfo {
    /// Bytes the tensor takes in the file, without padding.
    pub fn byte_len(&self) -> u64 {
        self.bytes
    }

    /// Where the tensor begins, in bytes from the start of the file.
    pub fn offset(&self) -> u64 {
        self.begin
    }

    /// Where in the file some rows of the first dimension lie. `None` if there are no such rows.
    fn rows(&self, rows: &Range<usize>) -> Option<Range<u64>> {
        let (&count, inner) = self.shape.split_first()?;
        if rows.start > rows.end || rows.end > count {
            return None;
        }
        // The one dimension of a vector is itself made of blocks.
        let (unit, unit_bytes) = match inner.is_empty() {
            true => (self.dtype.block_len(), self.dtype.block_bytes()),
            false => (1, self.bytes.checked_div(count as u64)?),
        };
        let offset = |row: usize| {
            let units = (row as u64).is_multiple_of(unit).then_some((row as u64).checked_div(unit)?)?;
            self.begin.checked_add(units.checked_mul(unit_bytes)?)
        };
        Some(offset(rows.start)?..offset(rows.end)?)
    }
}

/// A GGUF file, inspected and ready to be read.
///
/// ```
/// use gristmill::model::Gguf;
///
/// let file = Gguf::open("tests/oracle/gguf/quants.gguf".as_ref())?;
/// for name in file.names() {
///     assert!(file.tensor(name).is_some());
/// }
/// assert_eq!(file.read_rows("q8_0", 2..3)?.len(), 512 / 32 * 34);
/// # Ok::<(), gristmill::Error>(())
/// ```
///
/// It stays open, so a file that is replaced later is not noticed, and one
/// that is shortened ends in an error.
pub struct Gguf {
    file: ModelFile,
    metadata: Named<Entry>,
    metadata_end: u64,
    alignment: u64,
    tensors: Named<TensorInfo>,
}

impl Gguf {
    /// Opens a file. Reads the header, no tensors.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that is missing, is not a regular file, or cannot be read; [`Error::BadFile`] for one that
    /// is no GGUF file, is damaged, or is of a kind that is not read, with the byte and the key or tensor;
    /// [`Error::OutOfMemory`].
    pub fn open(path: &Path) -> Result<Self> {
        Self::inspect(ModelFile::open(path.into())?)
    }

    /// The same from the bytes of a file.
    ///
    /// # Errors
    /// As [`Gguf::open`], without [`Error::Io`].
    pub fn from_memory(bytes: impl Into<Cow<'static, [u8]>>) -> Result<Self> {
        Self::inspect(ModelFile::in_memory("GGUF", bytes.into()))
    }

    fn inspect(file: ModelFile) -> Result<Self> {
        let Header { metadata, metadata_end, alignment, tensors } = header::read(&file)?;
        Ok(Self { file, metadata, metadata_end, alignment, tensors })
    }

    /// Where it is, for messages.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The file's length when it was opened, in bytes.
    pub fn byte_len(&self) -> u64 {
        self.file.len()
    }

    /// What the tensors' offsets are multiples of, in bytes.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// The names of all tensors, in the order of the file.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|(name, _)| name)
    }

    /// What the file says about a tensor; `None` if it has no tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// A tensor's bytes, as long as [`TensorInfo::byte_len`].
    ///
    /// That length is bounded by nothing but the file's, and a sparse file can be longer than memory: compare the shape
    /// with the model's before reading.
    ///
    /// # Errors
    /// [`Error::BadTensor`] if there is none of that name; [`Error::OutOfMemory`]; [`Error::BadFile`] if the file has
    /// been shortened since it was opened; [`Error::Io`].
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let info = self.find(name)?;
        self.file.read(info.begin..info.begin.saturating_add(info.bytes))
    }

    /// The bytes of some rows of a tensor's first dimension, for matrices too large to hold twice.
    ///
    /// # Errors
    /// As [`Gguf::read`]; also [`Error::BadTensor`] for rows the tensor does not have (a scalar has none), or that do not
    /// begin and end at a block.
    pub fn read_rows(&self, name: &str, rows: Range<usize>) -> Result<Vec<u8>> {
        let info = self.find(name)?;
        let range = info.rows(&rows).ok_or_else(|| Error::BadTensor {
            name: show(name),
            message: format!("rows {rows:?} cannot be read from type {} and shape {:?}", info.dtype, info.shape),
        })?;
        self.file.read(range)
    }

    fn find(&self, name: &str) -> Result<&TensorInfo> {
        let message = || format!("is not in {}", self.file.path().display());
        self.tensors.get(name).ok_or_else(|| Error::BadTensor { name: show(name), message: message() })
    }
}

impl fmt::Debug for Gguf {
    /// Where from and how many; a vocabulary would fill the screen.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gguf")
            .field("path", &self.file.path())
            .field("keys", &self.metadata.iter().count())
            .field("tensors", &self.tensors.iter().count())
            .finish_non_exhaustive()
    }
}
