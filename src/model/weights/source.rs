//! Where tensors come from, and that all a model needs is there, in its shape and a type that is read, and nothing else.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::error::{Error, Result};
use crate::kernel::Format;
use crate::model::checkpoint::{Checkpoint, StoredType};
use crate::model::config::{Config, Family};
use crate::model::families::Names;
use crate::model::files::ModelFiles;
use crate::model::gguf::Gguf;

/// Bytes of two tensors that are compared at a time.
const BLOCK_BYTES: usize = 16 << 20;

/// Where tensors come from.
pub(crate) enum Source<'a> {
    /// An admitted checkpoint, and the prefix of its names.
    Checkpoint { checkpoint: &'a Checkpoint, prefix: &'static str },
    /// An admitted GGUF file.
    Gguf(&'a Gguf),
    /// See `random`.
    Random { seed: u64 },
}

impl<'a> Source<'a> {
    /// Checks that a checkpoint holds the model that its config describes, and nothing else. A head that the config ties and
    /// the checkpoint has, with other numbers, is untied, as transformers does.
    pub(crate) fn admit(files: &'a ModelFiles, config: &mut Config) -> Result<Source<'a>> {
        let source = match files {
            ModelFiles::Folder(checkpoint) => {
                let names = Names::of(config.family);
                let prefixed = format!("{}{}.weight", names.prefix, names.tokens);
                let prefix = if checkpoint.get(&prefixed).is_some() { names.prefix } else { "" };
                untie(checkpoint, prefix, config)?;
                Source::Checkpoint { checkpoint, prefix }
            }
            ModelFiles::Gguf(gguf) => Source::Gguf(gguf),
        };
        let names = source.names(config);
        let mut known = BTreeSet::new();
        for (name, shape) in names.tensors(config) {
            let stored = source.stored_name(names, &name);
            source.admit_tensor(&stored, &shape)?;
            known.insert(stored);
        }
        source.admit_rest(names, config, &known)?;
        Ok(source)
    }

    /// What its tensors are called.
    pub(in crate::model) fn names(&self, config: &Config) -> &'static Names {
        match self {
            Source::Gguf(_) => Names::in_gguf(config.family),
            Source::Checkpoint { .. } | Source::Random { .. } => Names::of(config.family),
        }
    }

    fn admit_tensor(&self, name: &str, shape: &[usize]) -> Result<()> {
        let found = match self {
            Source::Checkpoint { checkpoint, .. } => checkpoint.get(name).map(|info| &info.shape),
            Source::Gguf(gguf) => gguf.tensor(name).map(|info| &info.shape),
            Source::Random { .. } => return Ok(()),
        };
        let found = found.ok_or_else(|| bad(name, format!("missing; the config asks for {shape:?}")))?;
        if found != shape {
            return Err(bad(name, format!("shape {found:?}; the config asks for {shape:?}")));
        }
        match self {
            Source::Checkpoint { checkpoint, .. } => match checkpoint.get(name).map(|info| info.dtype) {
                Some(StoredType::F32 | StoredType::F16 | StoredType::BF16) => Ok(()),
                other => Err(bad(name, format!("type {other:?}; F32, F16 and BF16 are read"))),
            },
            _ => Ok(()),
        }
    }

    /// Refuses what a model of this config has no use for: it would compute something else with it.
    fn admit_rest(&self, names: &Names, config: &Config, known: &BTreeSet<String>) -> Result<()> {
        let not_part = |name: &str| bad(name, format!("not part of a {} of this config", config.family.name()));
        let refused = match self {
            Source::Checkpoint { checkpoint, prefix } => {
                // A tied head may be stored.
                let head = format!("{}.weight", names.head);
                let part = |name: &str| name == head || names.is_buffer(name.strip_prefix(prefix).unwrap_or(name));
                checkpoint.names().find(|name| !known.contains(*name) && !part(name))
            }
            Source::Gguf(gguf) => {
                // The config has read the factors of frequencies.
                let part = |name: &str| name == ROPE_FACTORS && config.family == Family::Llama;
                gguf.names().find(|name| !known.contains(*name) && !part(name))
            }
            Source::Random { .. } => None,
        };
        refused.map_or(Ok(()), |name| Err(not_part(name)))
    }

    /// How a tensor is stored.
    pub(super) fn format(&self, names: &Names, name: &str) -> Format {
        let stored = self.stored_name(names, name);
        match self {
            Source::Checkpoint { checkpoint, .. } => match checkpoint.get(&stored).map(|info| info.dtype) {
                Some(StoredType::F16) => Format::F16,
                Some(StoredType::BF16) => Format::BF16,
                _ => Format::F32,
            },
            Source::Gguf(gguf) => gguf.tensor(&stored).map_or(Format::F32, |info| info.dtype.format()),
            Source::Random { .. } => Format::F32,
        }
    }

