//! A model's configuration: the numbers of `config.json`, checked and capped.
//!
//! The one rule: what would change the result is either honoured or refused by name, never ignored. What the keys are and
//! what a missing one means is the family's business: `config/gpt2.rs`, `config/llama.rs`. What is computed is in [`Config`]
//! alone, and the forward looks at nothing else.

#![forbid(unsafe_code)]
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used)]
#![deny(clippy::panic, clippy::unreachable)]

mod gguf;
mod gpt2;
mod keys;
mod llama;
mod rope;

use std::fmt;

use crate::error::{Error, Result};
use crate::ops::{Activation, Gelu};
use keys::Keys;
pub use rope::Rotary;

/// Most tokens in a vocabulary.
const MAX_VOCAB: usize = 1 << 20;
/// Most positions a model can attend to.
const MAX_POSITIONS: usize = 1 << 20;
/// Widest hidden state, and all heads together, in elements.
const MAX_HIDDEN: usize = 1 << 16;
/// Widest inner layer of the MLP, in elements.
const MAX_INNER: usize = 1 << 20;
/// Most layers.
const MAX_LAYERS: usize = 1024;
/// Most attention heads.
const MAX_HEADS: usize = 1024;
/// Most ids that end a text.
const MAX_EOS: usize = 64;

/// Keys of any family that change a model's result and are not implemented, with the value at which they do nothing.
const NOT_IMPLEMENTED: [(&str, &str); 4] =
    [("is_encoder_decoder", "false"), ("pruned_heads", "{}"), ("quantization_config", "null"), ("auto_map", "{}")];

/// Who defined the architecture: it says what tensors are called and how they lie.
///
/// ```
/// use gristmill::model::{Config, Family};
///
/// let text = r#"{ "model_type": "qwen2", "vocab_size": 99, "hidden_size": 32, "intermediate_size": 64,
///                 "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2 }"#;
/// assert_eq!(Config::from_json(text)?.family, Family::Qwen2);
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Family {
    /// OpenAI's GPT-2.
    Gpt2,
    /// Meta's Llama, all versions that `LlamaForCausalLM` reads.
    Llama,
    /// Alibaba's Qwen2 and Qwen2.5.
    Qwen2,
    /// Alibaba's Qwen3, the dense ones.
    Qwen3,
}

impl Family {
    const ALL: [Family; 4] = [Family::Gpt2, Family::Llama, Family::Qwen2, Family::Qwen3];

    /// Its name, as its makers write it.
    pub fn name(self) -> &'static str {
        match self {
            Family::Gpt2 => "GPT-2",
            Family::Llama => "Llama",
            Family::Qwen2 => "Qwen2",
            Family::Qwen3 => "Qwen3",
        }
    }

    fn model_type(self) -> &'static str {
        match self {
            Family::Gpt2 => "gpt2",
            Family::Llama => "llama",
            Family::Qwen2 => "qwen2",
            Family::Qwen3 => "qwen3",
        }
    }

    /// `architectures` whose weights are a language model of this family. Classifiers have another head, and no text to
    /// generate.
    fn architectures(self) -> &'static [&'static str] {
        match self {
            Family::Gpt2 => &gpt2::ARCHITECTURES,
            Family::Llama => &["LlamaForCausalLM", "LlamaModel"],
            Family::Qwen2 => &["Qwen2ForCausalLM", "Qwen2Model"],
            Family::Qwen3 => &["Qwen3ForCausalLM", "Qwen3Model"],
        }
    }

    /// The family of a `config.json`.
    fn of(keys: &Keys<'_>) -> Result<Family> {
        let architectures = keys.parsed::<Vec<String>>("architectures", "a list of names")?.unwrap_or_default();
        let model_type = keys.parsed::<String>("model_type", "a name")?;
        let family = match (&model_type, architectures.first()) {
            (Some(name), _) => Family::ALL.into_iter().find(|family| family.model_type() == name),
            // Files from before 2020 have no model_type.
            (None, Some(first)) => {
                Family::ALL.into_iter().find(|family| family.architectures().contains(&first.as_str()))
            }
            (None, None) => None,
        };
        let key = if model_type.is_none() && !architectures.is_empty() { "architectures" } else { "model_type" };
        let family = family.ok_or_else(|| keys.unsupported(key))?;
        let known = |name: &String| family.architectures().contains(&name.as_str());
        if architectures.iter().all(known) { Ok(family) } else { Err(keys.unsupported("architectures")) }
    }
}

