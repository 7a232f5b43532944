//! JSON from strangers: bounded before a parser sees it, and errors that know their byte.
//!
//! serde_json is safe on any input, but it is generous: it quotes a wrong 60 MiB string in its error message, and it
//! skips unknown values to any depth. One pass over the text beforehand bounds both, so that reading a file never
//! takes much more memory than the file has bytes.

use std::path::Path;

use serde::Deserialize;

use crate::error::Error;

/// Deepest nesting of objects and lists. The files read here need three.
const MAX_DEPTH: u32 = 64;

/// Longest string, in bytes between its quotes, escapes counted as written.
const MAX_STRING: u64 = 1 << 20;

/// Something wrong at a byte of a file whose path the finder does not know.
#[derive(Debug)]
pub(crate) struct Fault {
    /// Byte offset in the text, or in the file once [`Fault::shifted`].
    pub(crate) offset: u64,
    /// What is wrong there.
    pub(crate) message: String,
}

impl Fault {
    pub(crate) fn new(offset: u64, message: impl Into<String>) -> Self {
        Self { offset, message: message.into() }
    }

    /// The same fault, told from the start of a file in which the text begins at byte `start`.
    pub(crate) fn shifted(self, start: u64) -> Self {
        Self { offset: self.offset.saturating_add(start), ..self }
    }

    /// The fault as an error about this file.
    pub(crate) fn in_file(self, path: &Path) -> Error {
        Error::BadFile { path: path.into(), offset: self.offset, message: self.message }
    }
}

/// Parses a text that must hold one JSON object.
pub(crate) fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Fault> {
    // serde would also take a list of a struct's fields in order; the formats do not say so.
    if !text.trim_start().starts_with('{') {
        return Err(Fault::new(0, "is not a JSON object: it does not start with `{`"));
    }
    check_bounds(text)?;
    serde_json::from_str(text).map_err(|error| Fault::new(offset(text, &error), message(&error)))
}

/// Refuses nesting and strings beyond the caps. Whatever is not JSON passes: telling is the parser's work.
fn check_bounds(text: &str) -> Result<(), Fault> {
    let mut depth = 0_u32;
    let mut string_start = None;
    let mut escaped = false;
    let mut at = 0_u64;
    for &byte in text.as_bytes() {
        match (string_start, byte) {
            (Some(start), _) if at.saturating_sub(start) > MAX_STRING + 1 => {
                return Err(Fault::new(start, format!("a string of over {MAX_STRING} bytes")));
            }
            (Some(_), _) if escaped => escaped = false,
            (Some(_), b'\\') => escaped = true,
            (Some(_), b'"') => string_start = None,
            (Some(_), _) => {}
            (None, b'"') => string_start = Some(at),
            (None, b'{' | b'[') if depth == MAX_DEPTH => {
                return Err(Fault::new(at, format!("nesting deeper than {MAX_DEPTH}")));
            }
            (None, b'{' | b'[') => depth = depth.saturating_add(1),
            (None, b'}' | b']') => depth = depth.saturating_sub(1),
            (None, _) => {}
        }
        at = at.saturating_add(1);
    }
    Ok(())
}

/// Where the parser gave up: the byte it refused, or the one before if it had only looked at that byte. serde_json
/// counts lines and columns from one, columns in bytes.
fn offset(text: &str, error: &serde_json::Error) -> u64 {
    let lines_before = error.line().saturating_sub(1);
    let line_start: usize = text.split_inclusive('\n').take(lines_before).map(str::len).sum();
    (line_start as u64).saturating_add(error.column().saturating_sub(1) as u64)
}

/// The parser's words without its line and column, which [`Error::BadFile`] says as a byte offset.
fn message(error: &serde_json::Error) -> String {
    let words = error.to_string();
    let end = if error.line() > 0 { words.rfind(" at line ") } else { None };
    clip(end.and_then(|end| words.get(..end)).unwrap_or(&words), 400)
}

/// Text from a file, made fit for a message: clipped, and escaped, so that it cannot drive the reader's terminal.
pub(crate) fn show(text: &str) -> String {
    let mut shown = String::new();
    for c in clip(text, 80).chars() {
        match c {
            '"' | '\'' | '\\' => shown.push(c),
            _ => shown.extend(c.escape_debug()),
        }
    }
    shown
}

fn clip(text: &str, max_chars: usize) -> String {
    match text.char_indices().nth(max_chars) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text.into(),
    }
}
