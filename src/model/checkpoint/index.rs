//! `model.safetensors.index.json`: which file of a sharded checkpoint holds which tensor.
//!
//! It names files, and it may come from a stranger: a name such as `../../.ssh/id_rsa` must never be opened. So names are
//! plain ones that end in `.safetensors`, checked before any is. The index is not trusted for anything else: what a tensor
//! is and where it lies is what its shard's header says, and the two must agree on every name, so that a shard of another
//! download is noticed and not mixed in.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use super::header::{MAX_TENSORS, check_name};
use super::json::show;

/// Longest index file, in bytes.
pub(super) const MAX_INDEX: u64 = 16 << 20;

/// Most shards. Each stays open, and macOS lets a process have 256 files open unless told otherwise.
const MAX_SHARDS: usize = 200;

/// Longest file name of a shard, in bytes: what common file systems allow.
const MAX_FILE_NAME: usize = 255;

/// The index file. Its other key, `metadata`, is not read: `metadata.total_size` is known to be wrong in published
/// checkpoints (tied tensors counted twice, or not), and the shards' own headers say every size that matters.
#[derive(serde::Deserialize)]
pub(super) struct Index {
    pub(super) weight_map: WeightMap,
}

/// The shards, and for each tensor the shard it is in.
#[derive(Default)]
pub(super) struct WeightMap {
    /// File names, in the order of their first mention.
    pub(super) files: Vec<String>,
    /// For each tensor's name a place in `files`.
    pub(super) file_of: BTreeMap<String, usize>,
}

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(WeightMapVisitor)
    }
}

struct WeightMapVisitor;

impl<'de> Visitor<'de> for WeightMapVisitor {
    type Value = WeightMap;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("weight_map as an object from tensor names to file names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WeightMap, A::Error> {
        let mut weights = WeightMap::default();
        let mut known = BTreeMap::new();
        while let Some((name, file)) = map.next_entry::<String, String>()? {
            check_name(&name).map_err(A::Error::custom)?;
            if weights.file_of.len() == MAX_TENSORS {
                return Err(A::Error::custom(format!("more than {MAX_TENSORS} tensors")));
            }
            let place = match known.get(&file) {
                Some(&place) => place,
                None => {
                    check_file_name(&file).map_err(A::Error::custom)?;
                    let place = weights.files.len();
                    if place == MAX_SHARDS {
                        return Err(A::Error::custom(format!("more than {MAX_SHARDS} shards")));
                    }
                    weights.files.push(file.clone());
                    known.insert(file, place);
                    place
                }
            };
            if weights.file_of.contains_key(&name) {
                return Err(A::Error::custom(format!("`{}` is given twice", show(&name))));
            }
            weights.file_of.insert(name, place);
        }
        if weights.files.is_empty() {
            return Err(A::Error::custom("weight_map is empty"));
        }
        Ok(weights)
    }
}

/// A shard must be named by a plain file name, so that an index from a stranger reaches no file outside its folder:
/// no separators, no drive letters, no `..`, on any system.
///
/// Whether a file of such a name is a symbolic link is not asked: links are made by whoever owns the folder, and the
/// Hugging Face cache consists of them.
fn check_file_name(file: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if file.len() <= MAX_FILE_NAME
        && file.chars().all(plain)
        && !file.starts_with('.')
        && file.ends_with(".safetensors")
    {
        return Ok(());
    }
    Err(format!(
        "`{}` does not name a shard: letters, digits, `-`, `_` and `.`, ending in .safetensors, are expected",
        show(file)
    ))
}