/// The shape of a model, and the options that change what it computes.
///
/// ```
/// use gristmill::model::Config;
///
/// assert_eq!(Config::gpt2_small().parameters()?, 124_439_808);
/// let text = r#"{ "model_type": "gpt2", "n_embd": 48, "n_head": 5 }"#;
/// let error = Config::from_json(text).expect_err("five heads do not divide 48");
/// assert!(error.to_string().contains("n_head"));
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// Whose architecture it is.
    pub family: Family,
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Positions the model can attend to. A session's context may be shorter.
    pub n_positions: usize,
    /// Elements of the hidden state.
    pub hidden_size: usize,
    /// Transformer blocks.
    pub n_layers: usize,
    /// Attention heads.
    pub n_heads: usize,
    /// Key and value heads, which groups of `n_heads` / `n_kv_heads` attention heads share.
    pub n_kv_heads: usize,
    /// Elements of one attention head.
    pub head_dim: usize,
    /// Elements of the MLP's inner layer.
    pub n_inner: usize,
    /// The MLP's nonlinearity.
    pub activation: Activation,
    /// Whether the MLP is down(activation(gate(x)) * up(x)), and not down(activation(up(x))).
    pub gated: bool,
    /// Whether norms are RMS norms, without a bias, and not layer norms.
    pub rms_norm: bool,
    /// Added to the variance, or to the mean square, in every norm.
    pub norm_eps: f32,
    /// Whether each head of queries and keys is normalised, before it is turned.
    pub head_norm: bool,
    /// How queries and keys are turned by their positions; `None`: positions have embeddings instead.
    pub rope: Option<Rotary>,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether the output projection of attention has a bias.
    pub output_bias: bool,
    /// Whether the matrices of the MLP have biases.
    pub mlp_bias: bool,
    /// Whether the output head is the token embedding again, and no tensor of its own.
    pub tied_head: bool,
    /// Whether attention scores are divided by the square root of the head's width.
    pub scale_attention: bool,
    /// Whether the scores of layer `i`, counted from zero, are divided by `i + 1` as well.
    pub scale_by_layer: bool,
    /// Tokens that end a text, each below `vocab_size`; may be empty.
    pub eos: Vec<u32>,
    /// The token that begins a text, if the model has one.
    pub bos: Option<u32>,
}

impl Config {
    /// A GPT-2 of these sizes, with its options otherwise: an inner layer of four times `hidden`, tanh GELU, an epsilon of
    /// 1e-5, a tied head, scaled attention; and no special tokens. Nothing is checked: see [`Config::validate`].
    pub fn new(vocab: usize, positions: usize, hidden: usize, layers: usize, heads: usize) -> Self {
        Self {
            family: Family::Gpt2,
            vocab_size: vocab,
            n_positions: positions,
            hidden_size: hidden,
            n_layers: layers,
            n_heads: heads,
            n_kv_heads: heads,
            head_dim: hidden.checked_div(heads).unwrap_or(0),
            n_inner: hidden.saturating_mul(4),
            activation: Activation::Gelu(Gelu::Tanh),
            gated: false,
            rms_norm: false,
            norm_eps: 1e-5,
            head_norm: false,
            rope: None,
            qkv_bias: true,
            output_bias: true,
            mlp_bias: true,
            tied_head: true,
            scale_attention: true,
            scale_by_layer: false,
            eos: Vec::new(),
            bos: None,
        }
    }

    /// GPT-2 as published, the smallest: 124,439,808 parameters.
    pub fn gpt2_small() -> Self {
        gpt2::small()
    }

    /// Reads the text of a `config.json`, and validates it.
    ///
    /// Special tokens outside the vocabulary are dropped with a warning: published models have them, and no model can
    /// emit one. Defaults for sampling that older files carry are not read; a caller states its own.
    ///
    /// # Errors
    /// [`Error::BadFile`] if it is not a JSON object, or has a key twice; [`Error::BadConfig`] for a value that is
    /// impossible; [`Error::UnsupportedOption`] for one that is possible, and not implemented here.
    pub fn from_json(text: &str) -> Result<Self> {
        let keys = Keys::parse(text)?;
        let family = Family::of(&keys)?;
        keys.refuse(&NOT_IMPLEMENTED)?;
        let config = match family {
            Family::Gpt2 => gpt2::read(&keys)?,
            Family::Llama | Family::Qwen2 | Family::Qwen3 => llama::read(&keys, family)?,
        };
        config.validate()?;
        Ok(config)
    }

