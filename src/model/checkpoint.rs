//! A checkpoint: a Hugging Face folder on disk, or its two files in memory.
//!
//! The files come from strangers. Reading therefore goes in two steps: [`Checkpoint::open`] *inspects*, reading only
//! `config.json` and the safetensors headers and checking all they claim; then the caller compares names, types and
//! shapes with what its model needs; only then are tensors *read*, one at a time or row by row. No step panics,
//! whatever the bytes, and none holds more memory than twice the files it read and 16 MiB.
//!
//! Tensors are copied out by positioned reads; `file.rs` says why.

#![forbid(unsafe_code)]
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used)]
#![deny(clippy::panic, clippy::unreachable)]

pub(super) mod header;
mod index;
pub(super) mod json;
mod stored;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::Path;

use super::file::ModelFile;
use crate::error::{Error, Result};
use index::{Index, WeightMap};
use json::{Fault, show};

pub use stored::{StoredType, to_f32};

/// Longest `config.json`, in bytes. GPT-2's has 665.
const MAX_CONFIG: u64 = 1 << 20;

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// What a checkpoint says about one tensor.
///
/// ```
/// use gristmill::model::{Checkpoint, StoredType};
///
/// let checkpoint = Checkpoint::open("models/demo".as_ref())?;
/// let name = checkpoint.names().find(|name| name.ends_with("wte.weight")).expect("token embeddings");
/// let info = checkpoint.get(name).expect("a name that it listed");
/// assert_eq!((info.dtype, &info.shape[..]), (StoredType::F16, &[4096, 256][..]));
/// assert_eq!(info.byte_len(), 2 * 4096 * 256);
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorInfo {
    /// How each element is stored.
    pub dtype: StoredType,
    /// Dimensions, outermost first, at most eight; empty for a scalar. Checked: the element count, and its size in
    /// bytes, fit a `u64`.
    pub shape: Vec<usize>,
    /// Which of the checkpoint's files holds it.
    shard: usize,
    /// Its first byte in that file.
    begin: u64,
    /// One past its last byte in that file.
    end: u64,
}

impl TensorInfo {
    /// Bytes the tensor takes in the file.
    pub fn byte_len(&self) -> u64 {
        self.end.saturating_sub(self.begin)
    }

    /// Where in the file some rows of the first dimension lie. `None` if there are no such rows, or if a row is no
    /// whole number of bytes.
    fn rows(&self, rows: &Range<usize>) -> Option<Range<u64>> {
        let &count = self.shape.first()?;
        if rows.start > rows.end || rows.end > count {
            return None;
        }
        let row_bytes = self.dtype.byte_len(self.shape.get(1..)?)?;
        let offset = |row: usize| self.begin.checked_add(row_bytes.checked_mul(row as u64)?);
        Some(offset(rows.start)?..offset(rows.end)?)
    }
}

/// A model's configuration and weights, inspected and ready to be read. Files stay open, so a file that is replaced
/// later is not noticed, and one that is shortened ends in an error.
///
/// ```
/// use gristmill::model::{Checkpoint, Config, to_f32};
///
/// let checkpoint = Checkpoint::open("models/demo".as_ref())?; // headers only
/// let config = Config::from_json(checkpoint.config_json())?;
/// let name = checkpoint.names().find(|name| name.ends_with("ln_f.weight")).expect("the last norm");
/// let dtype = checkpoint.get(name).expect("a name that it listed").dtype;
/// assert_eq!(to_f32(name, dtype, &checkpoint.read(name)?)?.len(), config.hidden_size);
/// # Ok::<(), gristmill::Error>(())
/// ```
pub struct Checkpoint {
    origin: String,
    config: String,
    shards: Vec<ModelFile>,
    tensors: BTreeMap<String, TensorInfo>,
}

impl Checkpoint {
    /// Opens a Hugging Face folder: `config.json`, and `model.safetensors` or else the shards that
    /// `model.safetensors.index.json` names. Reads the configuration and the headers, no weights.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that is missing, is not a regular file, or cannot be read; [`Error::BadFile`] for one
    /// whose content is not what the formats ask for, with the byte; [`Error::BadTensor`] where the index and the
    /// shards disagree about a tensor.
    pub fn open(dir: &Path) -> Result<Self> {
        if fs::metadata(dir).is_ok_and(|found| found.is_file()) {
            let message = format!("is a file; give the folder that holds {CONFIG} and {WEIGHTS}");
            return Err(Error::Io { path: dir.into(), message });
        }
        let config = ModelFile::open(dir.join(CONFIG))?.text(MAX_CONFIG)?;
        let origin = dir.display().to_string();
        if exists(&dir.join(WEIGHTS)) {
            return Self::from_shard(origin, config, ModelFile::open(dir.join(WEIGHTS))?);
        }
        if !exists(&dir.join(INDEX)) {
            let message = format!(
                "has neither {WEIGHTS} nor {INDEX}; pickled .bin weights are not read, save them with \
                 safe_serialization=True"
            );
            return Err(Error::Io { path: dir.into(), message });
        }
        let (shards, tensors) = open_shards(dir)?;
        Ok(Self { origin, config, shards, tensors })
    }

