//! GGUF files made byte by byte, since no writer makes what is wrong on purpose; and what must hold of every one of them.

use gristmill::error::Error;
use gristmill::model::Gguf;
use gristmill::model::gguf::Value;

use super::super::{Folder, Random, memory};

pub(super) const U8: u32 = 0;
pub(super) const I32: u32 = 5;
pub(super) const U32: u32 = 4;
pub(super) const F32: u32 = 6;
pub(super) const BOOL: u32 = 7;
pub(super) const STRING: u32 = 8;
pub(super) const ARRAY: u32 = 9;
pub(super) const U64: u32 = 10;

/// ggml's number of `Q8_0`: 32 elements in 34 bytes.
pub(super) const Q8_0: u32 = 8;

pub(super) fn string(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

/// A key, its type, and the bytes of its value.
pub(super) fn key(name: impl AsRef<[u8]>, kind: u32, value: impl AsRef<[u8]>) -> Vec<u8> {
    [string(name), kind.to_le_bytes().to_vec(), value.as_ref().to_vec()].concat()
}

/// The value of an array: the type and number of its elements, and their bytes.
pub(super) fn array(kind: u32, len: u64, elements: impl AsRef<[u8]>) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &len.to_le_bytes(), elements.as_ref()].concat()
}

/// A record of the tensor table; dimensions innermost first.
pub(super) fn tensor(name: impl AsRef<[u8]>, dims: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut bytes = string(name);
    bytes.extend_from_slice(&(dims.len() as u32).to_le_bytes());
    bytes.extend(dims.iter().flat_map(|dim| dim.to_le_bytes()));
    bytes.extend_from_slice(&kind.to_le_bytes());
    bytes.extend_from_slice(&offset.to_le_bytes());
    bytes
}

pub(super) fn start(version: u32, tensors: u64, keys: u64) -> Vec<u8> {
    [b"GGUF".as_slice(), &version.to_le_bytes(), &tensors.to_le_bytes(), &keys.to_le_bytes()].concat()
}

/// A header alone, then padding to a multiple of `alignment`, then so many bytes of data.
pub(super) fn aligned(alignment: usize, keys: &[Vec<u8>], tensors: &[Vec<u8>], data: usize) -> Vec<u8> {
    let mut bytes = start(3, tensors.len() as u64, keys.len() as u64);
    bytes.extend(keys.concat());
    bytes.extend(tensors.concat());
    bytes.resize(bytes.len().next_multiple_of(alignment), 0);
    bytes.extend((0..data).map(|i| i as u8));
    bytes
}

pub(super) fn file(keys: &[Vec<u8>], tensors: &[Vec<u8>], data: usize) -> Vec<u8> {
    aligned(32, keys, tensors, data)
}

/// A file of one key.
pub(super) fn with(name: impl AsRef<[u8]>, kind: u32, value: impl AsRef<[u8]>) -> Vec<u8> {
    file(&[key(name, kind, value)], &[], 0)
}

/// A file of the tensor `a`, with 64 bytes of data.
pub(super) fn of(dims: &[u64], kind: u32) -> Vec<u8> {
    file(&[], &[tensor("a", dims, kind, 0)], 64)
}

/// A file that loads: metadata of several types, three tensors, the last without its padding.
pub(super) fn small() -> Vec<u8> {
    let keys = [
        key("general.architecture", STRING, string("llama")),
        key("llama.block_count", U32, 2_u32.to_le_bytes()),
        key("tokenizer.ggml.tokens", ARRAY, array(STRING, 3, [string("a"), string(""), string("é")].concat())),
        key("tokenizer.ggml.scores", ARRAY, array(F32, 2, [0; 8])),
        key("flag", BOOL, [1]),
    ];
    let tensors = [tensor("a", &[3, 2], 0, 0), tensor("b", &[32, 2], Q8_0, 32), tensor("c", &[5], 1, 128)];
    file(&keys, &tensors, 138)
}

/// What must become of a file.
pub(super) type Fate = Result<(), &'static str>;
pub(super) const LOADS: Fate = Ok(());

/// Opens a file from memory and from disk, and says what is not as it must be. Then flips bits of it: anything but a
/// panic may become of that.
pub(super) fn check(id: &str, bytes: &[u8], fate: Fate) -> Result<(), String> {
    let folder = Folder::with(&[("x.gguf", bytes)]);
    let path = folder.path("x.gguf");
    let bound = 2 * bytes.len() + (16 << 20);
    let copy = bytes.to_vec();
    for (door, (outcome, peak)) in
        [("memory", memory::peak(|| Gguf::from_memory(copy))), ("disk", memory::peak(|| Gguf::open(&path)))]
    {
        match (&outcome, fate) {
            (Ok(gguf), Ok(())) => read_all(gguf),
            (Err(Error::BadFile { message, offset, .. }), Err(words)) if message.contains(words) => {
                assert!(*offset <= bytes.len() as u64, "{id}: byte {offset} is not in the file");
                assert!(message.len() < 1000, "{id}: {message}");
            }
            _ => return Err(format!("{id} from {door}: {outcome:?}, expected {fate:?}")),
        }
        if peak > bound {
            return Err(format!("{id} from {door}: {peak} bytes of memory, for {} of the file", bytes.len()));
        }
    }
    damage(bytes, 40);
    Ok(())
}

/// Flips bits of a file, most of them in its first kilobyte.
pub(super) fn damage(bytes: &[u8], times: usize) {
    if bytes.is_empty() || bytes.len() > 1 << 16 {
        return;
    }
    let mut random = Random(bytes.len() as u64);
    for _ in 0..times {
        let mut bytes = bytes.to_vec();
        for _ in 0..random.below(3) + 1 {
            let reach = if random.below(4) == 0 { bytes.len() } else { bytes.len().min(1024) };
            bytes[random.below(reach)] ^= 1 << random.below(8);
        }
        let bound = 2 * bytes.len() + (16 << 20);
        let (outcome, peak) = memory::peak(|| Gguf::from_memory(bytes));
        assert!(peak <= bound, "{peak} bytes of memory");
        if let Ok(gguf) = outcome {
            read_all(&gguf);
        }
    }
}

pub(super) fn check_all(rows: Vec<(&str, Vec<u8>, Fate)>) {
    let failures: Vec<String> =
        rows.into_iter().filter_map(|(id, bytes, fate)| check(id, &bytes, fate).err()).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Reads everything a file offers.
pub(super) fn read_all(gguf: &Gguf) {
    for name in gguf.names() {
        let info = gguf.tensor(name).unwrap();
        let bytes = gguf.read(name).unwrap();
        assert_eq!(bytes.len() as u64, info.byte_len());
        if let Some(&rows) = info.shape.first() {
            assert_eq!(gguf.read_rows(name, 0..rows).unwrap(), bytes);
            assert!(gguf.read_rows(name, 0..rows + 1).is_err());
        }
    }
    for (key, value) in gguf.metadata() {
        assert_eq!(gguf.get(key).map(Value::kind), Some(value.kind()));
        let _ = (gguf.u32(key), gguf.f32(key), gguf.bool(key), gguf.str(key));
        let _ = (gguf.u32s(key), gguf.f32s(key), gguf.bools(key), gguf.strs(key));
        if let Value::Array(array) = value {
            assert_eq!(array.values().count(), array.len());
        }
    }
}