    /// Checks that every number is possible, within its cap, and fits the others.
    ///
    /// The caps: a vocabulary and a context of 2^20, a hidden state and heads together of 65,536, an inner layer of 2^20,
    /// 1,024 layers, 1,024 heads. Within them, no count of elements or bytes of such a model overflows 64 bits.
    ///
    /// # Errors
    /// [`Error::BadConfig`] with the key as `config.json` spells it.
    pub fn validate(&self) -> Result<()> {
        self.validate_sizes()?;
        self.validate_options()?;
        // A subnormal epsilon counts as zero on most GPUs, and a constant row would divide by it.
        if !self.norm_eps.is_normal() || !(0.0..1.0).contains(&self.norm_eps) {
            let message = format!("{:e} is not a normal f32 between 0 and 1", self.norm_eps);
            return Err(bad(self.key("layer_norm_epsilon", "rms_norm_eps"), message));
        }
        for (key, tokens) in [("eos_token_id", self.eos.as_slice()), ("bos_token_id", self.bos.as_slice())] {
            if let Some(token) = tokens.iter().find(|&&token| token as usize >= self.vocab_size) {
                return Err(bad(key, format!("{token} is not in the vocabulary of {}", self.vocab_size)));
            }
        }
        Ok(())
    }

    /// What counts and widths must be before anything of their size is made.
    fn validate_sizes(&self) -> Result<()> {
        let sizes = [
            ("vocab_size", "vocab_size", self.vocab_size, MAX_VOCAB),
            ("n_positions", "max_position_embeddings", self.n_positions, MAX_POSITIONS),
            ("n_embd", "hidden_size", self.hidden_size, MAX_HIDDEN),
            ("n_layer", "num_hidden_layers", self.n_layers, MAX_LAYERS),
            ("n_head", "num_attention_heads", self.n_heads, MAX_HEADS),
            ("n_head", "num_key_value_heads", self.n_kv_heads, MAX_HEADS),
            ("n_inner", "intermediate_size", self.n_inner, MAX_INNER),
        ];
        for (gpt2, other, value, max) in sizes {
            if value == 0 || value > max {
                return Err(bad(self.key(gpt2, other), format!("{value} is not between 1 and {max}")));
            }
        }
        let (hidden, heads, kv_heads, head_dim) = (self.hidden_size, self.n_heads, self.n_kv_heads, self.head_dim);
        if self.family == Family::Gpt2 && heads.checked_mul(head_dim) != Some(hidden) {
            return Err(bad("n_head", format!("{heads} heads do not divide n_embd = {hidden}")));
        }
        if !heads.is_multiple_of(kv_heads) {
            let message = format!("{kv_heads} do not divide num_attention_heads = {heads}");
            return Err(bad(self.key("n_head", "num_key_value_heads"), message));
        }
        if head_dim == 0 || heads.checked_mul(head_dim).is_none_or(|width| width > MAX_HIDDEN) {
            let message = format!("{heads} heads of {head_dim} are not between 1 and {MAX_HIDDEN} elements");
            return Err(bad(self.key("n_head", "head_dim"), message));
        }
        if self.family != Family::Gpt2 && !head_dim.is_multiple_of(2) {
            return Err(bad("head_dim", format!("{head_dim} is odd, and elements are turned in pairs")));
        }
        Ok(())
    }

    /// What a family has no tensors for, it cannot compute.
    fn validate_options(&self) -> Result<()> {
        let gpt2 = self.family == Family::Gpt2;
        let options = [
            ("rope_parameters", self.rope.is_none() == gpt2),
            ("num_key_value_heads", !gpt2 || self.n_kv_heads == self.n_heads),
            ("hidden_act", self.gated != gpt2 && (gpt2 || self.activation == Activation::Silu)),
            ("rms_norm_eps", self.rms_norm != gpt2),
            ("attention_bias", !gpt2 || self.qkv_bias && self.output_bias),
            ("mlp_bias", !gpt2 || self.mlp_bias),
        ];
        if let Some((key, _)) = options.iter().find(|(_, fits)| !fits) {
            return Err(bad(key, format!("this option is none of {}", self.family.name())));
        }
        match &self.rope {
            Some(rope) if rope.dim() > self.head_dim || !rope.is_finite() => {
                let (count, head_dim) = (rope.frequencies.len(), self.head_dim);
                Err(bad("rope_parameters", format!("{count} frequencies for heads of {head_dim}, or one is no number")))
            }
            _ => Ok(()),
        }
    }

