"""Expected values for models with random weights, from PyTorch and transformers.

Shared by make_gpt2.py and make_llama.py (the committed cases), random_folder.py (a GPT-2 of any other
shape) and random_configs.py (any Llama, Qwen2 or Qwen3).

The rule for *seeded* weights
-----------------------------
The weights of a seeded model are not stored: they follow bit for bit from (config, seed).

  name  the tensor's name as transformers saves it, without the `transformer.` or `model.` prefix:
        `wte.weight`, `h.0.attn.c_attn.weight`, `lm_head.weight` (only if untied), ...
        in the shape and row-major element order of the file (Conv1D weights are [in, out]).
  base  = seed (u64) XOR fnv1a64(bytes of name)
  For element i = 0, 1, ...:
  z     = mix(base + (i + 1) * 0x9E3779B97F4A7C15 mod 2^64), mix being splitmix64's finaliser:
          z ^= z >> 30; z *= 0xBF58476D1CE4E5B9; z ^= z >> 27; z *= 0x94D049BB133111EB; z ^= z >> 31
  u     = (z >> 40) / 2^24                      in [0, 1)
  r     = (2 * u - 1) * 1.7320508075688772      uniform, mean 0, variance 1
  value = 2 * r / sqrt(hidden)                  embeddings of tokens and positions, `lm_head.weight`
          r / sqrt(inputs)                      the matrices of layers; inputs = what is summed over
          1 + 0.1 * r                           the weights of norms
          0.1 * r                               every bias
  All in f64, one rounding per operation, in the order written; then rounded to f32.

The tokens of every case are mix(base + (i + 1) * 0x9E3779B97F4A7C15) mod vocab_size with
name = `tokens`. They are stored too.

The `weights` list of a seeded case lets a reader check its generator tensor by tensor:
`check` is the sum of (i + 1) * (bits of f32 element i) mod 2^64, in hexadecimal.
"""

import copy
import json
import math
import os

import numpy as np
import safetensors.torch
import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

MASK64 = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
SQRT3 = 1.7320508075688772
CHUNK = 1 << 20

PROMPT_LEN = 8
MAX_NEW = 64
LOGIT_ROWS = (0, 1, 7, 31)
WHOLE_ROW_VOCAB = 1024  # above this vocabulary only parts of the last row are stored
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


# ---- the seeded generator ------------------------------------------------------------------


def fnv1a64(data):
    h = 0xCBF29CE484222325
    for byte in data:
        h = ((h ^ byte) * 0x100000001B3) & MASK64
    return h


def splitmix64(seed, name, start, count):
    """The u64 draws of elements start .. start + count of the stream (seed, name)."""
    base = np.uint64((seed ^ fnv1a64(name.encode())) & MASK64)
    index = np.arange(start + 1, start + count + 1, dtype=np.uint64)
    z = index * np.uint64(GOLDEN) + base
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def scale_unit(name, r, shape, config):
    """Turns draws of mean 0 and variance 1 (numpy or torch, f64) into weights of tensor `name`."""
    gpt2 = config["model_type"] == "gpt2"
    if name in ("wte.weight", "wpe.weight", "embed_tokens.weight", "lm_head.weight"):
        return 2.0 * r / math.sqrt(config["n_embd" if gpt2 else "hidden_size"])
    if name.endswith(".bias"):
        return 0.1 * r
    if "ln_" in name or "norm" in name:
        return 1.0 + 0.1 * r
    return r / math.sqrt(shape[0] if gpt2 else shape[1])


def seeded_tensor(seed, name, shape, config):
    out = np.empty(math.prod(shape), dtype=np.float32)
    for start in range(0, out.size, CHUNK):
        count = min(CHUNK, out.size - start)
        u = (splitmix64(seed, name, start, count) >> np.uint64(40)).astype(np.float64) / 2.0**24
        r = (2.0 * u - 1.0) * SQRT3
        out[start : start + count] = scale_unit(name, r, shape, config).astype(np.float32)
    return out.reshape(shape)


def seeded_tokens(seed, count, vocab):
    return [int(z) % vocab for z in splitmix64(seed, "tokens", 0, count)]


