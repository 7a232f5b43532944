//! Hostile files, continued: `config.json`.

use gristmill::error::{Error, Result};
use gristmill::model::{Activation, Checkpoint, Config};

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
    for text in ["{}", r#"{"model_type": "llama"}"#, r#"{"model_type": null}"#, r#"{"architectures": []}"#] {
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
    assert_eq!(config_with("").head_dim(), 16);
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
    assert!(Config::new(1, 1, 1, 1, 0).validate().is_err() && Config::new(1, 1, 1, 1, 0).head_dim() == 0);
    assert!(Config::new(usize::MAX, 1, usize::MAX, usize::MAX, 1).parameters().is_err());
}

#[test]
fn damaged_configurations_never_panic() {
    let text = r#"{"model_type":"gpt2","n_embd":64,"n_head":4,"eos_token_id":[1,2],"layer_norm_epsilon":1e-5}"#;
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
