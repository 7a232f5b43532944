//! The forward pass, one for all families: what a decoder-only transformer does to a batch of rows, as a list of ops.

use crate::error::Result;
use crate::gpu::GpuCompute;
use crate::model::Model;
use crate::model::config::Config;
use crate::model::weights::{Layer, Linear, Norm};
use crate::ops::{self, Activation, Attention, Epilogue};
use crate::pass::Pass;
use crate::tensor::{DType, Tensor, Weight};

/// Keys and values of every layer, `[slots * context, hidden]` each, in buffers of their own.
pub(crate) struct KvCache {
    layers: Vec<(Tensor, Tensor)>,
}

impl KvCache {
    pub(crate) fn new(gpu: &GpuCompute, config: &Config, slots: usize) -> Result<KvCache> {
        let shape = [slots * config.n_positions, config.hidden_size];
        // A position is read only after it was written.
        let half = || gpu.empty(&shape, DType::F32);
        let layer = |_| Ok((half()?, half()?));
        Ok(KvCache { layers: (0..config.n_layers).map(layer).collect::<Result<_>>()? })
    }
}

/// Records the blocks of the model for `rows` `[m, 4]` and returns the hidden states `[m, hidden]` before the final norm.
/// What a block adds to them is added where the next one normalises them, in one dispatch. `cut`: long work is submitted
/// in parts.
pub(crate) fn forward(pass: &mut Pass, model: &Model, cache: &mut KvCache, rows: &Tensor, cut: bool) -> Result<Tensor> {
    let weights = &model.weights;
    let mut x = pass.tensor(&[rows.rows(), model.config.hidden_size])?;
    ops::embed(pass, rows, &weights.tokens, Some(&weights.positions), &mut x)?;
    // What the block before has to add to x.
    let mut added: Option<Tensor> = None;
    for (i, (layer, kv)) in weights.layers.iter().zip(&mut cache.layers).enumerate() {
        let normed = add_norm(pass, model, &mut x, added, &layer.attention_norm)?;
        let attended = attend(pass, model, i, layer, kv, rows, normed)?;
        let normed = add_norm(pass, model, &mut x, Some(attended), &layer.mlp_norm)?;
        added = Some(feed_forward(pass, model, layer, normed)?);
        if cut && pass.is_long() {
            pass.flush()?;
        }
    }
    if let Some(added) = added {
        ops::add(pass, &mut x, &added)?;
    }
    Ok(x)
}

/// x += added, and norm(x). All `[m, hidden]`.
fn add_norm(pass: &mut Pass, model: &Model, x: &mut Tensor, added: Option<Tensor>, norm: &Norm) -> Result<Tensor> {
    let (eps, mut normed) = (model.config.norm_eps, pass.tensor(x.shape())?);
    match added {
        Some(added) => ops::add_layer_norm(pass, x, &added, &norm.weight, &norm.bias, eps, &mut normed)?,
        None => ops::layer_norm(pass, (x, 0), &norm.weight, &norm.bias, eps, &mut normed)?,
    }
    Ok(normed)
}

/// project(attention(qkv(x))). x:`[m, hidden]`
fn attend(
    pass: &mut Pass,
    model: &Model,
    index: usize,
    layer: &Layer,
    (keys, values): &mut (Tensor, Tensor),
    rows: &Tensor,
    x: Tensor,
) -> Result<Tensor> {
    let config = &model.config;
    let shape = Attention {
        heads: config.n_heads,
        kv_heads: config.n_heads,
        head_dim: config.head_dim(),
        context: config.n_positions,
        scale: attention_scale(config, index),
        causal: true,
    };
    let qkv = linear(pass, &x, &layer.qkv, None)?;
    let mut attended = x;
    ops::attention(pass, rows, &qkv, (keys, values), &shape, &mut attended)?;
    linear(pass, &attended, &layer.project, None)
}

/// down(activation(up(x))). x:`[m, hidden]`
fn feed_forward(pass: &mut Pass, model: &Model, layer: &Layer, x: Tensor) -> Result<Tensor> {
    let inner = linear(pass, &x, &layer.up, Some(model.config.activation))?;
    linear(pass, &inner, &layer.down, None)
}

/// Logits `[m, vocab]` of rows `first_row..first_row + m` of the hidden states x.
pub(crate) fn head(pass: &mut Pass, model: &Model, x: &Tensor, first_row: usize, m: usize) -> Result<Tensor> {
    let (config, weights) = (&model.config, &model.weights);
    let mut normed = pass.tensor(&[m, config.hidden_size])?;
    let norm = &weights.final_norm;
    ops::layer_norm(pass, (x, first_row), &norm.weight, &norm.bias, config.norm_eps, &mut normed)?;
    let matrix: &Weight = weights.head.as_ref().unwrap_or(&weights.tokens);
    let mut logits = pass.tensor(&[m, config.vocab_size])?;
    ops::linear(pass, &normed, matrix, None, &mut logits)?;
    Ok(logits)
}

/// activation(x w^T + bias), in one dispatch per chunk of w.
fn linear(pass: &mut Pass, x: &Tensor, layer: &Linear, activation: Option<Activation>) -> Result<Tensor> {
    let mut out = pass.tensor(&[x.rows(), layer.weight.rows()])?;
    let epilogue = Epilogue { bias: Some(&layer.bias), activation };
    ops::linear_with(pass, x, &layer.weight, epilogue, &mut out)?;
    Ok(out)
}

/// 1 / sqrt(head_dim), as GPT-2's options change it.
fn attention_scale(config: &Config, layer: usize) -> f32 {
    let scale = if config.scale_attention { 1.0 / (config.head_dim() as f64).sqrt() } else { 1.0 };
    let scale = if config.scale_by_layer { scale / (layer + 1) as f64 } else { scale };
    scale as f32
}
