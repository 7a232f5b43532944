//! The forward pass, one for all families: what a decoder-only transformer does to a batch of rows, as a list of ops.
//!
//! It is a function and no graph: ops record into a pass in the order in which they stand here, and decoding keeps that
//! record and replays it. Nothing has to be scheduled, since one queue runs in order, and nothing planned for memory, since
//! a tensor that is dropped here is the next one's buffer. Reading and writing are the same code on more rows or on fewer,
//! so a prompt cannot be computed otherwise than the tokens after it; a model's family is its config and its weights.
//! What a model has no weights for is left out.

use crate::error::Result;
use crate::gpu::GpuCompute;
use crate::model::Model;
use crate::model::config::{Config, Rotary};
use crate::model::session::SessionOptions;
use crate::model::weights::{Layer, Linear, Norm};
use crate::ops::{self, Activation, Attention, Epilogue, Rope};
use crate::pass::Pass;
use crate::tensor::{Tensor, Weight};

/// Keys and values of every layer, `[slots * context, kv_heads * head_dim]` each, in buffers of their own.
pub(crate) struct KvCache {
    layers: Vec<(Tensor, Tensor)>,
    /// Positions per slot.
    pub(crate) context: usize,
    /// `[context, rotary dim]`: what each position turns queries and keys by, if it does.
    angles: Option<Tensor>,
}

impl KvCache {
    pub(crate) fn new(gpu: &GpuCompute, config: &Config, slots: usize, options: &SessionOptions) -> Result<KvCache> {
        let context = options.context;
        let shape = [slots.saturating_mul(context), config.kv_width()];
        let dtype = options.kv.dtype();
        // A position is read only after it was written. Exact, because a class of the pool may be a third larger.
        let half = || if gpu.is_gpu() { gpu.exact_tensor(&shape, dtype) } else { gpu.empty(&shape, dtype) };
        let layer = |_| Ok((half()?, half()?));
        let layers = (0..config.n_layers).map(layer).collect::<Result<_>>()?;
        let table = |rope: &Rotary| {
            let angles = ops::rope_table(context, &rope.frequencies, rope.magnitude);
            gpu.tensor(&angles, &[context, rope.dim()])
        };
        Ok(KvCache { layers, context, angles: config.rope.as_ref().map(table).transpose()? })
    }
}

