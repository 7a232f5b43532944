"""Draws Llama, Qwen2 and Qwen3 models with random options, saves them as folders, and compares what gristmill makes of each
with transformers: the nll at every position, and greedy ids.

  python random_configs.py GRISTMILL [--count 40] [--seed 1] [--backend cpu] [--keep DIR]

GRISTMILL is the built command. A row is printed for each model, and at the end the worst; the exit code is 1 if any nll is
off by more than 2e-3 or greedy ids differ where the reference could tell them apart. Options that must be refused by
name are tried after that.
"""

import argparse
import copy
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import safetensors.torch
import torch

import gpt2_oracle as oracle

NLL = 2e-3
GAP = 2e-3
GREEDY = 64

KINDS = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}
HEADS = [(8, 2), (4, 1), (8, 1), (6, 3), (4, 4), (5, 1), (2, 2), (1, 1), (7, 7), (9, 3)]


def draw_rope(rng, config):
    """Rope parameters under the older or the newer keys, or none."""
    theta = rng.choice([20000.0, 10000, 500000.0, 1e6, 100.0])
    kind = rng.choice(["none", "default", "default", "linear", "llama3", "llama3", "dynamic", "yarn", "yarn", "proportional"])
    original = rng.choice([16, 32, 64])
    inner = {
        "none": {},
        "default": {},
        "linear": {"factor": rng.choice([2, 4.0, 1.5])},
        "dynamic": {"factor": rng.choice([2.0, 4])},
        "proportional": {"partial_rotary_factor": rng.choice([0.5, 0.25, 1.0]), "factor": rng.choice([1.0, 2.0])},
        "llama3": {"factor": rng.choice([8.0, 32]), "low_freq_factor": 1.0, "high_freq_factor": rng.choice([4.0, 2]),
                   "original_max_position_embeddings": original},
        "yarn": {"factor": rng.choice([4.0, 2, 8.0]), "original_max_position_embeddings": original},
    }[kind]
    if kind == "yarn":
        for key, values in [("beta_fast", [32, 8.0, None]), ("beta_slow", [1, 0.5, None]), ("attention_factor", [1.2, None]),
                            ("mscale", [0.7, None]), ("mscale_all_dim", [0.5, None]), ("truncate", [True, False])]:
            if rng.random() < 0.4:
                inner[key] = rng.choice(values)
        if inner.get("truncate", True) is None:
            del inner["truncate"]
    if kind == "none":
        if rng.random() < 0.5:
            config["rope_theta"] = theta
        if rng.random() < 0.3:
            config["rope_scaling"] = None
    elif rng.random() < 0.5:
        config["rope_parameters"] = {"rope_type": kind, "rope_theta": theta, **inner}
    else:
        config["rope_theta"] = theta
        if kind != "default":
            config["rope_scaling"] = {rng.choice(["type", "rope_type"]): kind, **inner}
    return kind


