//! A model's configuration: the numbers of `config.json`, checked and capped.
//!
//! The one rule: what would change the result is either honoured or refused by name, never ignored. Everything here is
//! about GPT-2 as Hugging Face's `transformers` defines it (`GPT2Config`), with its defaults where a key is missing.

#![forbid(unsafe_code)]
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used)]
#![deny(clippy::panic, clippy::unreachable)]

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::checkpoint::json::{self, show};
use crate::error::{Error, Result};
use crate::ops::{Activation, Gelu};

/// Most tokens in a vocabulary.
const MAX_VOCAB: usize = 1 << 20;
/// Most positions a model can attend to.
const MAX_POSITIONS: usize = 1 << 20;
/// Widest hidden state, in elements.
const MAX_HIDDEN: usize = 1 << 16;
/// Widest inner layer of the MLP, in elements.
const MAX_INNER: usize = 1 << 20;
/// Most layers.
const MAX_LAYERS: usize = 1024;
/// Most attention heads.
const MAX_HEADS: usize = 1024;
/// Most ids that end a text.
const MAX_EOS: usize = 64;
/// Longest list or text that is looked at, in bytes.
const MAX_VALUE: usize = 4096;
/// Most keys in `config.json`.
const MAX_KEYS: usize = 4096;

/// GPT-2's only special token, `<|endoftext|>`: begin and end alike.
const END_OF_TEXT: u32 = 50_256;

/// `architectures` whose weights are a GPT-2 language model. `GPT2Model` saves it without the head, which is tied.
/// Classifiers are missing on purpose: they have another head, and no text to generate.
const ARCHITECTURES: [&str; 3] = ["GPT2LMHeadModel", "GPT2Model", "GPT2DoubleHeadsModel"];

/// Keys that change a model's result and are not implemented, with the value at which they do nothing; null, `false`,
/// `[]`, `{}` and 0 do nothing for any of them.
const NOT_IMPLEMENTED: [(&str, &str); 14] = [
    // What GPT2Config and its base class know.
    ("add_cross_attention", "false"),
    ("is_encoder_decoder", "false"),
    ("cross_attention_hidden_size", "null"),
    ("pruned_heads", "{}"),
    ("quantization_config", "null"),
    // What GPT-2's descendants added while they kept `"model_type": "gpt2"`: their own modelling code, attention with
    // shared keys (SantaCoder), other positions, experts.
    ("auto_map", "{}"),
    ("attention_head_type", "\"multihead\""),
    ("multi_query", "false"),
    ("position_embedding_type", "\"absolute\""),
    ("alibi", "false"),
    ("rope_scaling", "null"),
    ("rotary_dim", "0"),
    ("n_experts", "0"),
    ("num_local_experts", "0"),
];

