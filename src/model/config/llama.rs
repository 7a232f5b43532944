//! Llama, Qwen2 and Qwen3, as Hugging Face's `transformers` defines them (`LlamaConfig`, `Qwen2Config`, `Qwen3Config`, 5.23),
//! with the defaults of each where a key is missing.
//!
//! They are one architecture: RMS norms, rotary positions, grouped heads, a gated MLP. Qwen2 has biases on queries, keys and
//! values, Qwen3 a norm of each head of queries and keys. What only trains a model (dropout, initialisation, `pretraining_tp`)
//! is not looked at.

use super::keys::Keys;
use super::{Config, Family, MAX_EOS, rope};
use crate::error::Result;
use crate::ops::Activation;

/// Keys that change a result and are not implemented. The families know the first one; others come from descendants that kept
/// a `model_type` of these: experts, capped or scaled logits, layers without positions, norms elsewhere.
const NOT_IMPLEMENTED: [(&str, &str); 24] = [
    ("per_layer_config", "null"),
    ("alibi", "false"),
    ("attention_chunk_size", "null"),
    ("attention_multiplier", "1"),
    ("attn_logit_softcapping", "null"),
    ("clip_qkv", "null"),
    ("embedding_multiplier", "1"),
    ("embedding_scale", "1"),
    ("final_logit_softcapping", "null"),
    ("first_k_dense_replace", "0"),
    ("kv_lora_rank", "null"),
    ("logit_scale", "1"),
    ("logits_scaling", "1"),
    ("lm_head_bias", "false"),
    ("n_routed_experts", "0"),
    ("no_rope_layers", "null"),
    ("num_experts", "0"),
    ("num_local_experts", "0"),
    ("parallel_residual", "false"),
    ("residual_multiplier", "1"),
    ("rope_interleaved", "false"),
    ("scale_emb", "1"),
    ("use_mrope", "false"),
    ("use_qk_norm", "false"),
];

/// What the families differ in where a key is missing, and the options that are theirs.
struct Defaults {
    vocab: usize,
    positions: usize,
    inner: usize,
    kv_heads: Option<usize>,
    head_dim: Option<usize>,
    bos: Option<u32>,
    eos: Option<u32>,
    /// The window of sliding attention, where it is used.
    window: Option<usize>,
}

fn defaults(family: Family) -> Defaults {
    match family {
        Family::Gpt2 | Family::Llama => Defaults {
            vocab: 32_000,
            positions: 2048,
            inner: 11_008,
            kv_heads: None,
            head_dim: None,
            bos: Some(1),
            eos: Some(2),
            window: None,
        },
        Family::Qwen2 | Family::Qwen3 => Defaults {
            vocab: 151_936,
            positions: 32_768,
            inner: 22_016,
            kv_heads: Some(32),
            head_dim: (family == Family::Qwen3).then_some(128),
            bos: None,
            eos: None,
            window: Some(4096),
        },
    }
}

pub(super) fn read(keys: &Keys<'_>, family: Family) -> Result<Config> {
    keys.refuse(&NOT_IMPLEMENTED)?;
    let defaults = defaults(family);
    let (hidden, heads) = (keys.integer(&["hidden_size"], 4096)?, keys.integer(&["num_attention_heads"], 32)?);
    let head_dim = keys.integer_or_null("head_dim", defaults.head_dim)?;
    let positions = keys.integer(&["max_position_embeddings"], defaults.positions)?;
    let layers = keys.integer(&["num_hidden_layers"], 32)?;
    let mut config = Config::new(keys.integer(&["vocab_size"], defaults.vocab)?, positions, hidden, layers, heads);
    config.family = family;
    config.n_kv_heads = keys.integer_or_null("num_key_value_heads", defaults.kv_heads)?.unwrap_or(heads);
    if let Some(head_dim) = head_dim {
        config.head_dim = head_dim;
    }
    config.n_inner = keys.integer(&["intermediate_size"], defaults.inner)?;
    config.activation = activation(keys)?;
    config.gated = true;
    config.rms_norm = true;
    config.norm_eps = keys.number("rms_norm_eps", 1e-6)?;
    config.head_norm = family == Family::Qwen3;
    let bias = family != Family::Qwen2 && keys.flag("attention_bias", false)?;
    config.qkv_bias = bias || family == Family::Qwen2;
    config.output_bias = bias;
    config.mlp_bias = family == Family::Llama && keys.flag("mlp_bias", false)?;
    config.tied_head = keys.flag("tie_word_embeddings", false)?;
    config.eos = keys.tokens("eos_token_id", MAX_EOS, config.vocab_size, defaults.eos)?;
    config.bos = keys.tokens("bos_token_id", 1, config.vocab_size, defaults.bos)?.first().copied();
    check_window(keys, &config, defaults.window)?;
    // Before its angles are computed, of which there are as many as a head has pairs.
    config.validate_sizes()?;
    config.rope = Some(rope::read(keys, &config)?);
    Ok(config)
}

/// The nonlinearity of the gate; the kernel has one.
fn activation(keys: &Keys<'_>) -> Result<Activation> {
    const KEY: &str = "hidden_act";
    match keys.parsed::<String>(KEY, "a name")?.as_deref() {
        None | Some("silu" | "swish") => Ok(Activation::Silu),
        Some(_) => Err(keys.unsupported(KEY)),
    }
}

/// Refuses a window that is shorter than the context: then a row would not see all that came before it.
fn check_window(keys: &Keys<'_>, config: &Config, default: Option<usize>) -> Result<()> {
    let qwen = config.family != Family::Llama;
    let window = match !qwen || keys.flag("use_sliding_window", false)? {
        true => keys.integer_or_null("sliding_window", default)?,
        false => None,
    };
    let covers = window.is_some_and(|window| window >= config.n_positions);
    let types: Option<Vec<String>> = keys.parsed("layer_types", "a list of names")?;
    let Some(types) = types else {
        let slides = !qwen || keys.integer(&["max_window_layers"], 28)? < config.n_layers;
        return if window.is_some() && slides && !covers { Err(keys.unsupported("sliding_window")) } else { Ok(()) };
    };
    if types.len() != config.n_layers {
        let message = format!("{} types for {} layers", types.len(), config.n_layers);
        return Err(keys.bad("layer_types", message));
    }
    let whole = |name: &String| name == "full_attention" || covers && name == "sliding_attention";
    if types.iter().all(whole) { Ok(()) } else { Err(keys.unsupported("layer_types")) }
}
