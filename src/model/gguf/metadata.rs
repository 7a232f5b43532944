//! The metadata of a GGUF file: values by name, and the way to the type that a reader expects.

use super::Gguf;
use super::cursor::Cursor;
use super::value::{Array, Elements, Value, ValueType};
use crate::error::{Error, Result};
use crate::model::checkpoint::json::show;

/// Longest key, in bytes: the specification's.
const MAX_KEY: u64 = 65_535;
/// Longest string, in bytes. The longest that models have are chat templates, of some ten thousand.
const MAX_STRING: u64 = 16 << 20;
/// Most elements of an array. The longest that models have are merges, half a million.
const MAX_ARRAY: u64 = 1 << 20;

fn value_type(cursor: &mut Cursor<'_>, what: &str) -> Result<ValueType> {
    let at = cursor.at();
    let number = cursor.u32(what)?;
    let known = usize::try_from(number).ok().and_then(|place| ValueType::ALL.get(place)).copied();
    known.ok_or_else(|| cursor.fault(at, format!("{what} has type {number}; there are types 0 to 12")))
}

fn array(cursor: &mut Cursor<'_>, what: &str) -> Result<Array> {
    let at = cursor.at();
    let kind = value_type(cursor, what)?;
    if kind == ValueType::Array {
        return Err(cursor.fault(at, format!("{what} is an array of arrays, which is not read")));
    }
    let at = cursor.at();
    let len = cursor.u64(what)?;
    if len > MAX_ARRAY {
        return Err(cursor.fault(at, format!("{what} is an array of {len} elements; the limit is {MAX_ARRAY}")));
    }
    let elements = match kind {
        ValueType::String => strings(cursor, len, what)?,
        _ => Elements::Numbers(cursor.bytes(len.saturating_mul(kind.row().1), what)?),
    };
    if let (ValueType::Bool, Elements::Numbers(bytes)) = (kind, &elements) {
        check_bools(cursor, bytes, what)?;
    }
    Ok(Array { kind, elements })
}

/// The cursor is behind these bytes.
fn check_bools(cursor: &Cursor<'_>, bytes: &[u8], what: &str) -> Result<()> {
    let Some((place, byte)) = bytes.iter().enumerate().find(|(_, byte)| **byte > 1) else { return Ok(()) };
    let behind = bytes.len().saturating_sub(place) as u64;
    Err(cursor.fault(cursor.at().saturating_sub(behind), format!("{what} has a bool of {byte}; 0 and 1 are possible")))
}

/// Strings are read twice: their lengths, and once it is known how much there is, their text.
fn strings(cursor: &mut Cursor<'_>, len: u64, what: &str) -> Result<Elements> {
    cursor.need(len.saturating_mul(8), what)?;
    let start = cursor.at();
    let mut total = 0_u64;
    for _ in 0..len {
        let bytes = cursor.string_len(MAX_STRING, what)?;
        total = total.saturating_add(bytes);
        cursor.go_to(cursor.at().saturating_add(bytes));
    }
    cursor.go_to(start);
    let mut ends: Vec<u32> = Vec::new();
    let no_memory = |_| Error::OutOfMemory { bytes: len.saturating_mul(4), context: what.to_owned() };
    ends.try_reserve_exact(len as usize).map_err(no_memory)?;
    let mut text = cursor.file().buffer(total)?;
    let mut rest = text.as_mut_slice();
    for _ in 0..len {
        let bytes = cursor.string_len(MAX_STRING, what)? as usize;
        let at = cursor.at();
        // A file that changes between the two readings is no longer what was counted.
        let Some((string, behind)) = std::mem::take(&mut rest).split_at_mut_checked(bytes) else {
            return Err(cursor.fault(at, format!("{what}: the file was changed while it was read")));
        };
        cursor.read_into(string, what)?;
        std::str::from_utf8(string).map_err(|error| cursor.not_utf8(at, error, what))?;
        ends.push((bytes as u32).saturating_add(ends.last().copied().unwrap_or(0)));
        rest = behind;
    }
    let text = String::from_utf8(text).map_err(|error| cursor.not_utf8(start, error.utf8_error(), what))?;
    Ok(Elements::Strings { text, ends })
}

/// A value, and where in the file its key begins.
pub(super) struct Entry {
    pub(super) at: u64,
    pub(super) value: Value,
}

