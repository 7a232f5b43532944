//! From a checkpoint, or a seed, to weights on the device: GPT-2's names, shapes and orientation.
//!
//! First everything is admitted: each tensor the model needs is there in its shape and a type we read, and nothing else is
//! there. Then tensors are read one at a time. Matrices keep their stored format (bf16 becomes f32, exactly); GPT-2's
//! Conv1D matrices, stored `[in, out]`, are turned to `[out, in]` once, so that one product serves all models.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::gpu::GpuCompute;
use crate::kernel::Format;
use crate::model::checkpoint::{Checkpoint, StoredType, to_f32};
use crate::model::config::Config;
use crate::model::random;
use crate::tensor::{Tensor, Weight};

/// A model's weights on a device.
pub(crate) struct Weights {
    /// `[vocab, hidden]`
    pub(crate) tokens: Weight,
    /// `[positions, hidden]`
    pub(crate) positions: Tensor,
    pub(crate) layers: Vec<Layer>,
    pub(crate) final_norm: Norm,
    /// `[vocab, hidden]`; `None` where the head is the token embedding.
    pub(crate) head: Option<Weight>,
}

/// One block.
pub(crate) struct Layer {
    pub(crate) attention_norm: Norm,
    /// `[3 hidden, hidden]`, query over key over value
    pub(crate) qkv: Linear,
    /// `[hidden, hidden]`
    pub(crate) project: Linear,
    pub(crate) mlp_norm: Norm,
    /// `[inner, hidden]`
    pub(crate) up: Linear,
    /// `[hidden, inner]`
    pub(crate) down: Linear,
}

/// A matrix `[out, in]` and a bias `[out]`.
pub(crate) struct Linear {
    pub(crate) weight: Weight,
    pub(crate) bias: Tensor,
}

/// Weight and bias of a layer norm, `[hidden]`.
pub(crate) struct Norm {
    pub(crate) weight: Tensor,
    pub(crate) bias: Tensor,
}

/// Where tensors come from. Names are the checkpoint's, without `transformer.`.
pub(crate) enum Source<'a> {
    /// An admitted checkpoint, and the prefix of its names.
    Checkpoint { checkpoint: &'a Checkpoint, prefix: &'static str },
    /// See `random`.
    Random { seed: u64 },
}

/// Every tensor of a GPT-2 and its shape, as stored.
fn expected(config: &Config) -> Vec<(String, Vec<usize>)> {
    let (hidden, inner) = (config.hidden_size, config.n_inner);
    let mut list = vec![
        ("wte.weight".to_owned(), vec![config.vocab_size, hidden]),
        ("wpe.weight".to_owned(), vec![config.n_positions, hidden]),
        ("ln_f.weight".to_owned(), vec![hidden]),
        ("ln_f.bias".to_owned(), vec![hidden]),
    ];
    if !config.tied_head {
        list.push(("lm_head.weight".to_owned(), vec![config.vocab_size, hidden]));
    }
    for layer in 0..config.n_layers {
        let mut push = |name: &str, shape: &[usize]| list.push((format!("h.{layer}.{name}"), shape.to_vec()));
        for norm in ["ln_1", "ln_2"] {
            push(&format!("{norm}.weight"), &[hidden]);
            push(&format!("{norm}.bias"), &[hidden]);
        }
        let matrices = [
            ("attn.c_attn", hidden, 3 * hidden),
            ("attn.c_proj", hidden, hidden),
            ("mlp.c_fc", hidden, inner),
            ("mlp.c_proj", inner, hidden),
        ];
        for (name, inputs, outputs) in matrices {
            push(&format!("{name}.weight"), &[inputs, outputs]);
            push(&format!("{name}.bias"), &[outputs]);
        }
    }
    list
}

/// Buffers of old checkpoints that hold no weights: the causal mask and its fill value.
fn is_mask(name: &str) -> bool {
    let layer = name.strip_suffix(".attn.bias").or_else(|| name.strip_suffix(".attn.masked_bias"));
    layer.and_then(|name| name.strip_prefix("h.")).is_some_and(|number| number.parse::<usize>().is_ok())
}

