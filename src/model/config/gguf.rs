//! The configuration in a GGUF file's metadata, as llama.cpp's converters write it and its loader reads it: keys are
//! `llama.block_count`, after the architecture. What a converter folds into the weights has no key: an architecture of Llama
//! pairs neighbours in a head, since its queries and keys are stored in another order; scaled frequencies are a tensor.
//! Biases are there if their tensors are, and the head is tied if it has none.
//!
//! A key of the architecture that is not known here is refused: nobody can say that it changes nothing.

use super::rope::{Yarn, yarn};
use super::{Config, Family, Rotary};
use crate::error::{Error, Result};
use crate::model::checkpoint::json::show;
use crate::model::gguf::{GgmlType, Gguf, Value};
use crate::model::weights::ROPE_FACTORS;
use crate::ops::{Activation, Gelu, Pairing};

/// Keys of all architectures, and those that say nothing about the result.
const KNOWN: [&str; 13] = [
    "vocab_size",
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
    "tensor_data_layout",
    "rope.scaling.finetuned",
];

/// Keys of architectures whose positions are rotary.
const ROTARY: [&str; 7] = [
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.attn_factor",
    "rope.scaling.original_context_length",
];

/// Keys that ask for what is not implemented, with the value at which they ask for nothing.
const OFF: [(&str, Value); 7] = [
    ("attention.causal", Value::Bool(true)),
    ("use_parallel_residual", Value::Bool(false)),
    ("expert_count", Value::U32(0)),
    ("expert_used_count", Value::U32(0)),
    ("rope.scaling.yarn_log_multiplier", Value::F32(0.0)),
    ("rope.scaling.yarn_beta_fast", Value::F32(32.0)),
    ("rope.scaling.yarn_beta_slow", Value::F32(1.0)),
];

/// What [`Config::validate`] names as `config.json` does, and its name here.
const NAMES: [(&str, &str); 15] = [
    ("n_positions", "context_length"),
    ("max_position_embeddings", "context_length"),
    ("n_embd", "embedding_length"),
    ("hidden_size", "embedding_length"),
    ("n_layer", "block_count"),
    ("num_hidden_layers", "block_count"),
    ("n_head", "attention.head_count"),
    ("num_attention_heads", "attention.head_count"),
    ("num_key_value_heads", "attention.head_count_kv"),
    ("head_dim", "attention.key_length"),
    ("n_inner", "feed_forward_length"),
    ("intermediate_size", "feed_forward_length"),
    ("layer_norm_epsilon", "attention.layer_norm_epsilon"),
    ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
    ("rope_parameters", "rope.freq_base"),
];

impl Config {
    /// Reads the metadata of a GGUF file, and validates it: architectures `gpt2`, `llama`, `qwen2` and `qwen3`.
    ///
    /// A text ends at the tokens that the tokenizer's keys name: `eos_token_id`, `eot_token_id`, `eom_token_id`.
    ///
    /// # Errors
    /// [`Error::BadFile`] for a key that is missing or of another type; [`Error::BadConfig`] for a value that is impossible;
    /// [`Error::UnsupportedOption`] for one that is possible, and not implemented here; those of reading a tensor.
    ///
    /// ```
    /// use gristmill::model::{Config, Gguf};
    ///
    /// let file = Gguf::open("tests/oracle/gguf/metadata.gguf".as_ref())?;
    /// let error = Config::from_gguf(&file).expect_err("a file of metadata of no model");
    /// assert!(error.to_string().contains("general.architecture"), "{error}");
    /// # Ok::<(), gristmill::Error>(())
    /// ```
    pub fn from_gguf(gguf: &Gguf) -> Result<Config> {
        const ARCHITECTURE: &str = "general.architecture";
        let architecture = gguf.need(ARCHITECTURE, Gguf::str)?;
        let family = Family::ALL.into_iter().find(|family| family.model_type() == architecture);
        let family = family.ok_or_else(|| unsupported(gguf, ARCHITECTURE))?;
        if gguf.str("general.type")?.is_some_and(|kind| kind != "model") {
            return Err(unsupported(gguf, "general.type"));
        }
        let keys = Keys { gguf, architecture };
        keys.refuse(family)?;
        let config = keys.read(family)?;
        config.validate().map_err(|error| keys.renamed(error))?;
        Ok(config)
    }
}

/// The error for a value that is possible, and not implemented here.
fn unsupported(gguf: &Gguf, key: &str) -> Error {
    let value = gguf.get(key).map_or("(absent)".to_owned(), |value| show(&value.to_string()));
    Error::UnsupportedOption { key: key.to_owned(), value }
}

