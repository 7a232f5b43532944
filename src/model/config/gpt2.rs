//! GPT-2, as Hugging Face's `transformers` defines it (`GPT2Config`), with its defaults where a key is missing.

use super::keys::Keys;
use super::{Config, MAX_EOS};
use crate::error::Result;
use crate::ops::{Activation, Gelu};

/// GPT-2's only special token, `<|endoftext|>`: begin and end alike.
const END_OF_TEXT: u32 = 50_256;

/// `architectures` whose weights are a GPT-2 language model. `GPT2Model` saves it without the head, which is tied.
/// Classifiers are missing on purpose: they have another head, and no text to generate.
pub(super) const ARCHITECTURES: [&str; 3] = ["GPT2LMHeadModel", "GPT2Model", "GPT2DoubleHeadsModel"];

/// Keys that change a model's result and are not implemented. GPT-2's descendants added most of them while they kept
/// `"model_type": "gpt2"`: attention with shared keys (SantaCoder), other positions, experts.
const NOT_IMPLEMENTED: [(&str, &str); 11] = [
    ("add_cross_attention", "false"),
    ("cross_attention_hidden_size", "null"),
    ("attention_head_type", "\"multihead\""),
    ("multi_query", "false"),
    ("position_embedding_type", "\"absolute\""),
    ("alibi", "false"),
    ("rope_scaling", "null"),
    ("rope_parameters", "null"),
    ("rotary_dim", "0"),
    ("n_experts", "0"),
    ("num_local_experts", "0"),
];

/// GPT-2 as published, the smallest: 124,439,808 parameters.
pub(super) fn small() -> Config {
    Config { eos: vec![END_OF_TEXT], bos: Some(END_OF_TEXT), ..Config::new(50_257, 1024, 768, 12, 12) }
}

pub(super) fn read(keys: &Keys<'_>) -> Result<Config> {
    keys.refuse(&NOT_IMPLEMENTED)?;
    let small = small();
    let mut config = Config::new(
        keys.integer(&["vocab_size"], small.vocab_size)?,
        keys.integer(&["n_positions", "max_position_embeddings"], small.n_positions)?,
        keys.integer(&["n_embd", "hidden_size"], small.hidden_size)?,
        keys.integer(&["n_layer", "num_hidden_layers"], small.n_layers)?,
        keys.integer(&["n_head", "num_attention_heads"], small.n_heads)?,
    );
    if keys.get("n_inner").is_some_and(|value| value != "null") {
        config.n_inner = keys.integer(&["n_inner"], config.n_inner)?;
    }
    config.activation = activation(keys)?;
    config.norm_eps = keys.number("layer_norm_epsilon", config.norm_eps)?;
    config.tied_head = keys.flag("tie_word_embeddings", config.tied_head)?;
    config.scale_attention = keys.flag("scale_attn_weights", config.scale_attention)?;
    config.scale_by_layer = keys.flag("scale_attn_by_inverse_layer_idx", config.scale_by_layer)?;
    config.eos = keys.tokens("eos_token_id", MAX_EOS, config.vocab_size, Some(END_OF_TEXT))?;
    config.bos = keys.tokens("bos_token_id", 1, config.vocab_size, Some(END_OF_TEXT))?.first().copied();
    Ok(config)
}

fn activation(keys: &Keys<'_>) -> Result<Activation> {
    const KEY: &str = "activation_function";
    match keys.parsed::<String>(KEY, "a name")?.as_deref() {
        None | Some("gelu_new" | "gelu_fast" | "gelu_pytorch_tanh") => Ok(Activation::Gelu(Gelu::Tanh)),
        Some("gelu") => Ok(Activation::Gelu(Gelu::Exact)),
        Some("relu") => Ok(Activation::Relu),
        Some(_) => Err(keys.unsupported(KEY)),
    }
}
