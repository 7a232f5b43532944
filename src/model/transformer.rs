//! The forward pass, one for all families: what a decoder-only transformer does to a batch of rows, as a list of ops.
//!
//! It is a function and no graph: ops record into a pass in the order in which they stand here, and decoding keeps that
//! record and replays it. Nothing has to be scheduled, since one queue runs in order, and nothing planned for memory, since
//! a tensor that is dropped here is the next one's buffer. Reading and writing are the same code on more rows or on fewer,
//! so a prompt cannot be computed otherwise than the tokens after it; a model's family is its config and its weights.
//! What a model has no weights for is left out.

use std::num::NonZero;

use crate::error::Result;
use crate::gpu::GpuCompute;
use crate::model::Model;
use crate::model::config::{Config, Rotary};
use crate::model::session::{Dispatches, SessionOptions};
use crate::model::weights::{Layer, Linear, Norm};
use crate::ops::{self, Attention, Decode, Epilogue, Rope, Turn};
use crate::pass::Pass;
use crate::tensor::{Tensor, Weight};

/// Keys and values of every layer, `[slots * context, kv_heads * head_dim]` each, in buffers of their own.
pub(crate) struct KvCache {
    layers: Vec<(Tensor, Tensor)>,
    /// Positions per slot.
    pub(crate) context: usize,
    /// Norms are computed within the products that follow.
    norms_within: bool,
    /// Parts of the positions in a step's attention, if not as the adapter suits.
    parts: Option<usize>,
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
        let software = gpu.adapter().is_none_or(|adapter| adapter.software);
        let norms_within = match options.dispatches {
            Dispatches::Auto => !software,
            Dispatches::Fewest => true,
            Dispatches::Apart => false,
        };
        let angles = config.rope.as_ref().map(table).transpose()?;
        Ok(KvCache { layers, context, norms_within, parts: options.parts.map(NonZero::get), angles })
    }
}

/// What rows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rows {
    /// Tokens of any sequences, each sequence's one after the other.
    Prompt,
    /// One token of each sequence.
    Step,
}

/// Records the blocks of the model for `rows` `[m, 4]` and returns the hidden states `[m, hidden]` before the final norm: the
/// residual stream, to which every block adds. The work of prompts is submitted in parts where it is long.
pub(crate) fn forward(
    pass: &mut Pass,
    model: &Model,
    cache: &mut KvCache,
    rows: &Tensor,
    kind: Rows,
) -> Result<Tensor> {
    let weights = &model.weights;
    let mut x = pass.tensor(&[rows.rows(), model.config.hidden_size])?;
    ops::embed(pass, rows, &weights.tokens, weights.positions.as_ref(), &mut x)?;
    for (i, layer) in weights.layers.iter().enumerate() {
        let attended = attend(pass, model, (i, layer), cache, (rows, kind), &x)?;
        add_linear(pass, &attended, &layer.project, &mut x)?;
        submit_if_long(pass, kind)?;
        let inner = feed_forward(pass, model, cache, layer, &x)?;
        submit_if_long(pass, kind)?;
        add_linear(pass, &inner, &layer.down, &mut x)?;
        submit_if_long(pass, kind)?;
    }
    Ok(x)
}

/// Submits what is recorded of a prompt where a watchdog might take it for a hang. Of a large model one product alone is that.
fn submit_if_long(pass: &mut Pass, kind: Rows) -> Result<()> {
    if kind == Rows::Prompt && pass.is_long() { pass.flush() } else { Ok(()) }
}

/// attention(turn(qkv(norm(x)))). x:`[m, hidden]`
fn attend(
    pass: &mut Pass,
    model: &Model,
    (index, layer): (usize, &Layer),
    cache: &mut KvCache,
    (rows, kind): (&Tensor, Rows),
    x: &Tensor,
) -> Result<Tensor> {
    let config = &model.config;
    let mut qkv = pass.tensor(&[x.rows(), layer.qkv.weight.rows()])?;
    let epilogue = Epilogue { bias: layer.qkv.bias.as_ref(), ..Epilogue::default() };
    let norm = norm(model, &layer.attention_norm);
    norm_linear(pass, (x, &norm, cache.norms_within), &layer.qkv.weight, (epilogue, false), &mut qkv)?;
    let attention = Attention {
        heads: config.n_heads,
        kv_heads: config.n_kv_heads,
        head_dim: config.head_dim,
        context: cache.context,
        scale: attention_scale(config, index),
        causal: true,
    };
    let turn = config.rope.as_ref().zip(cache.angles.as_ref()).map(|(rope, table)| Turn {
        table,
        rotary_dim: rope.dim(),
        pairing: rope.pairing,
        norm: layer.head_norm.as_ref().map(|weight| (weight, config.norm_eps)),
    });
    let mut attended = pass.tensor(&[x.rows(), config.q_width()])?;
    let Some((keys, values)) = cache.layers.get_mut(index) else { return Ok(attended) };
    match kind {
        Rows::Step => {
            let decode = Decode { attention, turn, parts: cache.parts };
            ops::attention_decode(pass, rows, &qkv, (keys, values), &decode, &mut attended)?;
        }
        Rows::Prompt => {
            if let Some(turn) = turn {
                turned(pass, rows, &turn, &attention, &mut qkv)?;
            }
            ops::attention(pass, rows, &qkv, (keys, values), &attention, &mut attended)?;
        }
    }
    Ok(attended)
}