    /// The key as the family spells it.
    fn key(&self, gpt2: &'static str, other: &'static str) -> &'static str {
        if self.family == Family::Gpt2 { gpt2 } else { other }
    }

    /// Columns of the queries of a row: those of all heads.
    pub(crate) fn q_width(&self) -> usize {
        self.n_heads.saturating_mul(self.head_dim)
    }

    /// Columns of the keys of a row, or of its values.
    pub(crate) fn kv_width(&self) -> usize {
        self.n_kv_heads.saturating_mul(self.head_dim)
    }

    /// Columns of queries, keys and values of a row, one after the other.
    pub(crate) fn qkv_width(&self) -> usize {
        self.q_width().saturating_add(self.kv_width().saturating_mul(2))
    }

    /// Columns of what the MLP's first matrices make: gate and up, or up alone.
    pub(crate) fn up_width(&self) -> usize {
        self.n_inner.saturating_mul(if self.gated { 2 } else { 1 })
    }

    /// Parameters of the model, a tied head counted once.
    ///
    /// # Errors
    /// [`Error::BadConfig`], from [`Config::validate`].
    pub fn parameters(&self) -> Result<u64> {
        self.validate()?;
        // Every factor is capped now, and the largest sum is below 2^49; saturation cannot happen, nor can overflow.
        let matrix = |rows: usize, columns: usize| (rows as u64).saturating_mul(columns as u64);
        let hidden = self.hidden_size;
        let linear =
            |inputs, outputs, bias| matrix(inputs, outputs).saturating_add(if bias { outputs as u64 } else { 0 });
        let norm = matrix(if self.rms_norm { 1 } else { 2 }, hidden);
        let layer = [
            norm,
            linear(hidden, self.qkv_width(), self.qkv_bias),
            if self.head_norm { matrix(2, self.head_dim) } else { 0 },
            linear(self.q_width(), hidden, self.output_bias),
            norm,
            linear(hidden, self.up_width(), self.mlp_bias),
            linear(self.n_inner, hidden, self.mlp_bias),
        ];
        let tables = if self.tied_head { 1 } else { 2 };
        let whole = [
            matrix(self.vocab_size, hidden).saturating_mul(tables),
            if self.rope.is_none() { matrix(self.n_positions, hidden) } else { 0 },
            layer.iter().sum::<u64>().saturating_mul(self.n_layers as u64),
            norm,
        ];
        Ok(whole.iter().sum())
    }

    /// Bytes the parameters take as `f32`.
    ///
    /// # Errors
    /// [`Error::BadConfig`], from [`Config::validate`].
    pub fn weight_bytes(&self) -> Result<u64> {
        Ok(self.parameters()?.saturating_mul(4))
    }
}

impl fmt::Display for Config {
    /// Family and options in one line: `Llama, 2 layers of 64, heads 8:2 of 8, rope base 20000 llama3, tied head`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} layers of {}, ", self.family.name(), self.n_layers, self.hidden_size)?;
        write!(f, "heads {}:{} of {}", self.n_heads, self.n_kv_heads, self.head_dim)?;
        if let Some(Rotary { base, scaling, .. }) = &self.rope {
            write!(f, ", rope base {base}")?;
            if scaling != "default" {
                write!(f, " {scaling}")?;
            }
        }
        // GPT-2 always has biases.
        let may_vary = self.family != Family::Gpt2;
        let named = [
            (self.head_norm, "QK-norm"),
            (self.qkv_bias && may_vary, "QKV bias"),
            (self.output_bias && may_vary, "output bias"),
            (self.mlp_bias && may_vary, "MLP bias"),
            (self.tied_head, "tied head"),
            (!self.scale_attention, "unscaled attention"),
            (self.scale_by_layer, "attention scaled by layer"),
        ];
        named.iter().filter(|(is, _)| *is).try_for_each(|(_, name)| write!(f, ", {name}"))
    }
}

fn bad(key: &str, message: String) -> Error {
    Error::BadConfig { key: key.into(), message }
}
