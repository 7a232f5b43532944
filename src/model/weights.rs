//! From stored files, or a seed, to weights on the device.
//!
//! First everything is admitted: each tensor the model needs is there in its shape and a type we read, and nothing else is
//! there. Then tensors are read a block of rows at a time. Matrices keep their stored formats; vectors become f32, exactly.
//! What is multiplied with the same rows becomes one matrix: queries over keys over values, gate over up. GPT-2's Conv1D matrices, stored `[in, out]`, are turned to `[out, in]` once, so that one product serves
//! all models.

mod source;

use std::ops::Range;

use crate::cpu;
use crate::error::Result;
use crate::gpu::GpuCompute;
use crate::kernel::Format;
use crate::model::checkpoint::{StoredType, to_f32};
use crate::model::config::Config;
use crate::model::families::Names;
use crate::model::random;
use crate::tensor::{DType, Tensor, Weight};
use source::check_finite;
pub(crate) use source::{ROPE_FACTORS, Source};

/// A model's weights on a device.
pub(crate) struct Weights {
    /// `[vocab, hidden]`
    pub(crate) tokens: Weight,
    /// `[positions, hidden]`; `None` where queries and keys are turned instead.
    pub(crate) positions: Option<Tensor>,
    pub(crate) layers: Vec<Layer>,
    pub(crate) final_norm: Norm,
    /// `[vocab, hidden]`; `None` where the head is the token embedding.
    pub(crate) head: Option<Weight>,
}

/// One block.
pub(crate) struct Layer {
    pub(crate) attention_norm: Norm,
    /// `[(heads + 2 kv_heads) head_dim, hidden]`, query over key over value
    pub(crate) qkv: Linear,
    /// `[heads + kv_heads, head_dim]`: the norm of each head of queries and keys, if they have any.
    pub(crate) head_norm: Option<Tensor>,
    /// `[hidden, heads * head_dim]`
    pub(crate) project: Linear,
    pub(crate) mlp_norm: Norm,
    /// `[inner, hidden]`, or `[2 inner, hidden]`, gate over up
    pub(crate) up: Linear,
    /// `[hidden, inner]`
    pub(crate) down: Linear,
}

/// A matrix `[out, in]` and a bias `[out]`.
pub(crate) struct Linear {
    pub(crate) weight: Weight,
    pub(crate) bias: Option<Tensor>,
}

/// Weight and bias of a norm, `[hidden]`. An RMS norm has no bias.
pub(crate) struct Norm {
    pub(crate) weight: Tensor,
    pub(crate) bias: Option<Tensor>,
}

/// Reads the tensors of one model.
struct Loader<'a> {
    gpu: &'a GpuCompute,
    config: &'a Config,
    names: &'static Names,
    source: &'a Source<'a>,
}

