//! `inspect`: what a model file says about itself, without reading a weight.

use std::path::{Path, PathBuf};

use gristmill::model::Checkpoint;
use gristmill::model::gguf::{Array, Gguf, Value as Metadata};
use serde_json::{Map, Value, json};

use crate::failure::{Failure, Outcome};
use crate::output::{Form, object, print, table};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A GGUF file, or a Hugging Face folder
    #[arg(value_name = "FILE")]
    model: PathBuf,
    #[command(flatten)]
    form: Form,
}

/// One tensor, as both kinds of files have it.
struct Tensor {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    bytes: u64,
}

/// One key of metadata.
struct Key {
    name: String,
    kind: String,
    /// In a line of text.
    text: String,
    /// All of it.
    value: Value,
}

/// What there is to tell.
struct Found {
    format: &'static str,
    metadata: Vec<Key>,
    tensors: Vec<Tensor>,
}

pub(crate) fn run(args: &Args) -> Result<Outcome, Failure> {
    let found = if args.model.is_dir() { folder(&args.model)? } else { gguf(&args.model)? };
    if !args.form.json {
        print(&report(&found))?;
    }
    args.form.document(&document(&args.model, &found))?;
    Ok(Outcome::Done)
}

fn gguf(path: &Path) -> Result<Found, Failure> {
    let gguf = Gguf::open(path)?;
    let metadata = gguf.metadata().map(|(name, value)| {
        let kind = match value {
            Metadata::Array(array) => format!("{}[{}]", array.kind(), array.len()),
            other => other.kind().to_string(),
        };
        Key { name: name.to_owned(), kind, text: value.to_string(), value: in_json(value) }
    });
    let tensors = gguf.names().filter_map(|name| {
        let info = gguf.tensor(name)?;
        let (dtype, bytes) = (info.dtype.name(), info.byte_len());
        Some(Tensor { name: name.to_owned(), dtype, shape: info.shape.clone(), bytes })
    });
    Ok(Found { format: "GGUF version 3", metadata: metadata.collect(), tensors: tensors.collect() })
}

/// The metadata of a folder is its config.json, whether or not we run such a model.
fn folder(path: &Path) -> Result<Found, Failure> {
    let checkpoint = Checkpoint::open(path)?;
    let config: Map<String, Value> = serde_json::from_str(checkpoint.config_json()).map_err(|error| {
        gristmill::Error::BadFile { path: path.join("config.json"), offset: 0, message: error.to_string() }
    })?;
    let metadata = config.into_iter().map(|(name, value)| {
        let text = format!("{:?}", shorten(&value.to_string()));
        Key { name, kind: "json".to_owned(), text: text.trim_matches('"').to_owned(), value }
    });
    let tensors = checkpoint.names().filter_map(|name| {
        let info = checkpoint.get(name)?;
        let (dtype, bytes) = (info.dtype.name(), info.byte_len());
        Some(Tensor { name: name.to_owned(), dtype, shape: info.shape.clone(), bytes })
    });
    Ok(Found { format: "safetensors", metadata: metadata.collect(), tensors: tensors.collect() })
}

/// JSON has no NaN and no infinities: they become null.
fn in_json(value: &Metadata) -> Value {
    let all = |array: &Array| array.values().map(|value| in_json(&value)).collect();
    match value {
        Metadata::U8(value) => json!(value),
        Metadata::I8(value) => json!(value),
        Metadata::U16(value) => json!(value),
        Metadata::I16(value) => json!(value),
        Metadata::U32(value) => json!(value),
        Metadata::I32(value) => json!(value),
        Metadata::U64(value) => json!(value),
        Metadata::I64(value) => json!(value),
        Metadata::F32(value) => json!(value),
        Metadata::F64(value) => json!(value),
        Metadata::Bool(value) => json!(value),
        Metadata::String(value) => json!(value),
        Metadata::Array(array) => all(array),
        _ => Value::Null,
    }
}

fn shorten(text: &str) -> String {
    const CHARS: usize = 80;
    match text.char_indices().nth(CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

fn report(found: &Found) -> String {
    let widest = |of: fn(&Key) -> &str| found.metadata.iter().map(|key| of(key).len()).max().unwrap_or(0);
    let (names, kinds) = (widest(|key| &key.name), widest(|key| &key.kind));
    let lines = found.metadata.iter().map(|Key { name, kind, text, .. }| {
        // A name from a config may hold anything.
        let name = name.escape_debug().to_string();
        format!("  {name:<names$}  {kind:<kinds$}  {text}\n")
    });
    let (count, tensors) = (found.metadata.len(), found.tensors.len());
    let mut text = format!("{}\n\n{count} keys\n{}\n{tensors} tensors\n", found.format, lines.collect::<String>());
    let rows: Vec<Vec<String>> = found
        .tensors
        .iter()
        .map(|tensor| {
            let name = format!("  {}", tensor.name.escape_debug());
            vec![name, tensor.dtype.to_owned(), format!("{:?}", tensor.shape), format!("{} bytes", tensor.bytes)]
        })
        .collect();
    text += &table(&rows);
    let total: u64 = found.tensors.iter().map(|tensor| tensor.bytes).sum();
    text + &format!("\n{total} bytes of tensors\n")
}

fn document(path: &Path, found: &Found) -> Value {
    let metadata = found.metadata.iter().map(|key| json!({ "key": key.name, "type": key.kind, "value": key.value }));
    let tensors = found.tensors.iter().map(
        |tensor| json!({ "name": tensor.name, "type": tensor.dtype, "shape": tensor.shape, "bytes": tensor.bytes }),
    );
    object([
        ("file", json!(path.display().to_string())),
        ("format", json!(found.format)),
        ("metadata", metadata.collect()),
        ("tensors", tensors.collect()),
    ])
}