/// Turns queries and keys by their positions, normed first where the layer has norms for them.
fn turned(pass: &mut Pass, rows: &Tensor, turn: &Turn<'_>, shape: &Attention, qkv: &mut Tensor) -> Result<()> {
    let &Turn { table, rotary_dim, pairing, norm } = turn;
    // Keys follow queries, and so both are the first heads of a row.
    let shape = Rope { heads: shape.heads + shape.kv_heads, head_dim: shape.head_dim, rotary_dim, pairing };
    match norm {
        Some(norm) => ops::norm_rope(pass, rows, norm, table, qkv, &shape),
        None => ops::rope(pass, rows, table, qkv, &shape),
    }
}

/// activation(up(norm(x))), or silu(gate(norm(x))) * up(norm(x)). x:`[m, hidden]`
fn feed_forward(pass: &mut Pass, model: &Model, cache: &KvCache, layer: &Layer, x: &Tensor) -> Result<Tensor> {
    let config = &model.config;
    let mut inner = pass.tensor(&[x.rows(), config.n_inner])?;
    let activation = Some(config.activation).filter(|_| !config.gated);
    let epilogue = Epilogue { bias: layer.up.bias.as_ref(), activation, ..Epilogue::default() };
    let norm = norm(model, &layer.mlp_norm);
    norm_linear(pass, (x, &norm, cache.norms_within), &layer.up.weight, (epilogue, config.gated), &mut inner)?;
    Ok(inner)
}

/// A layer of norm(x), the norm within its product or before it.
fn norm_linear(
    pass: &mut Pass,
    (x, norm, within): (&Tensor, &ops::Norm<'_>, bool),
    w: &Weight,
    (epilogue, gated): (Epilogue<'_>, bool),
    out: &mut Tensor,
) -> Result<()> {
    if within {
        return ops::norm_linear(pass, x, Some(norm), w, epilogue, gated, out);
    }
    let mut normed = pass.tensor(x.shape())?;
    norm.of(pass, (x, 0), &mut normed)?;
    ops::norm_linear(pass, &normed, None, w, epilogue, gated, out)
}

/// Logits `[m, vocab]` of rows `first_row..first_row + m` of the hidden states x.
pub(crate) fn head(
    pass: &mut Pass,
    model: &Model,
    cache: &KvCache,
    x: &Tensor,
    (first_row, m): (usize, usize),
) -> Result<Tensor> {
    let (config, weights) = (&model.config, &model.weights);
    let norm = norm(model, &weights.final_norm);
    let matrix: &Weight = weights.head.as_ref().unwrap_or(&weights.tokens);
    let mut logits = pass.tensor(&[m, config.vocab_size])?;
    if cache.norms_within && (first_row, m) == (0, x.rows()) {
        ops::norm_linear(pass, x, Some(&norm), matrix, Epilogue::default(), false, &mut logits)?;
        return Ok(logits);
    }
    let mut normed = pass.tensor(&[m, config.hidden_size])?;
    norm.of(pass, (x, first_row), &mut normed)?;
    ops::linear(pass, &normed, matrix, None, &mut logits)?;
    Ok(logits)
}

/// x += layer(inner): the end of a block.
fn add_linear(pass: &mut Pass, inner: &Tensor, layer: &Linear, x: &mut Tensor) -> Result<()> {
    let epilogue = Epilogue { bias: layer.bias.as_ref(), accumulate: true, ..Epilogue::default() };
    ops::linear_with(pass, inner, &layer.weight, epilogue, x)
}

/// One of the model's norms.
fn norm<'a>(model: &Model, Norm { weight, bias }: &'a Norm) -> ops::Norm<'a> {
    ops::Norm { weight, bias: bias.as_ref(), eps: model.config.norm_eps }
}

/// 1 / sqrt(head_dim), as GPT-2's options change it.
fn attention_scale(config: &Config, layer: usize) -> f32 {
    let scale = if config.scale_attention { 1.0 / (config.head_dim as f64).sqrt() } else { 1.0 };
    let scale = if config.scale_by_layer { scale / (layer + 1) as f64 } else { scale };
    scale as f32
}