impl Loader<'_> {
    /// Rows of a matrix of `columns`, in the bytes of `format`, its own or f32, checked to be finite. `inputs`: what is summed
    /// over in a product with it.
    fn rows(&self, name: &str, columns: usize, inputs: usize, range: Range<usize>, format: Format) -> Result<Vec<u8>> {
        if let Source::Random { seed } = self.source {
            let (start, count) = (range.start * columns, range.len() * columns);
            let values = random::elements(*seed, name, start, count, inputs, self.config.hidden_size);
            return Ok(bytemuck::pod_collect_to_vec(&values));
        }
        let bytes = self.source.read_rows(self.names, name, range)?;
        let stored = self.source.format(self.names, name);
        check_finite(name, stored, &bytes)?;
        let dense = match stored {
            _ if stored == format => return Ok(bytes),
            Format::F16 => StoredType::F16,
            Format::BF16 => StoredType::BF16,
            _ => return Ok(bytemuck::pod_collect_to_vec(&cpu::dequantize(stored, &bytes, columns))),
        };
        Ok(bytemuck::pod_collect_to_vec(&to_f32(name, dense, &bytes)?))
    }

    /// All of a tensor as f32.
    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let (&rows, &columns) = (shape.first().unwrap_or(&1), shape.last().unwrap_or(&1));
        // Of a vector only the source knows that it is one.
        let columns = match (self.source, shape) {
            (Source::Random { .. }, [_]) => 1,
            _ => columns,
        };
        Ok(bytemuck::pod_collect_to_vec(&self.rows(name, columns, rows, 0..rows, Format::F32)?))
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.gpu.tensor(&self.values(name, shape)?, shape)
    }

    /// Matrices of `inputs` columns that are stored as they are used, `[out, in]`, one over the other.
    fn matrix(&self, mut parts: &[(String, usize)], inputs: usize) -> Result<Weight> {
        let mut runs = Vec::new();
        for (format, count) in self.source.runs(self.names, parts) {
            let (run, rest) = parts.split_at(count.min(parts.len()));
            runs.push(self.run(run, inputs, format)?);
            parts = rest;
        }
        Weight::stacked(runs)
    }

    /// Matrices that are kept in one format.
    fn run(&self, parts: &[(String, usize)], inputs: usize, format: Format) -> Result<Weight> {
        let rows = parts.iter().map(|(_, rows)| rows).sum();
        Weight::from_rows(self.gpu, (rows, inputs), format, |range| {
            let (mut bytes, mut first) = (Vec::new(), 0);
            for (name, rows) in parts {
                let within = range.start.max(first) - first..range.end.clamp(first, first + rows) - first;
                if !within.is_empty() {
                    bytes.extend(self.rows(name, inputs, inputs, within, format)?);
                }
                first += rows;
            }
            Ok(bytes)
        })
    }

    /// A Conv1D: stored `[in, out]`, used `[out, in]`.
    fn turned(&self, name: &str, (inputs, outputs): (usize, usize)) -> Result<Weight> {
        let format = self.source.format(self.names, name);
        let stored = self.rows(name, outputs, inputs, 0..inputs, format)?;
        let turned = match DType::from(format).bytes() {
            2 => transpose::<2>(&stored, inputs, outputs),
            _ => transpose::<4>(&stored, inputs, outputs),
        };
        let row_bytes = turned.len() / outputs.max(1);
        Weight::from_rows(self.gpu, (outputs, inputs), format, |range| {
            Ok(turned.get(range.start * row_bytes..range.end * row_bytes).unwrap_or_default().to_vec())
        })
    }

    /// The matrices of a layer that are multiplied with the same rows, and their biases.
    fn linear(&self, layer: usize, parts: &[(&str, usize)], inputs: usize, bias: bool) -> Result<Linear> {
        let named = |end: &str| -> Vec<(String, usize)> {
            parts.iter().map(|(name, rows)| (format!("{}.{end}", self.names.layer(layer, name)), *rows)).collect()
        };
        let weights = named("weight");
        let weight = match weights.as_slice() {
            [(name, outputs)] if self.names.turned => self.turned(name, (inputs, *outputs))?,
            parts => self.matrix(parts, inputs)?,
        };
        let mut values = Vec::new();
        for (name, rows) in named("bias").iter().filter(|_| bias) {
            values.extend(self.values(name, &[*rows])?);
        }
        let bias = if bias { Some(self.gpu.tensor(&values, &[values.len()])?) } else { None };
        Ok(Linear { weight, bias })
    }

    fn norm(&self, name: &str) -> Result<Norm> {
        let part = |part: &str| self.tensor(&format!("{name}.{part}"), &[self.config.hidden_size]);
        let bias = if self.config.rms_norm { None } else { Some(part("bias")?) };
        Ok(Norm { weight: part("weight")?, bias })
    }

    /// The norm of queries for each of their heads, then that of keys.
    fn head_norm(&self, layer: usize) -> Result<Tensor> {
        let (config, mut values) = (self.config, Vec::new());
        for (name, heads) in self.names.head_norms.iter().zip([config.n_heads, config.n_kv_heads]) {
            let name = format!("{}.weight", self.names.layer(layer, name));
            values.extend(self.values(&name, &[config.head_dim])?.repeat(heads));
        }
        self.gpu.tensor(&values, &[config.n_heads + config.n_kv_heads, config.head_dim])
    }

    fn layer(&self, i: usize) -> Result<Layer> {
        let (names, config) = (self.names, self.config);
        let (hidden, inner) = (config.hidden_size, config.n_inner);
        let qkv: Vec<(&str, usize)> = names.qkv.iter().copied().zip(names.qkv_rows(config)).collect();
        let up: Vec<(&str, usize)> = names.up.iter().map(|name| (*name, inner)).collect();
        Ok(Layer {
            attention_norm: self.norm(&names.layer(i, names.attention_norm))?,
            qkv: self.linear(i, &qkv, hidden, config.qkv_bias)?,
            head_norm: if config.head_norm { Some(self.head_norm(i)?) } else { None },
            project: self.linear(i, &[(names.project, hidden)], config.q_width(), config.output_bias)?,
            mlp_norm: self.norm(&names.layer(i, names.mlp_norm))?,
            up: self.linear(i, &up, hidden, config.mlp_bias)?,
            down: self.linear(i, &[(names.down, hidden)], inner, config.mlp_bias)?,
        })
    }
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

impl Weights {
    /// Reads and uploads everything.
    pub(crate) fn load(gpu: &GpuCompute, config: &Config, source: &Source<'_>) -> Result<Weights> {
        let names = source.names(config);
        let loader = Loader { gpu, config, names, source };
        let (hidden, vocab) = (config.hidden_size, config.vocab_size);
        let table = |name: &str| loader.matrix(&[(format!("{name}.weight"), vocab)], hidden);
        let positions = || loader.tensor(&format!("{}.weight", names.positions), &[config.n_positions, hidden]);
        let weights = Weights {
            tokens: table(names.tokens)?,
            positions: if config.rope.is_none() { Some(positions()?) } else { None },
            layers: (0..config.n_layers).map(|i| loader.layer(i)).collect::<Result<_>>()?,
            final_norm: loader.norm(names.final_norm)?,
            head: if config.tied_head { None } else { Some(table(names.head)?) },
        };
        gpu.flush()?;
        Ok(weights)
    }

    /// Bytes on the device.
    pub(crate) fn bytes(&self) -> u64 {
        let some = |t: &Option<Tensor>| t.as_ref().map_or(0, Tensor::bytes);
        let norm = |n: &Norm| n.weight.bytes() + some(&n.bias);
        let linear = |l: &Linear| l.weight.bytes() + some(&l.bias);
        let layer = |l: &Layer| {
            let linears: u64 = [&l.qkv, &l.project, &l.up, &l.down].into_iter().map(linear).sum();
            linears + norm(&l.attention_norm) + norm(&l.mlp_norm) + some(&l.head_norm)
        };
        let embeddings = self.tokens.bytes() + some(&self.positions) + self.head.as_ref().map_or(0, Weight::bytes);
        embeddings + self.layers.iter().map(layer).sum::<u64>() + norm(&self.final_norm)
    }
}
