//! The header of a safetensors file: from bytes to tensors, without touching a file.
//!
//! A file is eight bytes that say the header's length `n`, `n` bytes of JSON, and the tensors' bytes, packed. The rules
//! are those of Hugging Face's `safetensors` crate, and stricter where it is lenient: no name twice, no unknown keys,
//! nothing in the header but what the format defines. `tests/hostile.rs` holds the two against each other, file by
//! file.
//!
//! The crate itself is not used here. On the way to its `Metadata` it holds 800 bytes for each tensor, and while it
//! reads a hostile shape 25 for each byte of the file (measured: 1.5 GiB for 60 MiB); and its errors do not say which
//! tensor is wrong.

use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::json::{self, Fault, show};
use super::{StoredType, TensorInfo};

/// Bytes before the header: its length, as a little-endian u64.
pub(super) const PREFIX: u64 = 8;

/// Longest header, in bytes. GPT-2's has 14 KiB; the format allows 100 MB.
const MAX_HEADER: u64 = 64 << 20;

/// Most tensors in one file.
pub(super) const MAX_TENSORS: usize = 65_536;

/// Longest tensor name, in bytes.
const MAX_NAME: usize = 1024;

/// Most dimensions of a tensor.
const MAX_DIMS: usize = 8;

/// Most entries of `__metadata__`, the format's place for free text.
const MAX_NOTES: usize = 4096;

/// The header's length in bytes, from the first eight bytes of a file of `file_len` bytes.
pub(super) fn length(prefix: [u8; PREFIX as usize], file_len: u64) -> Result<u64, Fault> {
    let length = u64::from_le_bytes(prefix);
    let room = file_len.saturating_sub(PREFIX);
    if length > room {
        let message = format!("a header of {length} bytes is announced, {room} bytes follow");
        return Err(Fault::new(0, message));
    }
    if length > MAX_HEADER {
        let message = format!("a header of {length} bytes is announced; the limit is {MAX_HEADER}");
        return Err(Fault::new(0, message));
    }
    if length < 2 {
        return Err(Fault::new(0, format!("a header of {length} bytes cannot be a JSON object")));
    }
    Ok(length)
}

/// The tensors a header describes, by name, with their byte ranges counted from the start of the file.
///
/// `file_len` is the length of the whole file: the tensors must fill it to its last byte. `shard` is noted in each.
pub(super) fn parse(header: &[u8], file_len: u64, shard: usize) -> Result<BTreeMap<String, TensorInfo>, Fault> {
    let text = std::str::from_utf8(header)
        .map_err(|error| Fault::new(error.valid_up_to() as u64, "the header is not UTF-8").shifted(PREFIX))?;
    // The format asks for `{` as the very first byte, so that a file cannot pass for two kinds at once.
    if !text.starts_with('{') {
        return Err(Fault::new(PREFIX, "the header does not start with `{`"));
    }
    let Header(mut tensors) = json::parse(text).map_err(|fault| fault.shifted(PREFIX))?;
    let data_start = PREFIX.saturating_add(header.len() as u64);
    place(&mut tensors, data_start, file_len)?;
    for info in tensors.values_mut() {
        info.shard = shard;
    }
    Ok(tensors)
}

/// Checks that the tensors' ranges fit their shapes and tile the data without gap or overlap, and moves the ranges from
/// the start of the data to the start of the file.
fn place(tensors: &mut BTreeMap<String, TensorInfo>, data_start: u64, file_len: u64) -> Result<(), Fault> {
    let mut in_order: Vec<_> = tensors.iter_mut().collect();
    in_order.sort_by_key(|(_, info)| (info.begin, info.end));
    let mut next = data_start;
    for (name, info) in in_order {
        let fault = |message: String| Fault::new(next, format!("tensor `{}` {message}", show(name)));
        let (begin, end) = (info.begin, info.end);
        let beyond = || fault(format!("ends beyond any file, at data_offsets [{begin}, {end}]"));
        info.begin = data_start.checked_add(begin).ok_or_else(beyond)?;
        info.end = data_start.checked_add(end).ok_or_else(beyond)?;
        if info.begin != next {
            return Err(fault(format!(
                "starts at byte {}; tensors lie end to end, without gap or overlap",
                info.begin
            )));
        }
        let (dtype, shape) = (info.dtype, &info.shape);
        let needed = dtype
            .byte_len(shape)
            .ok_or_else(|| fault(format!("of type {dtype} and shape {shape:?} has no size in whole bytes")))?;
        if end.checked_sub(begin) != Some(needed) {
            return Err(fault(format!(
                "of type {dtype} and shape {shape:?} needs {needed} bytes; its data_offsets are [{begin}, {end}]"
            )));
        }
        next = info.end;
    }
    match file_len.checked_sub(next) {
        Some(0) => Ok(()),
        Some(extra) => Err(Fault::new(next, format!("{extra} bytes follow the last tensor"))),
        None => Err(Fault::new(
            file_len,
            format!("the file ends here, its last tensor at byte {next}; fetch the file again"),
        )),
    }
}