def bits_check(values):
    bits = values.reshape(-1).view(np.uint32)
    total = 0
    for start in range(0, bits.size, CHUNK):
        part = bits[start : start + CHUNK].astype(np.uint64)
        index = np.arange(start + 1, start + part.size + 1, dtype=np.uint64)
        total += int((part * index).sum(dtype=np.uint64))
    return f"{total & MASK64:016x}"


# ---- models --------------------------------------------------------------------------------


def config_dict(hidden, heads, vocab, layers, positions, inner=None, act="gelu_new", eps=1e-5,
                untied=False, scale_attn=True, scale_by_layer=False, eos=None):
    """The content of a config.json, in GPT-2's own keys."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": vocab,
        "n_positions": positions,
        "n_embd": hidden,
        "n_layer": layers,
        "n_head": heads,
        "n_inner": inner,
        "activation_function": act,
        "layer_norm_epsilon": eps,
        "scale_attn_weights": scale_attn,
        "scale_attn_by_inverse_layer_idx": scale_by_layer,
        "reorder_and_upcast_attn": False,
        "tie_word_embeddings": not untied,
        "bos_token_id": eos,
        "eos_token_id": eos,
    }


def new_model(config):
    config = CONFIG_MAPPING[config["model_type"]].from_dict(copy.deepcopy(config))
    return AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", dtype=torch.float32
    ).eval()


def named_weights(model):
    """(name without prefix, parameter); a tied output matrix appears once, as the embedding."""
    prefix = model.base_model_prefix + "."
    return [(name.removeprefix(prefix), p) for name, p in model.named_parameters()]


@torch.no_grad()
def seeded_model(config, seed):
    """The model and the list that lets a reader check its own generator."""
    model = new_model(config)
    checks = []
    for name, param in named_weights(model):
        values = seeded_tensor(seed, name, tuple(param.shape), config)
        param.copy_(torch.from_numpy(values))
        checks.append({"name": name, "shape": list(values.shape), "check": bits_check(values)})
    return model, checks


@torch.no_grad()
def torch_random_model(config, seed):
    """Normal weights of the same scales as the seeded ones, from torch's generator."""
    model = new_model(config)
    generator = torch.Generator().manual_seed(seed)
    for name, param in named_weights(model):
        r = torch.randn(param.shape, generator=generator, dtype=torch.float64)
        param.copy_(scale_unit(name, r, tuple(param.shape), config))
    return model


def save_folder(model, folder, dtype="f32", prefix=True, shard_size=None, old_buffers=False):
    """save_pretrained, by the whole model (prefixed names) or by its transformer alone (without)."""
    if not prefix and not model.config.tie_word_embeddings:
        raise ValueError("an untied lm_head.weight needs the prefixed names")
    if old_buffers and shard_size:
        raise ValueError("old buffers are only added to a single file")
    os.makedirs(folder, exist_ok=True)
    part = model if prefix else model.base_model
    options = {"max_shard_size": shard_size} if shard_size else {}
    part.to(DTYPES[dtype]).save_pretrained(folder, **options)
    generation_config = os.path.join(folder, "generation_config.json")
    if os.path.exists(generation_config):
        os.remove(generation_config)
    if old_buffers:
        add_old_buffers(folder, model.config, "transformer." if prefix else "")


def add_old_buffers(folder, config, prefix):
    """Adds the causal mask buffers that old checkpoints carry, in the dtypes seen over the years."""
    path = os.path.join(folder, "model.safetensors")
    tensors = safetensors.torch.load_file(path)
    context = config.n_positions
    for layer in range(config.n_layer):
        dtype = (torch.uint8, torch.bool, torch.float32)[layer % 3]
        mask = torch.ones(context, context).tril().to(dtype).view(1, 1, context, context)
        tensors[f"{prefix}h.{layer}.attn.bias"] = mask.contiguous()
        tensors[f"{prefix}h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})


def load_folder(folder):
    """The saved (rounded) weights, computed with in f32."""
    # In f32 whatever `torch_dtype` says: that would round weights that are stored with more digits.
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32, output_loading_info=True
    )
    if info["missing_keys"] or info["mismatched_keys"]:
        raise ValueError(f"{folder}: {info}")
    return model.eval()


# ---- expected values -----------------------------------------------------------------------


def shortest(values):
    """f32 values as floats that print with at most 9 significant digits."""
    return [float(str(np.float32(v))) for v in values]