/// The keys of one architecture.
struct Keys<'a> {
    gguf: &'a Gguf,
    architecture: &'a str,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn unsupported(&self, name: &str) -> Error {
        unsupported(self.gguf, &self.key(name))
    }

    fn bad(&self, name: &str, message: String) -> Error {
        Error::BadConfig { key: self.key(name), message }
    }

    /// What `validate` found, by the key of this file.
    fn renamed(&self, error: Error) -> Error {
        let Error::BadConfig { key, message } = error else { return error };
        let name = NAMES.into_iter().find(|(json, _)| *json == key).map(|(_, name)| self.key(name));
        let tokens = key.ends_with("_token_id").then(|| format!("tokenizer.ggml.{key}"));
        Error::BadConfig { key: name.or(tokens).unwrap_or(key), message }
    }

    /// Refuses keys that are not known, or ask for what is not implemented.
    fn refuse(&self, family: Family) -> Result<()> {
        let rotary: &[&str] = if family == Family::Gpt2 { &[] } else { &ROTARY };
        for (key, value) in self.gguf.metadata() {
            let name = key.strip_prefix(self.architecture).and_then(|rest| rest.strip_prefix('.'));
            let Some(name) = name else { continue };
            let off = OFF.iter().any(|(known, off)| *known == name && off == value);
            if !off && !KNOWN.contains(&name) && !rotary.contains(&name) && name != "attention.sliding_window" {
                return Err(self.unsupported(name));
            }
        }
        Ok(())
    }

    fn integer(&self, name: &str) -> Result<Option<usize>> {
        Ok(self.gguf.u32(&self.key(name))?.map(|value| value as usize))
    }

    fn need(&self, name: &str) -> Result<usize> {
        self.gguf.need(&self.key(name), Gguf::u32).map(|value| value as usize)
    }

    fn number(&self, name: &str) -> Result<Option<f32>> {
        self.gguf.f32(&self.key(name))
    }

    /// A number that a file may give for each layer; it must be the same for all.
    fn of_layers(&self, name: &str) -> Result<Option<usize>> {
        let key = self.key(name);
        if !matches!(self.gguf.get(&key), Some(Value::Array(_))) {
            return self.integer(name);
        }
        let values = self.gguf.u32s(&key)?.unwrap_or_default();
        match values.first() {
            Some(first) if values.iter().all(|value| value == first) => Ok(Some(*first as usize)),
            _ => Err(self.unsupported(name)),
        }
    }

    fn need_of_layers(&self, name: &str) -> Result<usize> {
        match self.of_layers(name)? {
            Some(value) => Ok(value),
            None => self.need(name),
        }
    }

    fn has(&self, tensor: &str) -> bool {
        self.gguf.tensor(tensor).is_some()
    }

    fn read(&self, family: Family) -> Result<Config> {
        let gpt2 = family == Family::Gpt2;
        let tokens = self.gguf.strs("tokenizer.ggml.tokens")?.map(|tokens| tokens.len());
        let vocab = tokens.map_or_else(|| self.need("vocab_size"), Ok)?;
        let heads = self.need_of_layers("attention.head_count")?;
        let (positions, hidden) = (self.need("context_length")?, self.need("embedding_length")?);
        let mut config = Config::new(vocab, positions, hidden, self.need("block_count")?, heads);
        config.family = family;
        config.n_kv_heads = self.of_layers("attention.head_count_kv")?.unwrap_or(heads);
        config.head_dim = self.integer("attention.key_length")?.unwrap_or(config.head_dim);
        if self.integer("attention.value_length")?.unwrap_or(config.head_dim) != config.head_dim {
            return Err(self.unsupported("attention.value_length"));
        }
        // Of a window shorter than the context a row would not see all that came before it.
        if self.integer("attention.sliding_window")?.is_some_and(|window| window > 0 && window < positions) {
            return Err(self.unsupported("attention.sliding_window"));
        }
        config.n_inner = self.need_of_layers("feed_forward_length")?;
        config.activation = if gpt2 { Activation::Gelu(Gelu::Tanh) } else { Activation::Silu };
        (config.gated, config.rms_norm) = (!gpt2, !gpt2);
        let eps = if gpt2 { "attention.layer_norm_epsilon" } else { "attention.layer_norm_rms_epsilon" };
        config.norm_eps = self.gguf.need(&self.key(eps), Gguf::f32)?;
        config.head_norm = family == Family::Qwen3;
        config.qkv_bias = gpt2 || self.has("blk.0.attn_q.bias");
        config.output_bias = gpt2 || self.has("blk.0.attn_output.bias");
        config.mlp_bias = gpt2 || self.has("blk.0.ffn_down.bias");
        config.tied_head = !self.has("output.weight");
        config.eos = self.tokens(&["eos", "eot", "eom"], vocab)?;
        config.bos = self.tokens(&["bos"], vocab)?.first().copied();
        if !gpt2 {
            // Before its angles are computed, of which there are as many as a head has pairs.
            config.validate_sizes().map_err(|error| self.renamed(error))?;
            config.rope = Some(self.rotary(&config)?);
        }
        Ok(config)
    }

    /// Special tokens, each once. As in `config.json`, those outside the vocabulary are left out: no model can emit one.
    fn tokens(&self, names: &[&str], vocab: usize) -> Result<Vec<u32>> {
        let mut tokens = Vec::new();
        for name in names {
            let key = format!("tokenizer.ggml.{name}_token_id");
            match self.gguf.u32(&key)? {
                Some(token) if token as usize >= vocab => {
                    log::warn!("metadata `{key}`: ignoring {token}, outside the vocabulary of {vocab}");
                }
                Some(token) if !tokens.contains(&token) => tokens.push(token),
                _ => (),
            }
        }
        Ok(tokens)
    }

    fn rotary(&self, config: &Config) -> Result<Rotary> {
        if self.integer("rope.dimension_count")?.is_some_and(|dim| dim != config.head_dim) {
            return Err(self.unsupported("rope.dimension_count"));
        }
        let positive = |name: &str| match self.number(name)? {
            Some(value) if value <= 0.0 => Err(self.bad(name, format!("{value} is not above 0"))),
            value => Ok(value.map(f64::from)),
        };
        let mut rotary = Rotary::new(config.head_dim, positive("rope.freq_base")?.unwrap_or(10_000.0));
        if config.family == Family::Llama {
            rotary.pairing = Pairing::Interleaved;
            self.divide(&mut rotary)?;
        }
        // 0 is no factor at all, and the older key counts where the newer one is missing.
        let factor = match self.number("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => self.number("rope.scale_linear")?,
        };
        let factor = f64::from(factor.filter(|&factor| factor != 0.0).unwrap_or(1.0));
        if factor < 0.0 {
            return Err(self.bad("rope.scaling.factor", format!("{factor} is not above 0")));
        }
        let kind = self.gguf.str(&self.key("rope.scaling.type"))?;
        match kind.unwrap_or("linear") {
            "none" => (),
            "linear" if factor == 1.0 => (),
            "linear" => {
                rotary.frequencies.iter_mut().for_each(|frequency| *frequency /= factor);
                rotary.scaling = "linear".to_owned();
            }
            "yarn" => {
                let original = self.integer("rope.scaling.original_context_length")?.unwrap_or(config.n_positions);
                let stretched = Yarn { factor, original: original as f64, fast: 32.0, slow: 1.0, truncate: true };
                let problem = |message| self.bad("rope.scaling.type", message);
                rotary = yarn(rotary, &stretched).map_err(problem)?;
            }
            _ => return Err(self.unsupported("rope.scaling.type")),
        }
        rotary.magnitude *= positive("rope.scaling.attn_factor")?.unwrap_or(1.0);
        Ok(rotary)
    }

    /// Frequencies over the factors of a tensor, if there is one: how converters write Llama 3.1's scaling.
    fn divide(&self, rotary: &mut Rotary) -> Result<()> {
        let Some(info) = self.gguf.tensor(ROPE_FACTORS) else { return Ok(()) };
        let bad = |message: String| Error::BadTensor { name: ROPE_FACTORS.to_owned(), message };
        if info.dtype != GgmlType::F32 || info.shape != [rotary.frequencies.len()] {
            let (dtype, shape, pairs) = (info.dtype, &info.shape, rotary.frequencies.len());
            return Err(bad(format!("{dtype} {shape:?}; F32 [{pairs}], a factor for each pair of a head, is needed")));
        }
        let bytes = self.gguf.read(ROPE_FACTORS)?;
        let factors = bytes.as_chunks::<4>().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes)));
        for (frequency, factor) in rotary.frequencies.iter_mut().zip(factors) {
            // Of a factor that is 0 or no number the quotient is no frequency.
            *frequency /= factor;
        }
        match rotary.is_finite() {
            true => rotary.scaling = "factors".to_owned(),
            false => return Err(bad("holds a factor that makes a frequency no number".to_owned())),
        }
        Ok(())
    }
}