/// A tensor's name: not empty, not long, and printable, for it will stand in messages.
pub(in crate::model) fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("a tensor without a name".into());
    }
    if name.len() > MAX_NAME {
        return Err(format!("a tensor name of {} bytes; the limit is {MAX_NAME}", name.len()));
    }
    if name.chars().any(char::is_control) {
        return Err(format!("control characters in the tensor name `{}`", show(name)));
    }
    Ok(())
}

/// The header's JSON object: tensors by name, their ranges still counted from the start of the data.
struct Header(BTreeMap<String, TensorInfo>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut tensors = BTreeMap::new();
        let mut notes = None;
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                set_once(&mut notes, "__metadata__", map.next_value::<Notes>()?)?;
                continue;
            }
            check_name(&name).map_err(A::Error::custom)?;
            if tensors.len() == MAX_TENSORS {
                return Err(A::Error::custom(format!("more than {MAX_TENSORS} tensors")));
            }
            let Entry(info) = map.next_value()?;
            match tensors.entry(name) {
                Slot::Vacant(slot) => slot.insert(info),
                Slot::Occupied(slot) => return Err(twice(slot.key())),
            };
        }
        Ok(Header(tensors))
    }
}

/// One tensor's description: `{"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}`, in any order.
struct Entry(TensorInfo);

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntryVisitor)
    }
}

struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a tensor's dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entry, A::Error> {
        let (mut dtype, mut shape, mut offsets) = (None, None, None);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "dtype" => {
                    let name: String = map.next_value()?;
                    let known = StoredType::from_name(&name)
                        .ok_or_else(|| A::Error::custom(format!("unknown dtype `{}`", show(&name))))?;
                    set_once(&mut dtype, "dtype", known)?;
                }
                "shape" => set_once(&mut shape, "shape", map.next_value::<Shape>()?)?,
                "data_offsets" => set_once(&mut offsets, "data_offsets", map.next_value()?)?,
                // A key of some later format could change what the bytes mean.
                other => return Err(A::Error::custom(format!("unknown key `{}`", show(other)))),
            }
        }
        let dtype = dtype.ok_or_else(|| A::Error::missing_field("dtype"))?;
        let Shape(shape) = shape.ok_or_else(|| A::Error::missing_field("shape"))?;
        let (begin, end) = offsets.ok_or_else(|| A::Error::missing_field("data_offsets"))?;
        Ok(Entry(TensorInfo { dtype, shape, shard: 0, begin, end }))
    }
}

/// Dimensions, counted while they are read: a shape of millions is never held.
struct Shape(Vec<usize>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of dimensions")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
        let mut shape = Vec::new();
        while let Some(dim) = seq.next_element::<usize>()? {
            if shape.len() == MAX_DIMS {
                return Err(A::Error::custom(format!("more than {MAX_DIMS} dimensions")));
            }
            shape.push(dim);
        }
        Ok(Shape(shape))
    }
}

/// `__metadata__`: strings by name, as the format has it. Checked and forgotten; nothing here depends on them.
struct Notes;

impl<'de> Deserialize<'de> for Notes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(NotesVisitor)
    }
}

struct NotesVisitor;

impl<'de> Visitor<'de> for NotesVisitor {
    type Value = Notes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("__metadata__ as an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Notes, A::Error> {
        let mut names = BTreeSet::new();
        while let Some((name, _)) = map.next_entry::<String, String>()? {
            if names.len() == MAX_NOTES {
                return Err(A::Error::custom(format!("more than {MAX_NOTES} __metadata__ entries")));
            }
            if names.contains(&name) {
                return Err(twice(&name));
            }
            names.insert(name);
        }
        Ok(Notes)
    }
}

/// JSON parsers differ in which of two equal keys they keep, so a file with both means two things.
fn twice<E: serde::de::Error>(name: &str) -> E {
    E::custom(format!("`{}` is given twice", show(name)))
}

fn set_once<T, E: serde::de::Error>(slot: &mut Option<T>, name: &str, value: T) -> Result<(), E> {
    match slot.replace(value) {
        Some(_) => Err(twice(name)),
        None => Ok(()),
    }
}