@torch.no_grad()
def full_logits(model, tokens):
    return model(torch.tensor([tokens]), use_cache=False).logits[0].numpy()


def nll_of(logits, tokens):
    """-ln p(tokens[i + 1] | tokens[..= i]), the log-softmax in f64."""
    rows = logits[:-1].astype(np.float64)
    top = rows.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(rows - top).sum(axis=1)) + top[:, 0]
    return log_sum - rows[np.arange(len(rows)), tokens[1:]]


@torch.no_grad()
def greedy(model, prompt):
    """Argmax decoding (lowest id on a tie, no stop id) with the key-value cache."""
    count = min(MAX_NEW, model.config.max_position_embeddings - len(prompt))
    ids, gaps = [], []
    cache, feed = None, prompt
    while len(ids) < count:
        out = model(torch.tensor([feed]), past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        row = out.logits[0, -1].numpy()
        second, first = np.partition(row, -2)[-2:]
        ids.append(int(np.argmax(row)))
        gaps.append(first - second)
        feed = ids[-1:]
    return {"prompt": prompt, "n_new": count, "ids": ids, "gap": shortest(gaps)}


def last_row(row):
    """The whole row, or for a large vocabulary its first 64 entries and its 16 largest."""
    if len(row) <= WHOLE_ROW_VOCAB:
        return {"logits_last": shortest(row)}
    top = np.argsort(-row, kind="stable")[:16]
    return {
        "logits_last_first": shortest(row[:64]),
        "logits_last_top_ids": [int(i) for i in top],
        "logits_last_top": shortest(row[top]),
    }


def expected(model, config, seed, token_count, weights=None):
    """The content of expected.json. `model` is turned into f64 at the end: do not use it after."""
    tokens = seeded_tokens(seed, token_count, config["vocab_size"])
    logits = full_logits(model, tokens)
    result = {
        "versions": versions(),
        "config": config,
        "seed": seed,
        "tokens": tokens,
        "nll": shortest(nll_of(logits, tokens)),
    }
    result.update(last_row(logits[-1]))
    if logits.shape[1] <= WHOLE_ROW_VOCAB:
        rows = [i for i in LOGIT_ROWS if i < token_count]
        result["logits_rows"] = {str(i): shortest(logits[i]) for i in rows}
    result["greedy"] = greedy(model, tokens[:PROMPT_LEN])
    check_greedy(model, result["greedy"])
    error = np.abs(full_logits(model.double(), tokens) - logits).max()
    result["f64_difference"] = float(f"{error:.3g}")
    if weights is not None:
        result["weights"] = weights
    return result


def check_greedy(model, run):
    """One pass without the cache must choose the same ids."""
    logits = full_logits(model, run["prompt"] + run["ids"][:-1])[PROMPT_LEN - 1 :]
    if logits.argmax(axis=1).tolist() != run["ids"]:
        raise ValueError("decoding with and without the cache disagree: take another seed")


def versions():
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "safetensors": safetensors.__version__,
        "numpy": np.__version__,
    }


# ---- files ---------------------------------------------------------------------------------


def write_expected(folder, result):
    """One top-level key per line."""
    os.makedirs(folder, exist_ok=True)
    lines = [f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in result.items()]
    with open(os.path.join(folder, "expected.json"), "w", newline="\n") as out:
        out.write("{\n" + ",\n".join(lines) + "\n}\n")


def read_json(folder, name):
    with open(os.path.join(folder, name)) as file:
        return json.load(file)


def folder_expected(folder, seed, token_count):
    return expected(load_folder(folder), read_json(folder, "config.json"), seed, token_count)


def make_folder(folder, config, seed, token_count, **saving):
    """Saves a random model and the values computed from the files just saved."""
    save_folder(torch_random_model(config, seed), folder, **saving)
    result = folder_expected(folder, seed, token_count)
    write_expected(folder, result)
    return result


def summary(result):
    last = result.get("logits_last") or result["logits_last_first"]
    run = result["greedy"]
    return (
        f"mean nll {np.mean(result['nll']):.3f}, last row {min(last):.2f} .. {max(last):.2f}, "
        f"f64 difference {result['f64_difference']:g}, greedy {run['n_new']} ids "
        f"({len(set(run['ids']))} different), smallest gap {min(run['gap']):.3g}"
    )
