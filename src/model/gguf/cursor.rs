//! Reads a header from its first byte on, and nothing beyond the end of the file.
//!
//! A GGUF header does not say how long it is. It is read in chunks; whatever it announces is held against the bytes that
//! are left before memory is asked for.

use crate::error::{Error, Result};
use crate::model::file::ModelFile;

/// Longest header, in bytes: it bounds how long a file can keep the reader busy. A vocabulary of 262,144 takes 16 MiB.
const MAX_HEADER: u64 = 32 << 20;
/// Bytes read at once.
const CHUNK: u64 = 64 << 10;

/// A place in a file.
pub(super) struct Cursor<'a> {
    file: &'a ModelFile,
    at: u64,
    /// Some of the file, from `start` on.
    chunk: Vec<u8>,
    start: u64,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(file: &'a ModelFile) -> Self {
        Self { file, at: 0, chunk: Vec::new(), start: 0 }
    }

    /// The offset of the next byte.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Goes back, or on, to an offset.
    pub(super) fn go_to(&mut self, at: u64) {
        self.at = at;
    }

    /// Bytes that can be read from here on: to the end of the file, or of the longest header.
    pub(super) fn left(&self) -> u64 {
        self.file.len().min(MAX_HEADER).saturating_sub(self.at)
    }

    /// The file, for what is wrong in it.
    pub(super) fn file(&self) -> &'a ModelFile {
        self.file
    }

    /// An error about the offset `at`.
    pub(super) fn fault(&self, at: u64, message: impl Into<String>) -> Error {
        self.file.fault(at, message)
    }

    /// Is it all there? `what` is what it would be.
    pub(super) fn need(&self, bytes: u64, what: &str) -> Result<()> {
        if bytes <= self.left() {
            return Ok(());
        }
        let message = match self.at.checked_add(bytes).is_some_and(|end| end <= self.file.len()) {
            true => format!("the header is longer than {MAX_HEADER} bytes, with {bytes} of {what}"),
            false => format!("the file ends in {what}: {bytes} bytes are announced, {} follow", self.left()),
        };
        Err(self.fault(self.at, message))
    }

    /// Fills `buffer` with the next bytes.
    pub(super) fn read_into(&mut self, buffer: &mut [u8], what: &str) -> Result<()> {
        let bytes = buffer.len() as u64;
        self.need(bytes, what)?;
        if bytes > CHUNK {
            self.file.read_into(buffer, self.at)?;
        } else {
            if self.ahead(buffer.len()).is_none() {
                self.chunk.resize(CHUNK.min(self.left()) as usize, 0);
                self.file.read_into(&mut self.chunk, self.at)?;
                self.start = self.at;
            }
            buffer.copy_from_slice(self.ahead(buffer.len()).unwrap_or_default());
        }
        self.at = self.at.saturating_add(bytes);
        Ok(())
    }

    /// The next bytes, if the chunk has them all.
    fn ahead(&self, bytes: usize) -> Option<&[u8]> {
        let from = usize::try_from(self.at.checked_sub(self.start)?).ok()?;
        self.chunk.get(from..)?.get(..bytes)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32> {
        let mut bytes = [0; 4];
        self.read_into(&mut bytes, what)?;
        Ok(u32::from_le_bytes(bytes))
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64> {
        let mut bytes = [0; 8];
        self.read_into(&mut bytes, what)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// The next bytes, in memory of their own.
    pub(super) fn bytes(&mut self, bytes: u64, what: &str) -> Result<Vec<u8>> {
        self.need(bytes, what)?;
        let mut buffer = self.file.buffer(bytes)?;
        self.read_into(&mut buffer, what)?;
        Ok(buffer)
    }

    /// The length of the string that follows, which the file has room for.
    pub(super) fn string_len(&mut self, max: u64, what: &str) -> Result<u64> {
        let at = self.at;
        let bytes = self.u64(what)?;
        self.need(bytes, what)?;
        if bytes > max {
            return Err(self.fault(at, format!("{what} has {bytes} bytes; the limit is {max}")));
        }
        Ok(bytes)
    }

    /// A string: its length in bytes, and that many bytes of UTF-8.
    pub(super) fn string(&mut self, max: u64, what: &str) -> Result<String> {
        let bytes = self.string_len(max, what)?;
        let at = self.at;
        let text = String::from_utf8(self.bytes(bytes, what)?);
        text.map_err(|error| self.not_utf8(at, error.utf8_error(), what))
    }

    /// The error for bytes from `at` on.
    pub(super) fn not_utf8(&self, at: u64, error: std::str::Utf8Error, what: &str) -> Error {
        self.fault(at.saturating_add(error.valid_up_to() as u64), format!("{what} is not UTF-8"))
    }
}
