//! What families call their tensors, and how they lie in a checkpoint.

use crate::model::config::{Config, Family};

/// The names of a family, without the prefix. Matrices are `NAME.weight` `[out, in]` and `NAME.bias` `[out]`, norms too.
pub(super) struct Names {
    /// Before every name but that of the head; checkpoints of the bare transformer lack it.
    pub(super) prefix: &'static str,
    pub(super) tokens: &'static str,
    /// Embeddings of positions.
    pub(super) positions: &'static str,
    pub(super) layers: &'static str,
    pub(super) attention_norm: &'static str,
    /// Queries, keys and values: one matrix, or one each.
    pub(super) qkv: &'static [&'static str],
    /// Norms of the heads of queries and of keys.
    pub(super) head_norms: [&'static str; 2],
    pub(super) project: &'static str,
    pub(super) mlp_norm: &'static str,
    /// Up, or gate and up.
    pub(super) up: &'static [&'static str],
    pub(super) down: &'static str,
    pub(super) final_norm: &'static str,
    pub(super) head: &'static str,
    /// The matrices of layers are stored `[in, out]`.
    pub(super) turned: bool,
    /// Ends of names in a layer of old checkpoints that hold no weights: masks, frequencies.
    pub(super) buffers: &'static [&'static str],
}

const GPT2: Names = Names {
    prefix: "transformer.",
    tokens: "wte",
    positions: "wpe",
    layers: "h",
    attention_norm: "ln_1",
    qkv: &["attn.c_attn"],
    head_norms: ["", ""],
    project: "attn.c_proj",
    mlp_norm: "ln_2",
    up: &["mlp.c_fc"],
    down: "mlp.c_proj",
    final_norm: "ln_f",
    head: "lm_head",
    turned: true,
    buffers: &["attn.bias", "attn.masked_bias"],
};

/// Qwen's as well.
const LLAMA: Names = Names {
    prefix: "model.",
    tokens: "embed_tokens",
    positions: "",
    layers: "layers",
    attention_norm: "input_layernorm",
    qkv: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    head_norms: ["self_attn.q_norm", "self_attn.k_norm"],
    project: "self_attn.o_proj",
    mlp_norm: "post_attention_layernorm",
    up: &["mlp.gate_proj", "mlp.up_proj"],
    down: "mlp.down_proj",
    final_norm: "norm",
    head: "lm_head",
    turned: false,
    buffers: &["self_attn.rotary_emb.inv_freq"],
};

/// As llama.cpp names tensors; its converters turn matrices, so that all are stored `[out, in]`.
const GPT2_GGUF: Names = Names { positions: "position_embd", qkv: &["attn_qkv"], up: &["ffn_up"], ..LLAMA_GGUF };

const LLAMA_GGUF: Names = Names {
    prefix: "",
    tokens: "token_embd",
    positions: "",
    layers: "blk",
    attention_norm: "attn_norm",
    qkv: &["attn_q", "attn_k", "attn_v"],
    head_norms: ["attn_q_norm", "attn_k_norm"],
    project: "attn_output",
    mlp_norm: "ffn_norm",
    up: &["ffn_gate", "ffn_up"],
    down: "ffn_down",
    final_norm: "output_norm",
    head: "output",
    turned: false,
    buffers: &[],
};

impl Names {
    pub(super) fn of(family: Family) -> &'static Names {
        match family {
            Family::Gpt2 => &GPT2,
            Family::Llama | Family::Qwen2 | Family::Qwen3 => &LLAMA,
        }
    }

    /// In a GGUF file.
    pub(super) fn in_gguf(family: Family) -> &'static Names {
        match family {
            Family::Gpt2 => &GPT2_GGUF,
            Family::Llama | Family::Qwen2 | Family::Qwen3 => &LLAMA_GGUF,
        }
    }

    /// `h.3.ln_1`
    pub(super) fn layer(&self, index: usize, name: &str) -> String {
        format!("{}.{index}.{name}", self.layers)
    }

    /// Rows of each matrix of [`Names::qkv`].
    pub(super) fn qkv_rows(&self, config: &Config) -> Vec<usize> {
        match self.qkv.len() {
            1 => vec![config.qkv_width()],
            _ => vec![config.q_width(), config.kv_width(), config.kv_width()],
        }
    }

    /// The matrices that become one with this one, and their rows; of one that stays alone the rows are not looked at.
    pub(super) fn beside(&self, config: &Config, name: &str) -> Vec<(String, usize)> {
        let up_rows = vec![config.n_inner; self.up.len()];
        for (group, rows) in [(self.qkv, self.qkv_rows(config)), (self.up, up_rows)] {
            let layer = group.iter().find_map(|own| name.strip_suffix(&format!("{own}.weight")));
            if let Some(layer) = layer {
                return group.iter().map(|name| format!("{layer}{name}.weight")).zip(rows).collect();
            }
        }
        vec![(name.to_owned(), 0)]
    }

    /// Whether a name is that of a buffer, not of a weight.
    pub(super) fn is_buffer(&self, name: &str) -> bool {
        let rest = name.strip_prefix(self.layers).and_then(|rest| rest.strip_prefix('.'));
        let (number, end) = rest.and_then(|rest| rest.split_once('.')).unwrap_or_default();
        number.parse::<usize>().is_ok() && self.buffers.contains(&end)
    }

    /// Every tensor of a model and its shape, as stored.
    pub(super) fn tensors(&self, config: &Config) -> Vec<(String, Vec<usize>)> {
        let (hidden, vocab) = (config.hidden_size, config.vocab_size);
        let mut list = vec![(format!("{}.weight", self.tokens), vec![vocab, hidden])];
        if config.rope.is_none() {
            list.push((format!("{}.weight", self.positions), vec![config.n_positions, hidden]));
        }
        if !config.tied_head {
            list.push((format!("{}.weight", self.head), vec![vocab, hidden]));
        }
        let mut part = |name: String, shape: Vec<usize>, bias: Option<usize>| {
            list.extend(bias.map(|outputs| (format!("{name}.bias"), vec![outputs])));
            list.push((format!("{name}.weight"), shape));
        };
        let norm_bias = (!config.rms_norm).then_some(hidden);
        part(self.final_norm.to_owned(), vec![hidden], norm_bias);
        for i in 0..config.n_layers {
            part(self.layer(i, self.attention_norm), vec![hidden], norm_bias);
            part(self.layer(i, self.mlp_norm), vec![hidden], norm_bias);
            for name in self.head_norms.iter().filter(|_| config.head_norm) {
                part(self.layer(i, name), vec![config.head_dim], None);
            }
            let mut matrix = |name: &str, inputs: usize, outputs: usize, bias: bool| {
                let shape = if self.turned { vec![inputs, outputs] } else { vec![outputs, inputs] };
                part(self.layer(i, name), shape, bias.then_some(outputs));
            };
            for (name, rows) in self.qkv.iter().zip(self.qkv_rows(config)) {
                matrix(name, hidden, rows, config.qkv_bias);
            }
            matrix(self.project, config.q_width(), hidden, config.output_bias);
            self.up.iter().for_each(|name| matrix(name, hidden, config.n_inner, config.mlp_bias));
            matrix(self.down, config.n_inner, hidden, config.mlp_bias);
        }
        list
    }
}