    /// The same from the bytes of `config.json` and `model.safetensors`, for models embedded in a program.
    ///
    /// # Errors
    /// As [`Checkpoint::open`], without [`Error::Io`].
    pub fn from_memory(config: impl Into<Cow<'static, [u8]>>, weights: impl Into<Cow<'static, [u8]>>) -> Result<Self> {
        let config = ModelFile::in_memory(CONFIG, config.into()).text(MAX_CONFIG)?;
        Self::from_shard("a model in memory".into(), config, ModelFile::in_memory(WEIGHTS, weights.into()))
    }

    fn from_shard(origin: String, config: String, shard: ModelFile) -> Result<Self> {
        let tensors = inspect(&shard, 0)?;
        Ok(Self { origin, config, shards: vec![shard], tensors })
    }

    /// The text of `config.json`, at most 1 MiB. Only its encoding has been checked.
    pub fn config_json(&self) -> &str {
        &self.config
    }

    /// The names of all tensors, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// What the checkpoint says about a tensor; `None` if it has no tensor of that name.
    pub fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// A tensor's bytes, little-endian and packed, as long as [`TensorInfo::byte_len`].
    ///
    /// That length is bounded by nothing but the file's, and a sparse file can be longer than memory: compare the shape
    /// with the model's before reading.
    ///
    /// # Errors
    /// [`Error::BadTensor`] if there is none of that name; [`Error::OutOfMemory`]; [`Error::BadFile`] if the file has
    /// been shortened since it was opened; [`Error::Io`].
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        let (info, shard) = self.find(name)?;
        shard.read(info.begin..info.end)
    }

    /// The bytes of some rows of a tensor's first dimension, for matrices too large to hold twice.
    ///
    /// # Errors
    /// As [`Checkpoint::read`]; also [`Error::BadTensor`] for rows the tensor does not have (a scalar has none), or
    /// rows of a 4- or 6-bit type that do not end at a byte.
    pub fn read_rows(&self, name: &str, rows: Range<usize>) -> Result<Vec<u8>> {
        let (info, shard) = self.find(name)?;
        let range = info.rows(&rows).ok_or_else(|| Error::BadTensor {
            name: show(name),
            message: format!("rows {rows:?} cannot be read from type {} and shape {:?}", info.dtype, info.shape),
        })?;
        shard.read(range)
    }

    /// Where the checkpoint came from, for messages: the folder's path, or that it was in memory.
    pub fn describe(&self) -> String {
        self.origin.clone()
    }

    fn find(&self, name: &str) -> Result<(&TensorInfo, &ModelFile)> {
        self.tensors
            .get(name)
            .and_then(|info| Some((info, self.shards.get(info.shard)?)))
            .ok_or_else(|| bad_tensor(name, format!("is not in {}", self.origin)))
    }
}

impl fmt::Debug for Checkpoint {
    /// Where from and how many; embedded weights would fill the screen.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint")
            .field("origin", &self.origin)
            .field("shards", &self.shards.len())
            .field("tensors", &self.tensors.len())
            .finish_non_exhaustive()
    }
}

/// Opens the shards an index names, and checks that it and they agree on every tensor.
fn open_shards(dir: &Path) -> Result<(Vec<ModelFile>, BTreeMap<String, TensorInfo>)> {
    let path = dir.join(INDEX);
    let text = ModelFile::open(path.clone())?.text(index::MAX_INDEX)?;
    let index: Index = json::parse(&text).map_err(|fault| fault.in_file(&path))?;
    drop(text);
    let WeightMap { files, mut file_of } = index.weight_map;

    let file_name = |place: usize| files.get(place).map_or("", String::as_str);
    let mut shards = Vec::new();
    let mut tensors: BTreeMap<String, TensorInfo> = BTreeMap::new();
    for (place, file) in files.iter().enumerate() {
        let shard = ModelFile::open(dir.join(file))?;
        for (name, info) in inspect(&shard, place)? {
            let problem = match file_of.remove(&name) {
                Some(stated) if stated == place => {
                    tensors.insert(name, info);
                    continue;
                }
                Some(stated) => format!("is in {file}; {INDEX} puts it in {}", file_name(stated)),
                None => match tensors.get(&name) {
                    Some(first) => format!("is in both {} and {file}", file_name(first.shard)),
                    None => format!("is in {file}; {INDEX} does not list it"),
                },
            };
            return Err(bad_tensor(&name, problem));
        }
        shards.push(shard);
    }
    // What is left was promised by the index and found in no shard.
    if let Some((name, place)) = file_of.pop_first() {
        return Err(bad_tensor(&name, format!("is not in {}, where {INDEX} puts it", file_name(place))));
    }
    Ok((shards, tensors))
}

fn bad_tensor(name: &str, message: String) -> Error {
    Error::BadTensor { name: show(name), message }
}

/// Whether there is anything of that name, be it a dangling link: then opening it gives the better message.
fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// The tensors a file's header describes. `place` is its number among the checkpoint's files.
fn inspect(file: &ModelFile, place: usize) -> Result<BTreeMap<String, TensorInfo>> {
    if file.len() < header::PREFIX {
        let message = format!("{} bytes are too few for a safetensors file", file.len());
        return Err(file.fault(file.len(), message));
    }
    let mut prefix = [0; header::PREFIX as usize];
    file.read_into(&mut prefix, 0)?;
    let in_file = |fault: Fault| fault.in_file(file.path());
    let length = header::length(prefix, file.len()).map_err(in_file)?;
    let text = file.read(header::PREFIX..header::PREFIX.saturating_add(length))?;
    header::parse(&text, file.len(), place).map_err(in_file)
}