impl<'a> Source<'a> {
    /// Checks that a checkpoint holds the model that its config describes, and nothing else.
    pub(crate) fn admit(checkpoint: &'a Checkpoint, config: &Config) -> Result<Source<'a>> {
        let prefix = if checkpoint.get("transformer.wte.weight").is_some() { "transformer." } else { "" };
        let source = Source::Checkpoint { checkpoint, prefix };
        let bad = |name: &str, message: String| Error::BadTensor { name: name.to_owned(), message };
        let mut known = BTreeSet::new();
        for (name, shape) in expected(config) {
            let stored = stored_name(prefix, &name);
            let info = checkpoint.get(&stored);
            let info = info.ok_or_else(|| bad(&stored, format!("missing; the config asks for {shape:?}")))?;
            if info.shape != shape {
                return Err(bad(&stored, format!("shape {:?}; the config asks for {shape:?}", info.shape)));
            }
            if !matches!(info.dtype, StoredType::F32 | StoredType::F16 | StoredType::BF16) {
                return Err(bad(&stored, format!("type {:?}; F32, F16 and BF16 are read", info.dtype)));
            }
            known.insert(stored);
        }
        for name in checkpoint.names().filter(|name| !known.contains(*name)) {
            let plain = name.strip_prefix(prefix).unwrap_or(name);
            if plain == "lm_head.weight" && config.tied_head {
                log::warn!("{name} is ignored: config.json ties the head to wte.weight");
            } else if !is_mask(plain) {
                return Err(bad(name, "not part of a GPT-2 of this config".to_owned()));
            }
        }
        Ok(source)
    }

    /// How a tensor is stored: F32, F16 or BF16.
    fn stored_type(&self, name: &str) -> StoredType {
        match self {
            Source::Checkpoint { checkpoint, prefix } => {
                checkpoint.get(&stored_name(prefix, name)).map_or(StoredType::F32, |info| info.dtype)
            }
            Source::Random { .. } => StoredType::F32,
        }
    }

    /// Rows of a tensor of `columns`-element rows, in the bytes of `format`, checked to be finite.
    fn rows(
        &self,
        name: &str,
        shape: (usize, usize),
        config: &Config,
        range: std::ops::Range<usize>,
    ) -> Result<Vec<u8>> {
        let (rows, columns) = shape;
        let bytes = match self {
            Source::Checkpoint { checkpoint, prefix } => checkpoint.read_rows(&stored_name(prefix, name), range)?,
            Source::Random { seed } => {
                let (start, count) = (range.start * columns, range.len() * columns);
                let values = random::elements(*seed, name, start, count, rows, config.hidden_size);
                return Ok(bytemuck::pod_collect_to_vec(&values));
            }
        };
        let stored = self.stored_type(name);
        let bytes = match stored {
            StoredType::BF16 => bytemuck::pod_collect_to_vec(&to_f32(name, stored, &bytes)?),
            _ => bytes,
        };
        check_finite(name, stored, &bytes)?;
        Ok(bytes)
    }

    /// A vector or small matrix as f32.
    fn tensor(&self, gpu: &GpuCompute, name: &str, shape: &[usize], config: &Config) -> Result<Tensor> {
        let (rows, columns) = match *shape {
            [rows, columns] => (rows, columns),
            _ => (shape.iter().product(), 1),
        };
        let bytes = self.rows(name, (rows, columns), config, 0..rows)?;
        let values = match self.stored_type(name) {
            StoredType::F16 => to_f32(name, StoredType::F16, &bytes)?,
            _ => bytemuck::pod_collect_to_vec(&bytes),
        };
        gpu.tensor(&values, shape)
    }

    /// A matrix that is stored as it is used, `[out, in]`.
    fn matrix(&self, gpu: &GpuCompute, name: &str, shape: (usize, usize), config: &Config) -> Result<Weight> {
        Weight::from_rows(gpu, shape, self.format(name), |range| self.rows(name, shape, config, range))
    }

    /// A Conv1D: stored `[in, out]`, used `[out, in]`.
    fn conv1d(
        &self,
        gpu: &GpuCompute,
        name: &str,
        (inputs, outputs): (usize, usize),
        config: &Config,
    ) -> Result<Linear> {
        let weight_name = format!("{name}.weight");
        let format = self.format(&weight_name);
        let stored = self.rows(&weight_name, (inputs, outputs), config, 0..inputs)?;
        let turned = match format {
            Format::F16 => transpose::<2>(&stored, inputs, outputs),
            _ => transpose::<4>(&stored, inputs, outputs),
        };
        let row_bytes = turned.len() / outputs.max(1);
        let weight = Weight::from_rows(gpu, (outputs, inputs), format, |range| {
            Ok(turned.get(range.start * row_bytes..range.end * row_bytes).unwrap_or_default().to_vec())
        })?;
        let bias = self.tensor(gpu, &format!("{name}.bias"), &[outputs], config)?;
        Ok(Linear { weight, bias })
    }

    fn norm(&self, gpu: &GpuCompute, name: &str, config: &Config) -> Result<Norm> {
        let part = |part: &str| self.tensor(gpu, &format!("{name}.{part}"), &[config.hidden_size], config);
        Ok(Norm { weight: part("weight")?, bias: part("bias")? })
    }

    fn format(&self, name: &str) -> Format {
        if self.stored_type(name) == StoredType::F16 { Format::F16 } else { Format::F32 }
    }
}

/// The head stands beside the transformer, everything else in it.
fn stored_name(prefix: &str, name: &str) -> String {
    if name == "lm_head.weight" { name.to_owned() } else { format!("{prefix}{name}") }
}

/// Rows become columns. `N` is the size of an element in bytes.
fn transpose<const N: usize>(stored: &[u8], rows: usize, columns: usize) -> Vec<u8> {
    let (elements, _) = stored.as_chunks::<N>();
    let mut turned = Vec::with_capacity(stored.len());
    for column in 0..columns {
        for row in 0..rows {
            turned.extend_from_slice(elements.get(row * columns + column).unwrap_or(&[0; N]));
        }
    }
    turned
}

/// A weight that is NaN or infinite poisons every token; say which tensor it is.
fn check_finite(name: &str, stored: StoredType, bytes: &[u8]) -> Result<()> {
    let count = match stored {
        StoredType::F16 => {
            bytes.as_chunks::<2>().0.iter().filter(|b| u16::from_le_bytes(**b) & 0x7c00 == 0x7c00).count()
        }
        _ => bytes.as_chunks::<4>().0.iter().filter(|b| !f32::from_le_bytes(**b).is_finite()).count(),
    };
    if count > 0 {
        return Err(Error::NonFinite { what: format!("tensor `{name}`"), count: count as u64 });
    }
    Ok(())
}

impl Weights {
    /// Reads and uploads everything.
    pub(crate) fn load(gpu: &GpuCompute, config: &Config, source: &Source<'_>) -> Result<Weights> {
        let (hidden, inner, vocab) = (config.hidden_size, config.n_inner, config.vocab_size);
        let layer = |i: usize| -> Result<Layer> {
            let linear = |name: &str, shape| source.conv1d(gpu, &format!("h.{i}.{name}"), shape, config);
            Ok(Layer {
                attention_norm: source.norm(gpu, &format!("h.{i}.ln_1"), config)?,
                qkv: linear("attn.c_attn", (hidden, 3 * hidden))?,
                project: linear("attn.c_proj", (hidden, hidden))?,
                mlp_norm: source.norm(gpu, &format!("h.{i}.ln_2"), config)?,
                up: linear("mlp.c_fc", (hidden, inner))?,
                down: linear("mlp.c_proj", (inner, hidden))?,
            })
        };
        let head = match config.tied_head {
            true => None,
            false => Some(source.matrix(gpu, "lm_head.weight", (vocab, hidden), config)?),
        };
        let weights = Weights {
            tokens: source.matrix(gpu, "wte.weight", (vocab, hidden), config)?,
            positions: source.tensor(gpu, "wpe.weight", &[config.n_positions, hidden], config)?,
            layers: (0..config.n_layers).map(layer).collect::<Result<_>>()?,
            final_norm: source.norm(gpu, "ln_f", config)?,
            head,
        };
        gpu.flush()?;
        Ok(weights)
    }

    /// Bytes on the device.
    pub(crate) fn bytes(&self) -> u64 {
        let norm = |n: &Norm| n.weight.bytes() + n.bias.bytes();
        let linear = |l: &Linear| l.weight.bytes() + l.bias.bytes();
        let layer = |l: &Layer| {
            let linears: u64 = [&l.qkv, &l.project, &l.up, &l.down].into_iter().map(linear).sum();
            linears + norm(&l.attention_norm) + norm(&l.mlp_norm)
        };
        let embeddings = self.tokens.bytes() + self.positions.bytes() + self.head.as_ref().map_or(0, Weight::bytes);
        embeddings + self.layers.iter().map(layer).sum::<u64>() + norm(&self.final_norm)
    }
}
