//! The header of a GGUF file: counts, metadata, and the table of tensors.
//!
//! ```text
//! "GGUF"  u32 version  u64 tensors  u64 keys
//! keys x  { string key, u32 type, value }            string = u64 bytes, UTF-8
//! tensors x { string name, u32 dims, u64 x dims (innermost first), u32 type, u64 offset }
//! zeros to a multiple of `general.alignment`, 32 unless stated; then the tensors' bytes, each padded alike
//! ```
//!
//! Offsets count from the start of the tensors' bytes. The rules are llama.cpp's, and stricter where it is lenient: no
//! dimension of zero, no alignment below 8, nothing after the last tensor.

use super::cursor::Cursor;
use super::metadata::{self, Entry};
use super::types::GgmlType;
use super::value::Value;
use super::{Named, TensorInfo};
use crate::error::{Error, Result};
use crate::model::checkpoint::header::check_name;
use crate::model::checkpoint::json::show;
use crate::model::file::ModelFile;

/// Most keys of metadata. Models have some forty.
const MAX_KEYS: u64 = 65_536;
/// Most tensors. The largest models have some two thousand.
const MAX_TENSORS: u64 = 65_536;
/// Longest tensor name, in bytes: the specification's.
const MAX_NAME: u64 = 64;
/// Most dimensions of a tensor: ggml's.
const MAX_DIMS: u32 = 4;
/// What a key takes at least: a length, one byte, a type, a value of one byte.
const MIN_KEY: u64 = 8 + 1 + 4 + 1;
/// What a tensor takes at least: a length, one byte, no dimensions, a type, an offset.
const MIN_TENSOR: u64 = 8 + 1 + 4 + 4 + 8;
const ALIGNMENT: &str = "general.alignment";
const SPLIT: &str = "split.count";

/// All that stands before the tensors' bytes, checked.
pub(super) struct Header {
    pub(super) metadata: Named<Entry>,
    pub(super) metadata_end: u64,
    pub(super) alignment: u64,
    pub(super) tensors: Named<TensorInfo>,
}

/// Reads the header. No more is allocated for it than the file has room to mean.
pub(super) fn read(file: &ModelFile) -> Result<Header> {
    let cursor = &mut Cursor::new(file);
    let (tensors, keys) = counts(cursor)?;

    let mut metadata = room(keys)?;
    for _ in 0..keys {
        metadata.push(metadata::entry(cursor)?);
    }
    let metadata = Named::new(metadata);
    if let Some((key, entry)) = metadata.twice() {
        return Err(file.fault(entry.at, format!("metadata `{key}` is given twice")));
    }
    let metadata_end = cursor.at();
    let alignment = alignment(file, &metadata)?;
    refuse_split(file, &metadata)?;

    let mut table = room(tensors)?;
    for _ in 0..tensors {
        table.push(tensor(cursor)?);
    }
    let mut tensors = Named::new(table);
    if let Some((name, info)) = tensors.twice() {
        return Err(file.fault(info.record, format!("tensor `{}` is given twice", show(name))));
    }
    place(file, cursor.at(), alignment, &mut tensors)?;
    Ok(Header { metadata, metadata_end, alignment, tensors })
}

/// Magic, version and the two counts, which the file has room for.
fn counts(cursor: &mut Cursor<'_>) -> Result<(u64, u64)> {
    let mut magic = [0; 4];
    cursor.read_into(&mut magic, "the magic")?;
    if magic != *b"GGUF" {
        let message = match &magic {
            b"FUGG" => "starts with `FUGG`: its bytes are swapped; convert it to little-endian".to_owned(),
            other => format!("is no GGUF file: it starts with `{}`, not `GGUF`", other.escape_ascii()),
        };
        return Err(cursor.fault(0, message));
    }
    let version = cursor.u32("the version")?;
    if version != 3 {
        let message = match version {
            1 | 2 => format!("is GGUF version {version}; version 3 is read, convert it anew"),
            // A big-endian file differs from here on only.
            _ if version & 0xffff == 0 && version != 0 => {
                let version = version.swap_bytes();
                format!("is a big-endian file of GGUF version {version}; little-endian ones are read, convert it")
            }
            _ => format!("is GGUF version {version}, which is unknown; version 3 is read"),
        };
        return Err(cursor.fault(4, message));
    }
    let at = cursor.at();
    let tensors = cursor.u64("the number of tensors")?;
    let keys = cursor.u64("the number of metadata keys")?;
    for (at, count, what, min, max) in [
        (at, tensors, "tensors", MIN_TENSOR, MAX_TENSORS),
        (at.saturating_add(8), keys, "metadata keys", MIN_KEY, MAX_KEYS),
    ] {
        if count > max {
            return Err(cursor.fault(at, format!("{count} {what} are announced; the limit is {max}")));
        }
        if count.saturating_mul(min) > cursor.left() {
            let left = cursor.left();
            let message = format!("{count} {what} of at least {min} bytes are announced, {left} bytes follow");
            return Err(cursor.fault(at, message));
        }
    }
    Ok((tensors, keys))
}

