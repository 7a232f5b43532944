//! One file of a model, read at positions.
//!
//! Tensors are copied out by positioned reads. A memory map would save the copy, but a file that another process
//! shortens meanwhile turns a map into a signal; a read turns it into an error. Reads carry their own position, so one
//! file can be read from several threads.

#![forbid(unsafe_code)]
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used)]
#![deny(clippy::panic, clippy::unreachable)]

use std::borrow::Cow;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::checkpoint::json::Fault;
use crate::error::{Error, Result};

/// One file of a model, of a length fixed when it was opened.
pub(super) struct ModelFile {
    path: PathBuf,
    bytes: Bytes,
    len: u64,
}

enum Bytes {
    File(File),
    Memory(Cow<'static, [u8]>),
}

impl ModelFile {
    /// Opens a regular file, or a link to one.
    pub(super) fn open(path: PathBuf) -> Result<Self> {
        let io = |error: io::Error| Error::Io { path: path.clone(), message: error.to_string() };
        let regular = |found: fs::Metadata| {
            let message = "is not a regular file".into();
            if found.is_file() { Ok(found.len()) } else { Err(Error::Io { path: path.clone(), message }) }
        };
        // Asked before opening, because opening a named pipe waits for a writer; and after, because the first answer
        // was about a name, this one is about the file.
        regular(fs::metadata(&path).map_err(io)?)?;
        let file = File::open(&path).map_err(io)?;
        let len = regular(file.metadata().map_err(io)?)?;
        Ok(Self { path, bytes: Bytes::File(file), len })
    }

    /// Bytes that are named in messages as `NAME (in memory)`.
    pub(super) fn in_memory(name: &str, bytes: Cow<'static, [u8]>) -> Self {
        let path = PathBuf::from(format!("{name} (in memory)"));
        Self { path, len: bytes.len() as u64, bytes: Bytes::Memory(bytes) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its length when it was opened, in bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Something that is wrong at a byte of this file.
    pub(super) fn fault(&self, offset: u64, message: impl Into<String>) -> Error {
        Fault::new(offset, message).in_file(&self.path)
    }

    /// The whole file as text.
    pub(super) fn text(&self, max_len: u64) -> Result<String> {
        if self.len > max_len {
            let message = format!("{} bytes; the limit for this file is {max_len}", self.len);
            return Err(self.fault(max_len, message));
        }
        String::from_utf8(self.read(0..self.len)?).map_err(|error| {
            let offset = error.utf8_error().valid_up_to() as u64;
            self.fault(offset, "is not UTF-8")
        })
    }

    /// The bytes of a range that lies within the file's length at opening.
    pub(super) fn read(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let mut buffer = self.buffer(range.end.saturating_sub(range.start))?;
        self.read_into(&mut buffer, range.start)?;
        Ok(buffer)
    }

    /// So many zeros, to be filled from this file.
    pub(super) fn buffer(&self, bytes: u64) -> Result<Vec<u8>> {
        let no_memory = || Error::OutOfMemory { bytes, context: self.path.display().to_string() };
        let len = usize::try_from(bytes).map_err(|_| no_memory())?;
        let mut buffer = Vec::new();
        buffer.try_reserve_exact(len).map_err(|_| no_memory())?;
        buffer.resize(len, 0);
        Ok(buffer)
    }

    /// Fills `buffer` with the bytes from `offset` on.
    pub(super) fn read_into(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let result = match &self.bytes {
            Bytes::File(file) => read_exact_at(file, buffer, offset),
            Bytes::Memory(bytes) => copy_exact_at(bytes, buffer, offset),
        };
        result.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                let message =
                    format!("{} bytes cannot be read here; the file was shortened after it was opened", buffer.len());
                self.fault(offset, message)
            }
            _ => Error::Io { path: self.path.clone(), message: error.to_string() },
        })
    }
}

fn copy_exact_at(bytes: &[u8], buffer: &mut [u8], offset: u64) -> io::Result<()> {
    let from = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..));
    let part = from.and_then(|rest| rest.get(..buffer.len()));
    buffer.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
    Ok(())
}

#[cfg(unix)]
fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buffer, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                buffer = buffer.get_mut(count..).unwrap_or_default();
                offset = offset.saturating_add(count as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Elsewhere (in a browser) there are no files; models from memory still work.
#[cfg(not(any(unix, windows)))]
fn read_exact_at(_file: &File, _buffer: &mut [u8], _offset: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
