"""Makes (or, with --check, remakes and compares) the expected values of Llama, Qwen2 and Qwen3 in this folder.

  python make_llama.py [--check] [ID ...]

Cases c1 .. c7 are seeded, d1 .. d3 folders, as a1 .. a6 and b1 .. b4 of make_gpt2.py are.
"""

import make_gpt2

ROPE = {"rope_type": "default", "rope_theta": 20000.0}
# Short, so that the positions of a test are on both sides of it.
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24, "rope_theta": 1000000.0}


def config_dict(model_type, hidden, heads, kv_heads, vocab, inner, layers, positions, **more):
    """The content of a config.json."""
    kind = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}[model_type]
    config = {
        "architectures": [kind + "ForCausalLM"],
        "model_type": model_type,
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "hidden_act": "silu",
        "max_position_embeddings": positions,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "rope_parameters": ROPE,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    config.update(more)
    return {key: value for key, value in config.items() if value != "absent"}


# id: (config, seed, number of tokens)
SEEDED = {
    "c1": (config_dict("llama", 64, 8, 2, 97, 100, 3, 96), 43, 88),
    # The older keys, and heads that are wider than hidden / heads.
    "c2": (config_dict("llama", 96, 4, 1, 130, 150, 2, 128, head_dim=32, attention_bias=True, mlp_bias=True,
                       tie_word_embeddings=True, rms_norm_eps=1e-5, rope_parameters="absent",
                       rope_theta=20000.0, rope_scaling=LLAMA3), 46, 120),
    "c3": (config_dict("qwen2", 80, 5, 1, 111, 90, 2, 96, tie_word_embeddings=True, sliding_window=4,
                       use_sliding_window=False, max_window_layers=1,
                       rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}), 13, 88),
    "c4": (config_dict("qwen3", 64, 8, 2, 97, 120, 2, 96, head_dim=24, attention_bias=True), 12, 88),
    "c5": (config_dict("qwen3", 72, 4, 1, 90, 70, 3, 96, head_dim=18, tie_word_embeddings=True,
                       rope_parameters=YARN), 52, 88),
    "c6": (config_dict("llama", 68, 2, 2, 77, 60, 2, 96, rope_parameters="absent", rope_theta=500.0,
                       rope_scaling={"type": "linear", "factor": 2.5}), 10, 88),
    "c7": (config_dict("qwen2", 128, 8, 2, 97, 130, 2, 96, head_dim=8,
                       rope_parameters={"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 12,
                                        "beta_fast": 4.0, "beta_slow": 0.5, "truncate": False, "mscale": 0.7,
                                        "mscale_all_dim": 0.4, "rope_theta": 700.0}), 10, 88),
}

# id: (config, seed, number of tokens, how it is saved)
FOLDERS = {
    "d1": (config_dict("llama", 64, 8, 2, 61, 72, 2, 80), 57, 72, dict(dtype="bf16", shard_size="40KB")),
    "d2": (config_dict("qwen2", 48, 4, 1, 67, 56, 2, 80, tie_word_embeddings=True), 40, 72,
           dict(dtype="f16", prefix=False)),
    "d3": (config_dict("qwen3", 40, 4, 2, 53, 44, 2, 80, head_dim=16), 34, 72, dict()),
}

if __name__ == "__main__":
    make_gpt2.main(SEEDED, FOLDERS)
