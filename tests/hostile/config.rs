//! Hostile files, continued: `config.json`.

use gristmill::error::{Error, Result};
use gristmill::model::{Activation, Checkpoint, Config, Family};

use super::{CONFIG, Random, small};

/// S24 and T12 for `config.json` as a file.
#[test]
fn config_files_are_capped() {
    let open = |config: Vec<u8>| Checkpoint::from_memory(config, small());
    let padded = |len: usize| [CONFIG.as_bytes().to_vec(), vec![b' '; len - CONFIG.len()]].concat();
    assert_eq!(open(padded(1 << 20)).unwrap().config_json().trim_end(), CONFIG);
    assert!(matches!(open(padded((1 << 20) + 1)), Err(Error::BadFile { offset: 1_048_576, .. })));
    assert!(matches!(open(b"{\xff}".to_vec()), Err(Error::BadFile { offset: 1, .. })));
}

/// `{"model_type": "gpt2", ...}` with more keys.
fn config(keys: &str) -> Result<Config> {
    Config::from_json(&format!(r#"{{"model_type": "gpt2", {keys}}}"#))
}

#[test]
fn configurations_that_are_impossible() {
    let many = format!(r#""eos_token_id": {:?}"#, vec![0; 65]);
    let rows = [
        ("n_layer", r#""n_layer": 0"#),
        ("n_layer", r#""n_layer": 1025"#),
        ("n_layer", r#""n_layer": -1"#),
        ("n_layer", r#""n_layer": 12.0"#),
        ("n_layer", r#""n_layer": 1e1"#),
        ("n_layer", r#""n_layer": "12""#),
        ("n_layer", r#""n_layer": null"#),
        ("n_layer", r#""n_layer": 18446744073709551628"#),
        ("num_hidden_layers", r#""n_layer": 12, "num_hidden_layers": 13"#),
        ("num_hidden_layers", r#""num_hidden_layers": true"#),
        ("hidden_size", r#""hidden_size": 768, "n_embd": 769"#),
        ("max_position_embeddings", r#""max_position_embeddings": 1024.5"#),
        ("n_positions", r#""max_position_embeddings": 1048577"#),
        ("vocab_size", r#""vocab_size": 1048577"#),
        ("n_embd", r#""n_embd": 65537, "n_head": 1"#),
        ("n_embd", r#""n_embd": 9223372036854775808"#),
        ("n_head", r#""n_head": 0"#),
        ("n_head", r#""n_head": 7"#),
        ("n_head", r#""n_head": 1025, "n_embd": 2050"#),
        ("n_inner", r#""n_inner": 0"#),
        ("n_inner", r#""n_inner": 1048577"#),
        ("layer_norm_epsilon", r#""layer_norm_epsilon": 0"#),
        ("layer_norm_epsilon", r#""layer_norm_epsilon": -1e-5"#),
        ("layer_norm_epsilon", r#""layer_norm_epsilon": 1.0"#),
        ("layer_norm_epsilon", r#""layer_norm_epsilon": 1e999"#),
        ("layer_norm_epsilon", r#""layer_norm_epsilon": 1e-39"#),
        ("layer_norm_epsilon", r#""layer_norm_epsilon": "1e-5""#),
        ("layer_norm_epsilon", r#""layer_norm_epsilon": null"#),
        ("tie_word_embeddings", r#""tie_word_embeddings": 1"#),
        ("scale_attn_weights", r#""scale_attn_weights": "true""#),
        ("activation_function", r#""activation_function": 1"#),
        ("activation_function", r#""activation_function": "\ud800""#),
        ("architectures", r#""architectures": "GPT2LMHeadModel""#),
        ("eos_token_id", r#""eos_token_id": -1"#),
        ("eos_token_id", r#""eos_token_id": [0, -1]"#),
        ("eos_token_id", r#""eos_token_id": 1.5"#),
        ("eos_token_id", r#""eos_token_id": "0""#),
        ("eos_token_id", many.as_str()),
        ("bos_token_id", r#""bos_token_id": [0, 1]"#),
    ];
    for (key, text) in rows {
        match config(text) {
            Err(Error::BadConfig { key: blamed, .. }) => assert_eq!(blamed, key, "{text}"),
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn configurations_that_are_not_json() {
    let nested = format!(r#""x": {}1{}"#, "[".repeat(100_000), "]".repeat(100_000));
    let keys = (0..4096).map(|i| format!(r#""{i}":0"#)).collect::<Vec<_>>().join(",");
    let syntax = [
        (r#""n_layer": 12, "n_layer": 13"#, "`n_layer` is given twice"),
        (nested.as_str(), "nesting deeper than 64"),
        (keys.as_str(), "more than 4096 keys"),
        (r#""n_layer": NaN"#, "expected value"),
        (r#""\ud800": 1"#, "hex escape"),
    ];
    for (text, words) in syntax {
        match config(text) {
            Err(error @ Error::BadFile { .. }) => assert!(error.to_string().contains(words), "{error}"),
            other => panic!("{words}: {other:?}"),
        }
    }
}

#[test]
fn configurations_that_are_not_implemented() {
    let rows = [
        ("activation_function", r#""activation_function": "silu""#),
        ("activation_function", r#""activation_function": "__import__""#),
        ("architectures", r#""architectures": ["GPT2ForSequenceClassification"]"#),
        ("architectures", r#""architectures": ["GPT2LMHeadModel", "GPT2LMHeadCustomModel"]"#),
        ("add_cross_attention", r#""add_cross_attention": true"#),
        ("is_encoder_decoder", r#""is_encoder_decoder": true"#),
        ("pruned_heads", r#""pruned_heads": {"0": [1]}"#),
        ("quantization_config", r#""quantization_config": {"bits": 4}"#),
        ("attention_head_type", r#""attention_head_type": "multiquery""#),
        ("position_embedding_type", r#""position_embedding_type": "relative_key""#),
        ("rope_scaling", r#""rope_scaling": {"factor": 2.0}"#),
        ("auto_map", r#""auto_map": {"AutoModelForCausalLM": "modeling.X"}"#),
    ];
    for (key, text) in rows {
        match config(text) {
            Err(Error::UnsupportedOption { key: blamed, .. }) => assert_eq!(blamed, key, "{text}"),
            other => panic!("{text}: {other:?}"),
        }
    }
    for text in ["{}", r#"{"model_type": "mistral"}"#, r#"{"model_type": null}"#, r#"{"architectures": []}"#] {
        assert!(matches!(Config::from_json(text), Err(Error::UnsupportedOption { key, .. }) if key == "model_type"));
    }
}

#[test]
fn configurations_that_load() {
    assert_eq!(Config::from_json(CONFIG).unwrap(), Config::gpt2_small());
    assert_eq!(Config::from_json(r#"{"architectures": ["GPT2Model"]}"#).unwrap(), Config::gpt2_small());
    assert_eq!(Config::gpt2_small().parameters().unwrap(), 124_439_808);
    let aliases = r#""hidden_size": 64, "n_embd": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 32, "vocab_size": 100, "n_ctx": 7, "task_specific_params": {"x": [1]}"#;
    let config_with = |more: &str| config(&format!("{aliases}{more}")).unwrap();
    assert_eq!(config_with(""), Config::new(100, 32, 64, 2, 4), "default tokens are dropped with the vocabulary");
    assert_eq!(config_with("").head_dim, 16);
    let options = config_with(
        r#", "activation_function": "relu", "n_inner": null, "layer_norm_epsilon": 1e-6, "eos_token_id": [5, 99, 100],
        "bos_token_id": null, "tie_word_embeddings": false, "scale_attn_weights": false, "is_decoder": true,
        "scale_attn_by_inverse_layer_idx": true, "reorder_and_upcast_attn": true, "pruned_heads": { },
        "position_embedding_type": "absolute", "quantization_config": null"#,
    );
    assert_eq!((options.activation, options.n_inner, options.norm_eps), (Activation::Relu, 256, 1e-6));
    assert_eq!((options.eos, options.bos), (vec![5, 99], None), "100 is outside the vocabulary");
    assert!(!options.tied_head && !options.scale_attention && options.scale_by_layer);
    // S24: each cap, all at once; T8: their product still fits.
    let largest = config(
        r#""vocab_size": 1048576, "n_positions": 1048576, "n_embd": 65536, "n_head": 1024,
        "n_layer": 1024, "n_inner": 1048576"#,
    );
    assert_eq!(largest.unwrap().weight_bytes().unwrap(), 633_875_164_823_552);
    assert!(Config::new(1, 1, 1, 1, 0).validate().is_err() && Config::new(1, 1, 1, 1, 0).head_dim == 0);
    assert!(Config::new(usize::MAX, 1, usize::MAX, usize::MAX, 1).parameters().is_err());
}

/// A small model of a family, with more keys, which go before those that it has.
fn family(family: &str, more: &str) -> Result<Config> {
    let sizes = [
        ("vocab_size", "100"),
        ("hidden_size", "64"),
        ("intermediate_size", "48"),
        ("num_hidden_layers", "3"),
        ("num_attention_heads", "8"),
        ("num_key_value_heads", "2"),
        ("head_dim", "8"),
        ("max_position_embeddings", "128"),
    ];
    let sizes = sizes.iter().filter(|(key, _)| !more.contains(&format!("{key:?}:")));
    let sizes: String = sizes.map(|(key, value)| format!(", {key:?}: {value}")).collect();
    let more = if more.is_empty() { String::new() } else { format!(", {more}") };
    Config::from_json(&format!(r#"{{"model_type": "{family}"{sizes}{more}}}"#))
}

#[test]
fn families_that_are_impossible() {
    let yarn = |more: &str| format!(r#""rope_parameters": {{"rope_type": "yarn", "factor": 4.0, {more}}}"#);
    let rows = [
        ("hidden_size", r#""hidden_size": 0"#.to_owned()),
        ("intermediate_size", r#""intermediate_size": 1048577"#.to_owned()),
        ("max_position_embeddings", r#""max_position_embeddings": 0"#.to_owned()),
        ("num_attention_heads", r#""num_attention_heads": 1025"#.to_owned()),
        ("num_key_value_heads", r#""num_key_value_heads": 3"#.to_owned()),
        ("num_key_value_heads", r#""num_key_value_heads": 0"#.to_owned()),
        ("num_key_value_heads", r#""num_key_value_heads": -2"#.to_owned()),
        ("num_key_value_heads", r#""num_key_value_heads": 16"#.to_owned()),
        ("head_dim", r#""head_dim": 0"#.to_owned()),
        ("head_dim", r#""head_dim": 9"#.to_owned()),
        ("head_dim", r#""head_dim": 8193"#.to_owned()),
        ("head_dim", r#""head_dim": 18446744073709551614"#.to_owned()),
        ("head_dim", r#""head_dim": "8""#.to_owned()),
        ("rms_norm_eps", r#""rms_norm_eps": 0"#.to_owned()),
        ("rms_norm_eps", r#""rms_norm_eps": 1e999"#.to_owned()),
        ("attention_bias", r#""attention_bias": 1"#.to_owned()),
        ("mlp_bias", r#""mlp_bias": "no""#.to_owned()),
        ("hidden_act", r#""hidden_act": 3"#.to_owned()),
        ("layer_types", r#""layer_types": ["full_attention"]"#.to_owned()),
        ("layer_types", r#""layer_types": "full_attention""#.to_owned()),
        ("rope_theta", r#""rope_theta": 0"#.to_owned()),
        ("rope_theta", r#""rope_theta": -10000.0"#.to_owned()),
        ("rope_theta", r#""rope_theta": 1e999"#.to_owned()),
        ("rope_theta", r#""rope_theta": [10000]"#.to_owned()),
        ("rope_parameters", r#""rope_parameters": "default""#.to_owned()),
        ("rope_parameters", r#""rope_parameters": {"factor": 2.0, "factor": 3.0}"#.to_owned()),
        ("rope_scaling", r#""rope_scaling": [1]"#.to_owned()),
        ("rope_scaling.factor", r#""rope_scaling": {"type": "linear"}"#.to_owned()),
        ("rope_scaling.factor", r#""rope_scaling": {"type": "linear", "factor": 0}"#.to_owned()),
        ("rope_scaling.factor", r#""rope_scaling": {"type": "llama3", "factor": -8.0}"#.to_owned()),
        ("rope_scaling.low_freq_factor", r#""rope_scaling": {"type": "llama3", "factor": 8.0}"#.to_owned()),
        ("rope_scaling.type", r#""rope_scaling": {"type": 7, "factor": 8.0}"#.to_owned()),
        ("rope_parameters.beta_fast", yarn(r#""beta_fast": "32""#)),
        ("rope_parameters.truncate", yarn(r#""truncate": 1"#)),
        ("rope_parameters.original_max_position_embeddings", yarn(r#""original_max_position_embeddings": 0"#)),
        // Numbers that are possible alone, and make frequencies that are not.
        ("rope_parameters.rope_theta", yarn(r#""rope_theta": 1.0"#)),
        ("rope_parameters.rope_theta", yarn(r#""rope_theta": 1e4, "attention_factor": 1e300"#)),
        ("rope_scaling.rope_theta", r#""rope_scaling": {"type": "linear", "factor": 1e-300}"#.to_owned()),
        ("rope_theta", r#""rope_theta": 1e-300"#.to_owned()),
    ];
    for (key, text) in &rows {
        match family("llama", text) {
            Err(Error::BadConfig { key: blamed, .. }) => assert_eq!(blamed, *key, "{text}"),
            other => panic!("{text}: {other:?}"),
        }
    }
}

/// `tests/oracle/random_configs.py` tries more of them, on folders.
#[test]
fn families_with_options_that_are_not_implemented() {
    let rows = [
        ("llama", "hidden_act", r#""hidden_act": "gelu""#),
        ("llama", "sliding_window", r#""sliding_window": 127"#),
        ("llama", "per_layer_config", r#""per_layer_config": {"0": {"head_dim": 4}}"#),
        ("llama", "num_experts", r#""num_experts": 4"#),
        ("llama", "logit_scale", r#""logit_scale": 0.5"#),
        ("llama", "partial_rotary_factor", r#""partial_rotary_factor": 0.5"#),
        ("llama", "rope_scaling.type", r#""rope_scaling": {"type": "longrope", "factor": 2.0}"#),
        ("llama", "rope_scaling.rope_type", r#""rope_scaling": {"rope_type": "su", "type": "linear", "factor": 2.0}"#),
        ("llama", "rope_parameters.gamma", r#""rope_parameters": {"rope_type": "default", "gamma": 2.0}"#),
        ("llama", "architectures", r#""architectures": ["Qwen2ForCausalLM"]"#),
        ("llama", "quantization_config", r#""quantization_config": {"quant_method": "awq"}"#),
        ("qwen2", "sliding_window", r#""use_sliding_window": true, "sliding_window": 64, "max_window_layers": 2"#),
        ("qwen2", "sliding_window", r#""use_sliding_window": true, "sliding_window": 64, "max_window_layers": 0"#),
        ("qwen3", "layer_types", r#""layer_types": ["full_attention", "sliding_attention", "full_attention"]"#),
        ("qwen3", "layer_types", r#""layer_types": ["full_attention", "full_attention", "linear_attention"]"#),
    ];
    for (name, key, text) in rows {
        match family(name, text) {
            Err(Error::UnsupportedOption { key: blamed, .. }) => assert_eq!(blamed, key, "{text}"),
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn families_that_load() {
    let llama = family("llama", "").unwrap();
    assert_eq!((llama.family, llama.n_kv_heads, llama.head_dim, llama.n_inner), (Family::Llama, 2, 8, 48));
    assert!(llama.gated && llama.rms_norm && !llama.head_norm && !llama.tied_head && !llama.qkv_bias);
    assert_eq!((llama.bos, llama.eos.as_slice()), (Some(1), [2].as_slice()));
    assert_eq!(llama.to_string(), "Llama, 3 layers of 64, heads 8:2 of 8, rope base 10000");
    let (qwen2, qwen3) = (family("qwen2", "").unwrap(), family("qwen3", r#""attention_bias": true"#).unwrap());
    assert!(qwen2.qkv_bias && !qwen2.output_bias && !qwen2.head_norm);
    assert!(qwen3.qkv_bias && qwen3.output_bias && qwen3.head_norm && !qwen3.mlp_bias);
    assert_eq!(
        qwen3.to_string(),
        "Qwen3, 3 layers of 64, heads 8:2 of 8, rope base 10000, QK-norm, QKV bias, output bias"
    );
    // Defaults of each, where the key is missing.
    let with = |name: &str, more: &str| Config::from_json(&format!(r#"{{"model_type": "{name}"{more}}}"#)).unwrap();
    let llama_7b = with("llama", "");
    assert_eq!((llama_7b.parameters().unwrap(), llama_7b.n_positions), (6_738_415_616, 2048));
    assert_eq!(with("qwen3", "").head_dim, 128);
    assert_eq!(with("qwen2", r#", "num_key_value_heads": null, "num_attention_heads": 16"#).n_kv_heads, 16);
    // Qwen2.5 0.5B, Qwen3 0.6B and Llama 3.2 1B as published.
    let qwen = r#", "vocab_size": 151936, "num_attention_heads": 14, "num_key_value_heads": 2, "hidden_size": 896,
        "intermediate_size": 4864, "num_hidden_layers": 24, "tie_word_embeddings": true"#;
    assert_eq!(with("qwen2", qwen).parameters().unwrap(), 494_032_768);
    let qwen = r#", "vocab_size": 151936, "num_attention_heads": 16, "num_key_value_heads": 8, "hidden_size": 1024,
        "intermediate_size": 3072, "num_hidden_layers": 28, "tie_word_embeddings": true"#;
    assert_eq!(with("qwen3", qwen).parameters().unwrap(), 596_049_920);
    let llama = r#", "vocab_size": 128256, "num_key_value_heads": 8, "hidden_size": 2048, "intermediate_size": 8192,
        "num_hidden_layers": 16, "head_dim": 64, "max_position_embeddings": 131072, "rope_theta": 500000.0,
        "tie_word_embeddings": true, "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192, "rope_type": "llama3"}, "eos_token_id": [128001, 128008, 128009]"#;
    let llama = with("llama", llama);
    assert_eq!((llama.parameters().unwrap(), llama.eos.len()), (1_235_814_400, 3));
    assert_eq!(llama.to_string(), "Llama, 16 layers of 2048, heads 32:8 of 64, rope base 500000 llama3, tied head");
    // A window that holds the whole context, or no layer, changes nothing.
    for text in [
        r#""use_sliding_window": true, "sliding_window": 128, "max_window_layers": 0"#,
        r#""use_sliding_window": true, "sliding_window": 4, "max_window_layers": 3"#,
        r#""use_sliding_window": false, "sliding_window": 4, "max_window_layers": 0"#,
        r#""layer_types": ["full_attention", "full_attention", "full_attention"], "sliding_window": null"#,
    ] {
        assert_eq!(family("qwen2", text).unwrap(), qwen2, "{text}");
    }
    // Keys that only train, or are the defaults.
    let same = r#""pretraining_tp": 2, "attention_dropout": 0.1, "hidden_act": "swish", "rope_theta": 10000,
        "rope_scaling": null, "rope_parameters": {"rope_type": "default"}, "attention_bias": false, "logit_scale": 1,
        "partial_rotary_factor": 1.0, "initializer_range": 0.02, "num_experts": 0"#;
    assert_eq!(family("llama", same).unwrap(), family("llama", "").unwrap());
}

/// (keys, radians per position of each pair, magnitude), as the functions of transformers 5.23 compute them in f32, for heads of 8.
#[test]
fn frequencies_are_those_of_transformers() {
    let rows = [
        (r#""rope_theta": 20000.0"#, [1.0, 0.084089644, 0.007071068, 0.00059460354], 1.0),
        (
            r#""rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.5}"#,
            [0.40000001, 0.084589697, 0.017888544, 0.0037829664],
            1.0,
        ),
        (
            r#""rope_theta": 10000.0, "rope_scaling": {"type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64}"#,
            [1.0, 0.013042256, 0.00125, 0.00012500001],
            1.0,
        ),
        (
            r#""rope_parameters": {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0,
            "original_max_position_embeddings": 32}"#,
            [1.0, 0.044456985, 0.0079056947, 0.0014058533],
            1.138629436111989,
        ),
        (
            r#""rope_parameters": {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0,
            "original_max_position_embeddings": 32, "truncate": false, "beta_fast": 4, "beta_slow": 0.5, "mscale": 0.7, "mscale_all_dim": 0.4}"#,
            [1.0, 0.082559198, 0.0079056947, 0.0014058533],
            1.0394038191422568,
        ),
        (
            r#""rope_parameters": {"rope_type": "proportional", "rope_theta": 100.0, "partial_rotary_factor": 0.5, "factor": 2.0}"#,
            [0.5, 0.15811388, 0.0, 0.0],
            1.0,
        ),
    ];
    for (text, frequencies, magnitude) in rows {
        let rope = family("llama", text).unwrap().rope.unwrap();
        assert_eq!(rope.frequencies.len(), 4);
        for (got, expected) in rope.frequencies.iter().zip(frequencies) {
            assert!((got - expected).abs() <= 1e-6 * expected.abs(), "{text}: {got}, not {expected}");
        }
        assert!((rope.magnitude - magnitude).abs() <= 1e-9, "{text}: {}, not {magnitude}", rope.magnitude);
    }
}

#[test]
fn damaged_configurations_never_panic() {
    damage(r#"{"model_type":"gpt2","n_embd":64,"n_head":4,"eos_token_id":[1,2],"layer_norm_epsilon":1e-5}"#);
    damage(
        r#"{"model_type":"qwen3","hidden_size":64,"num_attention_heads":8,"num_key_value_heads":2,"head_dim":8,
        "rope_scaling":{"type":"yarn","factor":4.0,"beta_slow":1},"layer_types":["full_attention"],"num_hidden_layers":1}"#,
    );
}

fn damage(text: &str) {
    for end in 0..text.len() {
        assert!(Config::from_json(&text[..end]).is_err(), "cut at {end}");
    }
    let mut random = Random(2);
    for _ in 0..2000 {
        let mut bytes = text.as_bytes().to_vec();
        bytes[random.below(text.len())] ^= 1 << random.below(8);
        let Ok(text) = String::from_utf8(bytes) else { continue };
        if let Ok(config) = Config::from_json(&text) {
            config.validate().unwrap();
        }
    }
}