/// The next key and its value.
pub(super) fn entry(cursor: &mut Cursor<'_>) -> Result<(Box<str>, Entry)> {
    let at = cursor.at();
    let key = cursor.string(MAX_KEY, "a metadata key")?;
    // The specification says lower case; names of chat templates are not.
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if key.is_empty() || !key.chars().all(plain) {
        let message = format!("`{}` is no metadata key: letters, digits, `_`, `-` and `.` are expected", show(&key));
        return Err(cursor.fault(at, message));
    }
    let what = format!("metadata `{}`", show(&key));
    let value = match value_type(cursor, &what)? {
        ValueType::String => Value::String(cursor.string(MAX_STRING, &what)?),
        ValueType::Array => Value::Array(array(cursor, &what)?.into()),
        kind => {
            let at = cursor.at();
            let bytes = cursor.bytes(kind.row().1, &what)?;
            let not_bool = || cursor.fault(at, format!("{what} is a bool of {bytes:?}; 0 and 1 are possible"));
            Value::decode(kind, &bytes).ok_or_else(not_bool)?
        }
    };
    Ok((key.into(), Entry { at, value }))
}

/// Metadata by type. `None`: the file has no such key; [`Gguf::need`] makes that an error.
impl Gguf {
    /// Every key and its value, in the order of the file.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.metadata.iter().map(|(key, entry)| (key, &entry.value))
    }

    /// The value of a key, of whatever type it is.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key).map(|entry| &entry.value)
    }

    /// What a getter finds, where there must be something: `gguf.need("llama.block_count", Gguf::u32)`.
    ///
    /// # Errors
    /// [`Error::BadFile`], naming the key, if the file has none of that name; those of the getter.
    pub fn need<'a, T>(&'a self, key: &str, get: impl FnOnce(&'a Gguf, &str) -> Result<Option<T>>) -> Result<T> {
        let missing = || self.file.fault(self.metadata_end, format!("the metadata ends without `{key}`"));
        get(self, key)?.ok_or_else(missing)
    }

    /// An integer of any width, if a `u32` can hold its value.
    ///
    /// # Errors
    /// [`Error::BadFile`], naming the key, its byte, its value and its type, if it is something else.
    pub fn u32(&self, key: &str) -> Result<Option<u32>> {
        self.typed(key, "an integer from 0 to 2^32 - 1", Value::as_u32)
    }

    /// An f32.
    ///
    /// # Errors
    /// As [`Gguf::u32`]; also for NaN and infinities.
    pub fn f32(&self, key: &str) -> Result<Option<f32>> {
        self.typed(key, "a finite f32", Value::as_f32)
    }

    /// A bool.
    ///
    /// # Errors
    /// As [`Gguf::u32`].
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "a bool", Value::as_bool)
    }

    /// A string.
    ///
    /// # Errors
    /// As [`Gguf::u32`].
    pub fn str(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// An array of integers of any width, if a `u32` can hold the value of each.
    ///
    /// # Errors
    /// As [`Gguf::u32`].
    pub fn u32s(&self, key: &str) -> Result<Option<Vec<u32>>> {
        self.typed(key, "an array of integers from 0 to 2^32 - 1", |value| each(value, Value::as_u32))
    }

    /// An array of f32.
    ///
    /// # Errors
    /// As [`Gguf::u32`]; also for NaN and infinities in it.
    pub fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>> {
        self.typed(key, "an array of finite f32", |value| each(value, Value::as_f32))
    }

    /// An array of bools.
    ///
    /// # Errors
    /// As [`Gguf::u32`].
    pub fn bools(&self, key: &str) -> Result<Option<Vec<bool>>> {
        self.typed(key, "an array of bools", |value| each(value, Value::as_bool))
    }

    /// An array of strings; [`Array::strs`] goes through them.
    ///
    /// # Errors
    /// As [`Gguf::u32`].
    pub fn strs(&self, key: &str) -> Result<Option<&Array>> {
        self.typed(key, "an array of strings", |value| match value {
            Value::Array(array) if array.kind == ValueType::String => Some(array.as_ref()),
            _ => None,
        })
    }

    /// An error about the value of a key, at its byte in the file.
    pub(in crate::model) fn bad_key(&self, key: &str, message: impl std::fmt::Display) -> Error {
        let at = self.metadata.get(key).map_or(self.metadata_end, |entry| entry.at);
        self.file.fault(at, format!("metadata `{key}`: {message}"))
    }

    fn typed<'a, T>(&'a self, key: &str, wanted: &str, of: impl FnOnce(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(Entry { at, value }) = self.metadata.get(key) else { return Ok(None) };
        let wrong = || {
            let kind = match value {
                Value::Array(array) => format!("array of {}", array.kind),
                other => other.kind().to_string(),
            };
            self.file.fault(*at, format!("metadata `{key}` is {value} ({kind}); {wanted} is expected"))
        };
        of(value).ok_or_else(wrong).map(Some)
    }
}

/// The elements of an array, if there is an array and each is as wanted.
fn each<T>(value: &Value, of: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    match value {
        Value::Array(array) => array.values().map(|value| of(&value)).collect(),
        _ => None,
    }
}