/// A vector for so many things, which the file has room for.
fn room<T>(count: u64) -> Result<Vec<T>> {
    let mut vector = Vec::new();
    let bytes = count.saturating_mul(size_of::<T>() as u64);
    let no_memory = |_| Error::OutOfMemory { bytes, context: "the header of a GGUF file".into() };
    vector.try_reserve_exact(count as usize).map_err(no_memory)?;
    Ok(vector)
}

fn alignment(file: &ModelFile, metadata: &Named<Entry>) -> Result<u64> {
    match metadata.get(ALIGNMENT) {
        None => Ok(32),
        Some(Entry { value: Value::U32(alignment), .. })
            if alignment.is_power_of_two() && (8..=65_536).contains(alignment) =>
        {
            Ok(u64::from(*alignment))
        }
        Some(Entry { at, value }) => {
            let message = format!(
                "metadata `{ALIGNMENT}` is {value} ({}); a u32 is expected, a power of two from 8 to 65536",
                value.kind()
            );
            Err(file.fault(*at, message))
        }
    }
}

/// A model in several files would lack tensors. Zero or one file is the whole, by what llama.cpp writes.
fn refuse_split(file: &ModelFile, metadata: &Named<Entry>) -> Result<()> {
    match metadata.get(SPLIT) {
        Some(Entry { at, value }) if value.as_u32().is_none_or(|count| count > 1) => {
            let message = format!(
                "metadata `{SPLIT}` is {value}: a part of a model in several files, which are not read; merge them \
                 with `llama-gguf-split --merge`"
            );
            Err(file.fault(*at, message))
        }
        _ => Ok(()),
    }
}

/// The next tensor of the table. Its `begin` is not yet moved to where it is in the file.
fn tensor(cursor: &mut Cursor<'_>) -> Result<(Box<str>, TensorInfo)> {
    let record = cursor.at();
    let name = cursor.string(MAX_NAME, "a tensor name")?;
    check_name(&name).map_err(|message| cursor.fault(record, message))?;
    let what = format!("tensor `{}`", show(&name));
    let at = cursor.at();
    let dims = cursor.u32(&what)?;
    if dims > MAX_DIMS {
        return Err(cursor.fault(at, format!("{what} has {dims} dimensions; the limit is {MAX_DIMS}")));
    }
    let at = cursor.at();
    let mut shape = Vec::with_capacity(dims as usize);
    for _ in 0..dims {
        shape.push(cursor.u64(&what)?);
    }
    let dim = |dim: u64| usize::try_from(dim).map_err(|_| cursor.fault(at, format!("{what} has a dimension of {dim}")));
    let shape = shape.into_iter().rev().map(dim).collect::<Result<Vec<usize>>>()?;
    let type_at = cursor.at();
    let kind = GgmlType::from_number(cursor.u32(&what)?);
    let kind = kind.map_err(|message| cursor.fault(type_at, format!("{what} {message}")))?;
    let bytes = kind.byte_len(&shape).map_err(|message| cursor.fault(at, format!("{what} {message}")))?;
    let begin = cursor.u64(&what)?;
    Ok((name.into(), TensorInfo { dtype: kind, shape, begin, bytes, record }))
}

/// Checks that the tensors lie in order behind the header, without gap or overlap but for padding, and end with the file;
/// and moves their offsets from the start of the data to the start of the file.
fn place(file: &ModelFile, header_end: u64, alignment: u64, tensors: &mut Named<TensorInfo>) -> Result<()> {
    let mut padded_end = header_end.checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
    let data = padded_end;
    for (name, info) in tensors.iter_mut() {
        let fault = |message: String| file.fault(info.record, format!("tensor `{}` {message}", show(name)));
        let offset = info.begin;
        if !offset.is_multiple_of(alignment) {
            return Err(fault(format!("is at offset {offset} of the data, no multiple of the alignment {alignment}")));
        }
        let wanted = padded_end.saturating_sub(data);
        if offset != wanted {
            return Err(fault(format!(
                "is at offset {offset} of the data; tensors lie in order without gap or overlap, so it is at {wanted}"
            )));
        }
        info.begin = padded_end;
        // Whatever saturates is beyond any file's end.
        let end = padded_end.saturating_add(info.bytes);
        padded_end = end.checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
        if end > file.len() {
            let message = format!(
                "the file ends here; tensor `{}` has bytes {} to {end}, fetch the file again",
                show(name),
                info.begin
            );
            return Err(file.fault(file.len(), message));
        }
    }
    // The padding behind the last tensor, or behind a header without tensors, may be missing.
    if file.len() > padded_end {
        let message = format!("{} bytes follow the last tensor", file.len().saturating_sub(padded_end));
        return Err(file.fault(padded_end, message));
    }
    Ok(())
}