/// Records the blocks of the model for `rows` `[m, 4]` and returns the hidden states `[m, hidden]` before the final norm.
/// What a block adds to them is added where the next one normalises them, in one dispatch. `cut`: long work is submitted
/// in parts.
pub(crate) fn forward(pass: &mut Pass, model: &Model, cache: &mut KvCache, rows: &Tensor, cut: bool) -> Result<Tensor> {
    let weights = &model.weights;
    let mut x = pass.tensor(&[rows.rows(), model.config.hidden_size])?;
    ops::embed(pass, rows, &weights.tokens, weights.positions.as_ref(), &mut x)?;
    // What the block before has to add to x.
    let mut added: Option<Tensor> = None;
    for (i, layer) in weights.layers.iter().enumerate() {
        let normed = add_norm(pass, model, &mut x, added, &layer.attention_norm)?;
        let attended = attend(pass, model, (i, layer), cache, rows, normed)?;
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
    let Norm { weight, bias } = norm;
    match (added, bias) {
        (Some(added), Some(bias)) => ops::add_layer_norm(pass, x, &added, weight, bias, eps, &mut normed)?,
        (Some(added), None) => ops::add_rms_norm(pass, x, &added, weight, eps, &mut normed)?,
        (None, Some(bias)) => ops::layer_norm(pass, (x, 0), weight, bias, eps, &mut normed)?,
        (None, None) => ops::rms_norm(pass, (x, 0), weight, eps, &mut normed)?,
    }
    Ok(normed)
}

/// project(attention(turn(qkv(x)))). x:`[m, hidden]`
fn attend(
    pass: &mut Pass,
    model: &Model,
    (index, layer): (usize, &Layer),
    cache: &mut KvCache,
    rows: &Tensor,
    x: Tensor,
) -> Result<Tensor> {
    let config = &model.config;
    let mut qkv = linear(pass, &x, &layer.qkv, None)?;
    if let (Some(rope), Some(angles)) = (&config.rope, &cache.angles) {
        turn(pass, config, (rope, angles), layer, rows, &mut qkv)?;
    }
    let shape = Attention {
        heads: config.n_heads,
        kv_heads: config.n_kv_heads,
        head_dim: config.head_dim,
        context: cache.context,
        scale: attention_scale(config, index),
        causal: true,
    };
    let mut attended = pass.tensor(&[x.rows(), config.q_width()])?;
    if let Some((keys, values)) = cache.layers.get_mut(index) {
        ops::attention(pass, rows, &qkv, (keys, values), &shape, &mut attended)?;
    }
    linear(pass, &attended, &layer.project, None)
}

/// Turns queries and keys by their positions, normalised first where the layer has norms for them.
fn turn(
    pass: &mut Pass,
    config: &Config,
    (rope, angles): (&Rotary, &Tensor),
    layer: &Layer,
    rows: &Tensor,
    qkv: &mut Tensor,
) -> Result<()> {
    // Keys follow queries, and so both are the first heads of a row.
    let heads = config.n_heads + config.n_kv_heads;
    let shape = Rope { heads, head_dim: config.head_dim, rotary_dim: rope.dim(), pairing: rope.pairing };
    match &layer.head_norm {
        Some(weight) => ops::norm_rope(pass, rows, (weight, config.norm_eps), angles, qkv, &shape),
        None => ops::rope(pass, rows, angles, qkv, &shape),
    }
}

/// down(activation(up(x))), or down(silu(gate(x)) * up(x)). x:`[m, hidden]`
fn feed_forward(pass: &mut Pass, model: &Model, layer: &Layer, x: Tensor) -> Result<Tensor> {
    let config = &model.config;
    let inner = if config.gated {
        let gate_and_up = linear(pass, &x, &layer.up, None)?;
        let mut inner = pass.tensor(&[x.rows(), config.n_inner])?;
        ops::swiglu(pass, &gate_and_up, &mut inner)?;
        inner
    } else {
        linear(pass, &x, &layer.up, Some(config.activation))?
    };
    linear(pass, &inner, &layer.down, None)
}

/// Logits `[m, vocab]` of rows `first_row..first_row + m` of the hidden states x.
pub(crate) fn head(pass: &mut Pass, model: &Model, x: &Tensor, first_row: usize, m: usize) -> Result<Tensor> {
    let (config, weights) = (&model.config, &model.weights);
    let mut normed = pass.tensor(&[m, config.hidden_size])?;
    let Norm { weight, bias } = &weights.final_norm;
    match bias {
        Some(bias) => ops::layer_norm(pass, (x, first_row), weight, bias, config.norm_eps, &mut normed)?,
        None => ops::rms_norm(pass, (x, first_row), weight, config.norm_eps, &mut normed)?,
    }
    let matrix: &Weight = weights.head.as_ref().unwrap_or(&weights.tokens);
    let mut logits = pass.tensor(&[m, config.vocab_size])?;
    ops::linear(pass, &normed, matrix, None, &mut logits)?;
    Ok(logits)
}

/// activation(x w^T + bias), in one dispatch per chunk of w.
fn linear(pass: &mut Pass, x: &Tensor, layer: &Linear, activation: Option<Activation>) -> Result<Tensor> {
    let mut out = pass.tensor(&[x.rows(), layer.weight.rows()])?;
    let epilogue = Epilogue { bias: layer.bias.as_ref(), activation };
    ops::linear_with(pass, x, &layer.weight, epilogue, &mut out)?;
    Ok(out)
}

/// 1 / sqrt(head_dim), as GPT-2's options change it.
fn attention_scale(config: &Config, layer: usize) -> f32 {
    let scale = if config.scale_attention { 1.0 / (config.head_dim as f64).sqrt() } else { 1.0 };
    let scale = if config.scale_by_layer { scale / (layer + 1) as f64 } else { scale };
    scale as f32
}