    /// The formats of matrices that become one, as (format, how many of them): as they are stored. Where the format changes
    /// amid four rows, which kernels cannot write apart, all become f32.
    pub(super) fn runs(&self, names: &Names, parts: &[(String, usize)]) -> Vec<(Format, usize)> {
        let (mut runs, mut first_row, mut apart): (Vec<(Format, usize)>, usize, bool) = (Vec::new(), 0, true);
        for (name, rows) in parts {
            let format = self.format(names, name);
            match runs.last_mut() {
                Some((before, count)) if *before == format => *count += 1,
                _ => {
                    apart &= first_row.is_multiple_of(4);
                    runs.push((format, 1));
                }
            }
            first_row += rows;
        }
        if apart { runs } else { vec![(Format::F32, parts.len())] }
    }

    /// The format that a matrix is kept in.
    pub(in crate::model) fn kept(&self, names: &Names, config: &Config, name: &str) -> Format {
        let parts = names.beside(config, name);
        let place = parts.iter().position(|(part, _)| part == name).unwrap_or(0);
        let formats =
            self.runs(names, &parts).into_iter().flat_map(|(format, count)| std::iter::repeat_n(format, count));
        formats.into_iter().nth(place).unwrap_or_default()
    }

    /// The head stands beside the transformer, everything else in it.
    fn stored_name(&self, names: &Names, name: &str) -> String {
        match self {
            Source::Checkpoint { prefix, .. } if name.strip_suffix(".weight") != Some(names.head) => {
                format!("{prefix}{name}")
            }
            _ => name.to_owned(),
        }
    }

    /// The stored bytes of rows of a tensor's first dimension. Random weights are not stored.
    pub(super) fn read_rows(&self, names: &Names, name: &str, rows: Range<usize>) -> Result<Vec<u8>> {
        let stored = self.stored_name(names, name);
        match self {
            Source::Checkpoint { checkpoint, .. } => checkpoint.read_rows(&stored, rows),
            Source::Gguf(gguf) => gguf.read_rows(&stored, rows),
            Source::Random { .. } => Ok(Vec::new()),
        }
    }
}

/// The tensor of a GGUF file that divides the frequencies of its config.
pub(crate) const ROPE_FACTORS: &str = "rope_freqs.weight";

fn bad(name: &str, message: String) -> Error {
    Error::BadTensor { name: name.to_owned(), message }
}

/// A head that the config ties and the checkpoint has, with other numbers, is untied, as transformers does.
fn untie(checkpoint: &Checkpoint, prefix: &str, config: &mut Config) -> Result<()> {
    let names = Names::of(config.family);
    let (tokens, head) = (format!("{prefix}{}.weight", names.tokens), format!("{}.weight", names.head));
    if config.tied_head && checkpoint.get(&head).is_some() {
        config.tied_head = same(checkpoint, &tokens, &head)?;
        if !config.tied_head {
            log::warn!("config.json ties {head} to {tokens}, which has other numbers: they are not tied");
        }
    }
    Ok(())
}

/// Whether two tensors are equal, byte by byte.
fn same(checkpoint: &Checkpoint, a: &str, b: &str) -> Result<bool> {
    let (Some(one), Some(other)) = (checkpoint.get(a), checkpoint.get(b)) else { return Ok(false) };
    let rows = one.shape.first().copied().unwrap_or(0);
    if one.shape != other.shape || one.dtype != other.dtype || rows == 0 {
        return Ok(false);
    }
    let step = (BLOCK_BYTES / (one.byte_len() as usize / rows).max(1)).max(1);
    for start in (0..rows).step_by(step) {
        let range = start..rows.min(start + step);
        if checkpoint.read_rows(a, range.clone())? != checkpoint.read_rows(b, range)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A weight that is NaN or infinite poisons every token; say which tensor it is. Of a quantised one, a scale or a minimum.
pub(super) fn check_finite(name: &str, format: Format, bytes: &[u8]) -> Result<()> {
    // All bits of the exponent are set.
    let halves = |bytes: &[u8], mask: u16| {
        bytes.as_chunks::<2>().0.iter().filter(|b| u16::from_le_bytes(**b) & mask == mask).count()
    };
    let scales = |range: Range<usize>| {
        let blocks = bytes.chunks_exact(format.block().1);
        blocks.map(|block| halves(block.get(range.clone()).unwrap_or_default(), 0x7c00)).sum()
    };
    let count: usize = match format {
        Format::F32 => bytes.as_chunks::<4>().0.iter().filter(|b| !f32::from_le_bytes(**b).is_finite()).count(),
        Format::F16 => halves(bytes, 0x7c00),
        Format::BF16 => halves(bytes, 0x7f80),
        Format::Q8_0 | Format::Q4_0 | Format::Q5_0 => scales(0..2),
        Format::Q4_1 | Format::Q5_1 | Format::Q4K | Format::Q5K => scales(0..4),
        Format::Q6K => scales(208..210),
    };
    match count {
        0 => Ok(()),
        count => Err(Error::NonFinite { what: format!("tensor `{name}`"), count: count as u64 }),
    }
}
