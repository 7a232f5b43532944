//! GGUF files that gguf-py wrote: everything it reads in them is read here, to the bit. `tests/oracle/gguf_oracle.py` made
//! them; `tests/hostile/gguf.rs` holds the files that are refused.

#![cfg(feature = "models")]

use std::path::{Path, PathBuf};

use gristmill::model::Gguf;
use gristmill::model::gguf::{Array, GgmlType, Value, ValueType};
use serde_json::{Value as Json, json};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/gguf")
}

fn open(name: &str) -> (Gguf, Json) {
    let text = std::fs::read_to_string(folder().join("expected.json")).expect("expected.json");
    let mut expected: Json = serde_json::from_str(&text).expect("JSON");
    let gguf = Gguf::open(&folder().join(format!("{name}.gguf"))).expect("a GGUF file");
    (gguf, expected[name].take())
}

/// gguf-py's name of a type.
fn kind_name(kind: ValueType) -> String {
    let name = kind.name().to_uppercase();
    match name.as_bytes() {
        [b'U', b'0'..=b'9', ..] => name.replace('U', "UINT"),
        [b'I', b'0'..=b'9', ..] => name.replace('I', "INT"),
        [b'F', b'0'..=b'9', ..] => name.replace('F', "FLOAT"),
        _ => name,
    }
}

/// A value as the oracle writes it: floats by their bits, 64-bit integers as text.
fn exact(value: &Value) -> Json {
    match value {
        Value::F32(value) => json!(format!("{:08x}", value.to_bits())),
        Value::F64(value) => json!(format!("{:016x}", value.to_bits())),
        Value::U64(value) => json!(value.to_string()),
        Value::I64(value) => json!(value.to_string()),
        Value::U8(value) => json!(value),
        Value::I8(value) => json!(value),
        Value::U16(value) => json!(value),
        Value::I16(value) => json!(value),
        Value::U32(value) => json!(value),
        Value::I32(value) => json!(value),
        Value::Bool(value) => json!(value),
        Value::String(value) => json!(value),
        Value::Array(array) => array.values().map(|value| exact(&value)).collect(),
        other => panic!("a value of type {}", other.kind()),
    }
}

fn checksum(bytes: &[u8]) -> String {
    let step = |total: u64, byte: &u8| (total ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    format!("{:016x}", bytes.iter().fold(0xcbf2_9ce4_8422_2325, step))
}

#[test]
fn metadata_is_that_of_gguf_py() {
    for name in ["metadata", "quants"] {
        let (gguf, expected) = open(name);
        assert_eq!(json!(gguf.alignment()), expected["alignment"]);
        let keys: Vec<(&str, Json)> = gguf
            .metadata()
            .map(|(key, value)| {
                let kinds: Vec<String> = match value {
                    Value::Array(array) => vec!["ARRAY".into(), kind_name(array.kind())],
                    other => vec![kind_name(other.kind())],
                };
                (key, json!({ "type": kinds, "value": exact(value) }))
            })
            .collect();
        let wanted = expected["metadata"].as_object().expect("an object");
        assert_eq!(keys.len(), wanted.len());
        for (key, found) in keys {
            assert_eq!(found, wanted[key], "{name}: {key}");
        }
    }
}

#[test]
fn tensors_are_those_of_gguf_py() {
    for name in ["metadata", "quants"] {
        let (gguf, expected) = open(name);
        let tensors = gguf.names().map(|name| {
            let info = gguf.tensor(name).expect("a tensor");
            json!({
                "name": name,
                "type": info.dtype.name(),
                "shape": info.shape,
                "offset": info.offset(),
                "bytes": info.byte_len(),
                "fnv1a": checksum(&gguf.read(name).expect("its bytes")),
            })
        });
        assert_eq!(tensors.collect::<Json>(), expected["tensors"], "{name}");
    }
}

/// Every type that is read is in the file, and its rows are the pieces of the whole.
#[test]
fn rows_are_pieces_of_the_whole() {
    let (gguf, _) = open("quants");
    let mut kinds = Vec::new();
    for name in gguf.names() {
        let info = gguf.tensor(name).expect("a tensor");
        kinds.push(info.dtype);
        let whole = gguf.read(name).expect("all rows");
        let rows = (0..info.shape[0]).flat_map(|row| gguf.read_rows(name, row..row + 1).expect("a row"));
        assert_eq!(rows.collect::<Vec<u8>>(), whole, "{name}");
    }
    assert!(GgmlType::ALL.iter().all(|kind| kinds.contains(kind)));
    let halves = gguf.read("f16").expect("f16");
    let floats = gguf.read("f16.f32").expect("f16.f32");
    for (half, float) in halves.chunks_exact(2).zip(floats.chunks_exact(4)) {
        let half = gristmill::half::f16::from_le_bytes([half[0], half[1]]);
        assert_eq!(half.to_f32().to_le_bytes(), *float);
    }
}

#[test]
fn getters_have_the_type_they_are_asked_for() {
    let (gguf, _) = open("metadata");
    assert_eq!(gguf.need("general.architecture", Gguf::str).expect("a string"), "test");
    assert_eq!(gguf.u32("test.uint8.1").expect("any width"), Some(255));
    assert_eq!(gguf.u32("test.int64.1").ok(), None, "2^63 - 1");
    assert_eq!(gguf.u32("test.uint32.1").expect("the largest"), Some(u32::MAX));
    assert_eq!(gguf.f32("test.float32.1").expect("subnormal"), Some(f32::from_bits(1)));
    assert_eq!(gguf.bool("test.bool.0").expect("a bool"), Some(true));
    assert_eq!(gguf.bools("test.bool.array").expect("bools"), Some(vec![true, false]));
    assert_eq!(gguf.u32s("test.uint16.array").expect("integers"), Some(vec![0, 65535]));
    assert_eq!(gguf.u32s("test.long").expect("integers"), Some((0..1000).collect()));
    let strings = gguf.need("test.string.array", Gguf::strs).expect("strings");
    assert_eq!(strings.strs().take(3).collect::<Vec<_>>(), ["", "grist", "Mühle 磨 🌾"]);
    assert_eq!(gguf.strs("test.none").expect("no such key").map(Array::len), None);
}