def draw(rng):
    """A config.json as somebody might write it, and how its weights are saved."""
    family = rng.choice(list(KINDS))
    heads, kv_heads = rng.choice(HEADS)
    head_dim = rng.choice([8, 10, 16, 24, 32, 6])
    explicit = family == "qwen3" or rng.random() < 0.4
    hidden = heads * (rng.choice([4, 6, 12, 18]) if explicit else head_dim)
    layers = rng.choice([1, 2, 3])
    config = {
        "architectures": [KINDS[family] + "ForCausalLM"],
        "model_type": family,
        "vocab_size": rng.choice([50, 97, 130, 256]),
        "hidden_size": hidden,
        "intermediate_size": rng.choice([33, 64, 100, 129]),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": rng.choice([128, 200, 4096, 131072]),
        "rms_norm_eps": rng.choice([1e-5, 1e-6, 1e-3]),
        "tie_word_embeddings": rng.random() < 0.5,
        "bos_token_id": rng.choice([1, None]),
        "eos_token_id": rng.choice([2, [2, 3], None]),
        "hidden_act": rng.choice(["silu", "silu", "swish"]),
    }
    if explicit:
        config["head_dim"] = head_dim
    if kv_heads != heads or family != "llama" or rng.random() < 0.5:
        config["num_key_value_heads"] = kv_heads
    if family != "qwen2" and rng.random() < 0.5:
        config["attention_bias"] = rng.random() < 0.7
    if family == "llama" and rng.random() < 0.5:
        config["mlp_bias"] = rng.random() < 0.7
    if family != "llama":
        config.update(rng.choice([
            {}, {"use_sliding_window": False, "sliding_window": 8},
            {"use_sliding_window": True, "sliding_window": 200000, "max_window_layers": 0},
            {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": layers},
            {"layer_types": ["full_attention"] * layers},
        ]))
    if family == "llama" and rng.random() < 0.3:
        config["pretraining_tp"] = rng.choice([1, 2])
    if rng.random() < 0.5:
        config.update({"attention_dropout": 0.1, "initializer_range": 0.02, "use_cache": True, "torch_dtype": "float16"})
    rope = draw_rope(rng, config)
    saving = {"dtype": rng.choice(["f32", "f32", "f16", "bf16"])}
    if rng.random() < 0.3:
        saving["shard_size"] = rng.choice(["20KB", "60KB"])
    elif config["tie_word_embeddings"] and rng.random() < 0.3:
        saving["prefix"] = False
    head = rng.choice(["equal", "other"]) if config["tie_word_embeddings"] and rng.random() < 0.3 else None
    if saving.get("shard_size") or saving.get("prefix") is False:
        head = None
    mixed = rng if not head and "prefix" not in saving and "shard_size" not in saving and rng.random() < 0.4 else None
    return config, saving, head, mixed, rope


def add_head(tensors, how):
    """An output matrix in the file of a model whose config ties it."""
    embedding = tensors["model.embed_tokens.weight"]
    tensors["lm_head.weight"] = embedding.clone() if how == "equal" else embedding.flip(0).contiguous()


def mix(tensors, rng):
    """Tensors of several types in one file, and the frequencies that old checkpoints carry."""
    for name in sorted(tensors):
        tensors[name] = tensors[name].to(oracle.DTYPES[rng.choice(["f32", "f16", "bf16"])])
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)


def save(folder, config, seed, saving, head=None, mixed=None):
    oracle.save_folder(oracle.torch_random_model(config, seed), folder, **saving)
    if head or mixed:
        path = os.path.join(folder, "model.safetensors")
        tensors = safetensors.torch.load_file(path)
        if head:
            add_head(tensors, head)
        if mixed:
            mix(tensors, mixed)
        safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    # As it was drawn: transformers would write the newer keys.
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump(config, file)


def gristmill(command, args):
    done = subprocess.run([command, *args], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout)


def compare(args, folder, config, seed):
    model = oracle.load_folder(folder)
    count = min(config["max_position_embeddings"] - 1, 110)
    tokens = oracle.seeded_tokens(seed, count, config["vocab_size"])
    nll = oracle.nll_of(oracle.full_logits(model, tokens), tokens)
    run = oracle.greedy(model, tokens[: oracle.PROMPT_LEN])
    ids = os.path.join(folder, "tokens.json")
    with open(ids, "w") as file:
        json.dump(tokens, file)
    common = ["--model", folder, "--backend", args.backend, "--json"]
    got = {kv: np.array(gristmill(args.gristmill, ["perplexity", *common, "--tokens-file", ids, "--kv", kv])["nll"])
           for kv in ("f32", "f16")}
    prompt = ",".join(map(str, run["prompt"]))
    written = gristmill(args.gristmill, ["generate", *common, "--tokens", prompt, "-n", str(len(run["ids"])),
                                         "--temperature", "0", "--ignore-eos"])["tokens"]
    same = next((i for i, (a, b) in enumerate(zip(written, run["ids"])) if a != b), len(run["ids"]))
    excused = same == len(run["ids"]) or run["gap"][same] < GAP
    return {
        "nll": float(np.abs(got["f32"] - nll).max()) if len(got["f32"]) == len(nll) else float("inf"),
        "halves": float(np.abs(got["f16"] - nll).max()),
        "greedy": same,
        "of": len(run["ids"]),
        "right": excused and len(written) == len(run["ids"]),
    }