/// The shape of a GPT-2 model, and the options that change what it computes.
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
    /// Tokens in the vocabulary: rows of `wte`.
    pub vocab_size: usize,
    /// Positions the model can attend to, the context: rows of `wpe`.
    pub n_positions: usize,
    /// Elements of the hidden state.
    pub hidden_size: usize,
    /// Transformer blocks.
    pub n_layers: usize,
    /// Attention heads; they divide the hidden state among them.
    pub n_heads: usize,
    /// Elements of the MLP's inner layer.
    pub n_inner: usize,
    /// The MLP's nonlinearity.
    pub activation: Activation,
    /// Added to the variance in every layer norm.
    pub norm_eps: f32,
    /// Whether the output head is `wte` again, and no tensor of its own.
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
    /// A model of these sizes, with GPT-2's options otherwise: an inner layer of four times `hidden`, tanh GELU, an
    /// epsilon of 1e-5, a tied head, scaled attention; and no special tokens. Nothing is checked: see
    /// [`Config::validate`].
    pub fn new(vocab: usize, positions: usize, hidden: usize, layers: usize, heads: usize) -> Self {
        Self {
            vocab_size: vocab,
            n_positions: positions,
            hidden_size: hidden,
            n_layers: layers,
            n_heads: heads,
            n_inner: hidden.saturating_mul(4),
            activation: Activation::Gelu(Gelu::Tanh),
            norm_eps: 1e-5,
            tied_head: true,
            scale_attention: true,
            scale_by_layer: false,
            eos: Vec::new(),
            bos: None,
        }
    }

    /// GPT-2 as published, the smallest: 124,439,808 parameters.
    pub fn gpt2_small() -> Self {
        Self { eos: vec![END_OF_TEXT], bos: Some(END_OF_TEXT), ..Self::new(50_257, 1024, 768, 12, 12) }
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
        let keys: Keys<'_> = json::parse(text).map_err(|fault| fault.in_file(Path::new("config.json")))?;
        keys.check_family()?;
        keys.check_unsupported()?;

        let small = Self::gpt2_small();
        let mut config = Self::new(
            keys.integer(&["vocab_size"], small.vocab_size)?,
            keys.integer(&["n_positions", "max_position_embeddings"], small.n_positions)?,
            keys.integer(&["n_embd", "hidden_size"], small.hidden_size)?,
            keys.integer(&["n_layer", "num_hidden_layers"], small.n_layers)?,
            keys.integer(&["n_head", "num_attention_heads"], small.n_heads)?,
        );
        if keys.get("n_inner").is_some_and(|value| value != "null") {
            config.n_inner = keys.integer(&["n_inner"], config.n_inner)?;
        }
        config.activation = keys.activation()?;
        config.norm_eps = keys.number("layer_norm_epsilon", config.norm_eps)?;
        config.tied_head = keys.flag("tie_word_embeddings", config.tied_head)?;
        config.scale_attention = keys.flag("scale_attn_weights", config.scale_attention)?;
        config.scale_by_layer = keys.flag("scale_attn_by_inverse_layer_idx", config.scale_by_layer)?;
        config.eos = keys.tokens("eos_token_id", MAX_EOS, config.vocab_size)?;
        config.bos = keys.tokens("bos_token_id", 1, config.vocab_size)?.first().copied();
        config.validate()?;
        Ok(config)
    }

    /// Checks that every number is possible, within its cap, and fits the others.
    ///
    /// The caps: a vocabulary and a context of 2^20, a hidden state of 65,536, an inner layer of 2^20, 1,024 layers,
    /// 1,024 heads. Within them, no count of elements or bytes of such a model overflows 64 bits.
    ///
    /// # Errors
    /// [`Error::BadConfig`] with the key as `config.json` spells it.
    pub fn validate(&self) -> Result<()> {
        let sizes = [
            ("vocab_size", self.vocab_size, MAX_VOCAB),
            ("n_positions", self.n_positions, MAX_POSITIONS),
            ("n_embd", self.hidden_size, MAX_HIDDEN),
            ("n_layer", self.n_layers, MAX_LAYERS),
            ("n_head", self.n_heads, MAX_HEADS),
            ("n_inner", self.n_inner, MAX_INNER),
        ];
        for (key, value, max) in sizes {
            if value == 0 || value > max {
                return Err(bad(key, format!("{value} is not between 1 and {max}")));
            }
        }
        let (hidden, heads) = (self.hidden_size, self.n_heads);
        if !hidden.is_multiple_of(heads) {
            return Err(bad("n_head", format!("{heads} heads do not divide n_embd = {hidden}")));
        }
        // A subnormal epsilon counts as zero on most GPUs, and a constant row would divide by it.
        if !self.norm_eps.is_normal() || !(0.0..1.0).contains(&self.norm_eps) {
            return Err(bad("layer_norm_epsilon", format!("{:e} is not a normal f32 between 0 and 1", self.norm_eps)));
        }
        for (key, tokens) in [("eos_token_id", self.eos.as_slice()), ("bos_token_id", self.bos.as_slice())] {
            if let Some(token) = tokens.iter().find(|&&token| token as usize >= self.vocab_size) {
                return Err(bad(key, format!("{token} is not in the vocabulary of {}", self.vocab_size)));
            }
        }
        Ok(())
    }

    /// Elements of one attention head; 0 if there are no heads, which [`Config::validate`] refuses.
    pub fn head_dim(&self) -> usize {
        self.hidden_size.checked_div(self.n_heads).unwrap_or(0)
    }

    /// Parameters of the model, a tied head counted once.
    ///
    /// # Errors
    /// [`Error::BadConfig`], from [`Config::validate`].
    pub fn parameters(&self) -> Result<u64> {
        self.validate()?;
        // Every factor is capped now, and the largest sum is below 2^49; saturation cannot happen, nor can overflow.
        let matrix = |rows: usize, columns: usize| (rows as u64).saturating_mul(columns as u64);
        let (hidden, inner) = (self.hidden_size, self.n_inner);
        let linear = |inputs, outputs| matrix(inputs, outputs).saturating_add(outputs as u64);
        let norm = matrix(2, hidden);
        let layer = [
            norm,
            linear(hidden, hidden.saturating_mul(3)),
            linear(hidden, hidden),
            norm,
            linear(hidden, inner),
            linear(inner, hidden),
        ];
        let heads = if self.tied_head { 1 } else { 2 };
        let whole = [
            matrix(self.vocab_size, hidden).saturating_mul(heads),
            matrix(self.n_positions, hidden),
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

/// The keys of a `config.json`, each with its value as written: no number is rounded before it is checked.
struct Keys<'a>(BTreeMap<String, &'a str>);

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).copied()
    }

    /// Whether this is a GPT-2 language model.
    fn check_family(&self) -> Result<()> {
        let architectures = self.parsed::<Vec<String>>("architectures", "a list of names")?.unwrap_or_default();
        // Files from before 2020 have no model_type.
        match self.parsed::<String>("model_type", "a name")?.as_deref() {
            Some("gpt2") => {}
            None if !architectures.is_empty() => {}
            _ => return Err(unsupported("model_type", self.get("model_type"))),
        }
        if !architectures.iter().all(|name| ARCHITECTURES.contains(&name.as_str())) {
            return Err(unsupported("architectures", self.get("architectures")));
        }
        Ok(())
    }

    fn check_unsupported(&self) -> Result<()> {
        for (key, off) in NOT_IMPLEMENTED {
            let value = self.get(key).unwrap_or("null");
            let inside = value.strip_prefix(['[', '{']).and_then(|rest| rest.strip_suffix([']', '}']));
            let empty = inside.is_some_and(|inside| inside.trim().is_empty());
            if value != off && !empty && !matches!(value, "null" | "false" | "0") {
                return Err(unsupported(key, Some(value)));
            }
        }
        Ok(())
    }

    fn activation(&self) -> Result<Activation> {
        const KEY: &str = "activation_function";
        match self.parsed::<String>(KEY, "a name")?.as_deref() {
            None | Some("gelu_new" | "gelu_fast" | "gelu_pytorch_tanh") => Ok(Activation::Gelu(Gelu::Tanh)),
            Some("gelu") => Ok(Activation::Gelu(Gelu::Exact)),
            Some("relu") => Ok(Activation::Relu),
            Some(_) => Err(unsupported(KEY, self.get(KEY))),
        }
    }

    /// A value of one of serde's types; `None` if the key is missing or null.
    fn parsed<T: serde::de::DeserializeOwned>(&self, key: &str, expected: &str) -> Result<Option<T>> {
        let Some(value) = self.get(key).filter(|&value| value != "null") else { return Ok(None) };
        let parsed = if value.len() > MAX_VALUE { None } else { serde_json::from_str(value).ok() };
        parsed.map(Some).ok_or_else(|| is_not(expected, key, value))
    }

    /// An integer, under whichever of its names; an integer is written without point or exponent.
    fn integer(&self, names: &[&str], default: usize) -> Result<usize> {
        let mut found: Option<(&str, usize)> = None;
        for &key in names {
            let Some(value) = self.get(key) else { continue };
            let value = value.parse().map_err(|_| is_not("a positive integer", key, value))?;
            if let Some((other, before)) = found.filter(|&(_, before)| before != value) {
                return Err(bad(key, format!("{value} contradicts `{other}` = {before}, another name for the same")));
            }
            found = Some((key, value));
        }
        Ok(found.map_or(default, |(_, value)| value))
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool> {
        self.get(key).map_or(Ok(default), |value| value.parse().map_err(|_| is_not("true or false", key, value)))
    }

    /// A finite number, rounded to `f32`.
    fn number(&self, key: &str, default: f32) -> Result<f32> {
        let Some(value) = self.get(key) else { return Ok(default) };
        // JSON has no word for infinity, yet 1e999 rounds to it.
        let number = value.parse::<f32>().ok().filter(|number| number.is_finite());
        number.ok_or_else(|| is_not("a finite number", key, value))
    }

    /// One token or a list of at most `max`, without those outside the vocabulary; GPT-2's own if the key is missing.
    fn tokens(&self, key: &str, max: usize, vocab: usize) -> Result<Vec<u32>> {
        let expected = format!("a token, a list of at most {max}, or null");
        let Some(value) = self.get(key) else {
            return Ok(Vec::from_iter(Some(END_OF_TEXT).filter(|&token| (token as usize) < vocab)));
        };
        let tokens: Vec<u64> = match value.parse() {
            Ok(token) => vec![token],
            Err(_) => self.parsed(key, &expected)?.unwrap_or_default(),
        };
        if tokens.len() > max {
            return Err(is_not(&expected, key, value));
        }
        let (inside, outside): (Vec<u64>, Vec<u64>) = tokens.iter().partition(|&&token| token < vocab as u64);
        if !outside.is_empty() {
            log::warn!("config.json: `{key}`: ignoring {outside:?}, outside the vocabulary of {vocab}");
        }
        // The vocabulary is capped far below u32::MAX, though the cap is checked after this.
        Ok(inside.into_iter().filter_map(|token| u32::try_from(token).ok()).collect())
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Keys<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(KeysVisitor).map(Keys)
    }
}

struct KeysVisitor;

impl<'de> Visitor<'de> for KeysVisitor {
    type Value = BTreeMap<String, &'de str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut keys = BTreeMap::new();
        while let Some((key, value)) = map.next_entry::<String, &RawValue>()? {
            if keys.len() == MAX_KEYS {
                return Err(A::Error::custom(format!("more than {MAX_KEYS} keys")));
            }
            if keys.contains_key(&key) {
                return Err(A::Error::custom(format!("`{}` is given twice", show(&key))));
            }
            keys.insert(key, value.get());
        }
        Ok(keys)
    }
}

fn bad(key: &str, message: String) -> Error {
    Error::BadConfig { key: key.into(), message }
}

fn is_not(expected: &str, key: &str, value: &str) -> Error {
    bad(key, format!("{} is not {expected}", show(value)))
}

fn unsupported(key: &str, value: Option<&str>) -> Error {
    Error::UnsupportedOption { key: key.into(), value: value.map_or("(absent)".into(), show) }
}
