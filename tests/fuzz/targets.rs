//! What is done with hostile bytes, by libFuzzer (`fuzz_targets/`) and by `tests/fuzz.rs`, which runs everywhere.
//!
//! Every target takes any bytes and must return: an error is a result, a panic, an abort or a hang is a find.

#![allow(dead_code, reason = "each fuzz target uses one of these functions")]

use std::fs;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use gristmill::model::gguf::Value;
use gristmill::model::{Checkpoint, Config, Gguf, ModelFiles, SessionOptions, Tokenizer, to_f32};
use gristmill::{ComputeBackend, GpuCompute, GpuModel};

/// Every target by its name, which is that of its seeds' folder.
#[allow(clippy::type_complexity, reason = "a table")]
pub(crate) const TARGETS: [(&str, fn(&[u8])); 5] =
    [("gguf", gguf), ("safetensors", safetensors), ("index", index), ("config", config), ("tokenizer", tokenizer)];

/// A GGUF file: the header, everything it offers, its tokenizer, and the model it is.
pub(crate) fn gguf(data: &[u8]) {
    let Ok(gguf) = Gguf::from_memory(data.to_vec()) else { return };
    let _ = format!("{gguf:?}");
    for name in gguf.names() {
        let info = gguf.tensor(name).expect("a name from the list");
        let bytes = gguf.read(name).expect("a tensor within the file");
        assert_eq!(bytes.len() as u64, info.byte_len());
        if let Some(&rows) = info.shape.first() {
            assert_eq!(gguf.read_rows(name, 0..rows).expect("all rows"), bytes);
        }
    }
    for (key, value) in gguf.metadata() {
        let _ = value.to_string();
        let _ = (gguf.u32(key), gguf.f32(key), gguf.bool(key), gguf.str(key));
        let _ = (gguf.u32s(key), gguf.f32s(key), gguf.bools(key));
        if let (Value::Array(array), Ok(Some(strings))) = (value, gguf.strs(key)) {
            assert_eq!(strings.strs().count(), array.len());
        }
    }
    if let Ok(Some(tokenizer)) = Tokenizer::from_gguf(&gguf) {
        there_and_back(&tokenizer);
    }
    model(&gguf.into());
}

/// Loads a small model and runs a token through it.
fn model(files: &ModelFiles) {
    static CPU: LazyLock<GpuCompute> = LazyLock::new(|| GpuCompute::new(ComputeBackend::Cpu).expect("the CPU backend"));
    let Ok(config) = files.config() else { return };
    let options = SessionOptions { context: 1, ..SessionOptions::new(&config) };
    let Ok(footprint) = GpuModel::footprint(&CPU, files, 1, &options) else { return };
    if footprint.total() > 1 << 24 {
        return;
    }
    if let Ok(model) = GpuModel::from_files_with(&CPU, files, &options) {
        assert_eq!(model.weight_bytes(), footprint.weights);
        let logits = model.forward_gpu(&[0]).expect("a token of any vocabulary");
        assert_eq!(logits.len(), config.vocab_size);
    }
}

/// A safetensors file: the header, then everything it offers.
pub(crate) fn safetensors(data: &[u8]) {
    if let Ok(checkpoint) = Checkpoint::from_memory(b"{}".as_slice(), data.to_vec()) {
        read_all(&checkpoint);
    }
}

/// The index of a folder that has the shards a and b.
pub(crate) fn index(data: &[u8]) {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("gristmill-fuzz-{}-{number}", std::process::id()));
    fs::create_dir_all(&dir).expect("a folder");
    let shard = |name: &str| {
        let header = format!(r#"{{"{name}":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}}}"#);
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), b"x"].concat()
    };
    for (name, bytes) in [
        ("config.json", b"{}".as_slice()),
        ("model.safetensors.index.json", data),
        ("a.safetensors", &shard("x")),
        ("b.safetensors", &shard("y")),
    ] {
        fs::write(dir.join(name), bytes).expect("a file");
    }
    let outcome = Checkpoint::open(&dir);
    if let Ok(checkpoint) = &outcome {
        read_all(checkpoint);
    }
    fs::remove_dir_all(&dir).expect("a folder to remove");
}

fn read_all(checkpoint: &Checkpoint) {
    for name in checkpoint.names() {
        let info = checkpoint.get(name).expect("a name from the list");
        let bytes = checkpoint.read(name).expect("a tensor within the file");
        assert_eq!(bytes.len() as u64, info.byte_len());
        let _ = to_f32(name, info.dtype, &bytes);
        if let Some(&rows) = info.shape.first() {
            let _ = checkpoint.read_rows(name, rows / 2..rows);
        }
    }
}

/// A `config.json`. What loads is checked again, and holds.
pub(crate) fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(config) = Config::from_json(text) {
        config.validate().expect("what from_json returns is valid");
    }
}

/// A `tokenizer.json`, and a text through it and back.
pub(crate) fn tokenizer(data: &[u8]) {
    if let Ok(tokenizer) = Tokenizer::from_bytes(data) {
        there_and_back(&tokenizer);
    }
}

fn there_and_back(tokenizer: &Tokenizer) {
    let _ = format!("{tokenizer:?}");
    let Ok(ids) = tokenizer.encode("The miller's 3 mills;\n\n  ünïcode 磨 <s>") else { return };
    let _ = tokenizer.decode(&ids);
    let mut stream = tokenizer.stream();
    for id in ids.into_iter().chain([0, 1, u32::MAX]) {
        let _ = stream.push(id);
    }
    let _ = stream.finish();
}