def describe(config, saving, head, mixed, rope):
    width = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    parts = [KINDS[config["model_type"]], f"{config['hidden_size']}x{config['num_hidden_layers']}",
             f"{config['num_attention_heads']}:{config.get('num_key_value_heads', config['num_attention_heads'])}x{width}",
             rope, "tied" if config["tie_word_embeddings"] else "untied", saving["dtype"]]
    parts += [name for name in ("attention_bias", "mlp_bias") if config.get(name)]
    parts += ["sharded"] if saving.get("shard_size") else []
    parts += ["no prefix"] if saving.get("prefix") is False else []
    parts += [f"{head} head stored"] if head else []
    parts += ["mixed types"] if mixed else []
    return " ".join(parts)


# (what is changed in a plain config of a family, the key that must be named)
REFUSED = [
    ("llama", {"hidden_act": "gelu"}, "hidden_act"),
    ("llama", {"rope_scaling": {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4,
                                "original_max_position_embeddings": 64}}, "rope_scaling.type"),
    ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
     "rope_parameters.partial_rotary_factor"),
    ("llama", {"rope_parameters": {"rope_type": "mystery"}}, "rope_parameters.rope_type"),
    ("llama", {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}}, "rope_parameters.mrope_section"),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ("llama", {"sliding_window": 16}, "sliding_window"),
    ("llama", {"quantization_config": {"bits": 4}}, "quantization_config"),
    ("llama", {"per_layer_config": {"0": {"num_attention_heads": 2}}}, "per_layer_config"),
    ("llama", {"num_local_experts": 8}, "num_local_experts"),
    ("llama", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
    ("llama", {"architectures": ["LlamaForSequenceClassification"]}, "architectures"),
    ("llama", {"model_type": "mistral"}, "model_type"),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0}, "sliding_window"),
    ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
    ("qwen3", {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
     "rope_parameters.full_attention"),
]


def check_refused(args, folder):
    wrong = 0
    for family, change, key in REFUSED:
        config = {
            "architectures": [KINDS[family] + "ForCausalLM"], "model_type": family, "vocab_size": 50, "hidden_size": 32,
            "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "head_dim": 8, "max_position_embeddings": 128, "tie_word_embeddings": True,
        }
        plain = os.path.join(folder, family)
        if not os.path.isdir(plain):
            save(plain, config, 1, {})
        with open(os.path.join(plain, "config.json"), "w") as file:
            json.dump({**config, **change}, file)
        done = subprocess.run([args.gristmill, "perplexity", "--model", plain, "--backend", "cpu", "--tokens", "1,2"],
                              capture_output=True, text=True)
        named = done.returncode == 5 and f"`{key}`" in done.stderr
        wrong += not named
        print(f"{'refused' if named else 'WRONG'}: {family} {json.dumps(change)}: {done.stderr.strip()[-120:]}", flush=True)
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gristmill")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--keep", help="a folder for the models that are wrong")
    args = parser.parse_args()
    wrong, worst, worst_halves = 0, 0.0, 0.0
    for seed in range(args.seed, args.seed + args.count):
        rng = random.Random(seed)
        config, saving, head, mixed, rope = draw(rng)
        folder = tempfile.mkdtemp()
        try:
            save(folder, copy.deepcopy(config), seed, saving, head, mixed)
            result = compare(args, folder, config, seed)
            good = result["nll"] <= NLL and result["right"]
            worst, worst_halves = max(worst, result["nll"]), max(worst_halves, result["halves"])
            row = f"nll {result['nll']:.1e}, f16 kv {result['halves']:.1e}, greedy {result['greedy']}/{result['of']}"
        except Exception as error:
            good, row = False, f"{type(error).__name__}: {error}"
        print(f"{seed} {'ok' if good else 'WRONG'} | {describe(config, saving, head, mixed, rope)} | {row}", flush=True)
        if not good:
            wrong += 1
            if args.keep:
                shutil.copytree(folder, os.path.join(args.keep, str(seed)), dirs_exist_ok=True)
        shutil.rmtree(folder)
    print(f"{args.count} models, {wrong} wrong; worst nll {worst:.1e}, with keys and values in f16 {worst_halves:.1e}")
    with tempfile.TemporaryDirectory() as folder:
        refused = check_refused(args, folder)
    print(f"{len(REFUSED)} options to refuse, {refused} wrong")
    sys.exit(1 if wrong or refused else 0)


if __name__ == "__main__":
    main()
