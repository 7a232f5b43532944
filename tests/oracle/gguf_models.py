"""Makes (or, with --check, remakes and compares) `gguf_models/`: small GGUF files of random weights, and what llama.cpp makes of
the same numbers in f32.

  python gguf_models.py [--check] [LLAMA_CPP]

The files come from benches/peers/make_gguf.py, the expected values from llama.cpp's CPU backend (benches/peers/llama_nll.c) on
each file's twin: its blocks dequantised to f32 by gguf-py. On the file itself llama.cpp rounds activations to 8 bits, or to 16;
how far that is off is the field `quantised_difference`. LLAMA_CPP is the folder that benches/peers/build_llama_cpp.sh built in
[$LLAMA_CPP].

`expected.json`: `versions`; `models`, by file name without its end: `tokens`; `nll[i]` = -ln p(`tokens[i + 1]` | `tokens[..= i]`);
`top[i]`, the likeliest id after `tokens[..= i]`, and `gap[i]`, how far its logit is above the next; `logits_last`, after the last
token; `types`, the number of tensors of each type.

GELU is looked up in a table of f16 there, so expected values of GPT-2 are themselves off by some 1e-3.
"""

import json
import os
import sys
import tempfile
from importlib import metadata

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
PEERS = os.path.join(HERE, "..", "..", "benches", "peers")
sys.path.insert(0, PEERS)
import make_gguf
import peer
from make_gguf import Shape

OUT = os.path.join(HERE, "gguf_models")
TOKENS = 90
SMALL = dict(hidden=64, inner=96, layers=2, heads=8, vocab=97, context=96)
# Rows of 256, for blocks of 256.
WIDE = dict(hidden=256, inner=256, layers=2, vocab=43, context=96)

# name: (shape, type, types by pattern, seed)
MODELS = {
    "llama_f32": (Shape(**{**SMALL, "hidden": 40, "inner": 40, "heads": 4, "vocab": 53}, kv_heads=1, rope_base=20000.0), "F32", (), 1),
    "llama_f16": (Shape(**SMALL, kv_heads=2, rope_base=20000.0), "F16", (), 2),
    # llama3's scaling, with positions on both sides of its original context.
    "llama_q4_0": (Shape(**SMALL, kv_heads=8, tied=True, rope_base=5000.0, rope_factors=(8.0, 1.0, 4.0, 32.0)), "Q4_0", (), 3),
    "llama_q4_k_m": (Shape(**WIDE, heads=4, kv_heads=1, head_dim=64, rope_base=20000.0), "Q4_K_M", (), 4),
    "qwen2_q8_0": (Shape("qwen2", **SMALL, kv_heads=2, tied=True, rope_base=1e6, epsilon=1e-6), "Q8_0", (), 5),
    # Queries, keys and values in three types: one product of parts.
    "qwen2_mixed": (Shape("qwen2", **SMALL, kv_heads=4, rope_base=1e6, epsilon=1e-6), "Q4_1",
                    (("attn_k", "Q5_0"), ("attn_v", "F16"), ("ffn_up", "Q5_1"), ("token_embd", "BF16"), ("^output", "Q8_0")), 6),
    "qwen3_bf16": (Shape("qwen3", **{**SMALL, "inner": 72}, kv_heads=2, head_dim=12, rope_base=1e6, epsilon=1e-6), "BF16", (), 7),
    # Heads of 4 x 32: rows of the output projection are no whole blocks, and fall back to Q5_1.
    "qwen3_q5_k_m": (Shape("qwen3", **{**WIDE, "layers": 1}, heads=4, kv_heads=1, head_dim=32, tied=True, rope_base=1e6, epsilon=1e-6),
                     "Q5_K_M", (), 8),
    "gpt2_f16": (Shape("gpt2", **SMALL, tied=True), "F16", (), 9),
    "gpt2_q5_1": (Shape("gpt2", **{**SMALL, "inner": 256, "heads": 4}), "Q5_1", (("ffn_down", "Q4_0"),), 10),
}


def case(name, llama_cpp, ggml, folder):
    """Writes the file to the folder; returns what is expected of it."""
    shape, kind, rules, seed = MODELS[name]
    file = os.path.join(folder, f"{name}.gguf")
    with tempfile.TemporaryDirectory() as scratch:
        twin = os.path.join(scratch, "twin.gguf")
        types = make_gguf.make(file, shape, kind, seed, ggml, rules)
        make_gguf.make_twin(file, twin)
        tokens = make_gguf.random_ids(TOKENS, shape.vocab, seed)
        truth = peer.nll(llama_cpp, twin, tokens)
    own = peer.nll(llama_cpp, file, tokens)
    off = float(np.abs(np.subtract(own["nll"], truth["nll"])).max())
    print(f"{name:14} {os.path.getsize(file):7} bytes, nll {np.mean(truth['nll']):.2f} +- {np.std(truth['nll']):.2f},"
          f" llama.cpp on the file itself off by {off:.1e}, {types}")
    del truth["device"]
    return {"types": types, "quantised_difference": round(off, 6), "tokens": tokens, **truth}


def same(stored, made):
    """Whether two sets of expected values agree, to what another processor's order of sums may change."""
    if stored["versions"] != made["versions"]:
        print(f"other versions: stored {stored['versions']}, here {made['versions']}")
    ok = stored["models"].keys() == made["models"].keys()
    for name in stored["models"].keys() & made["models"].keys():
        a, b = stored["models"][name], made["models"][name]
        close = all(np.allclose(a[key], b[key], rtol=0, atol=1e-3) for key in ("nll", "logits_last"))
        if not (close and a["tokens"] == b["tokens"] and a["types"] == b["types"]):
            print(f"{name} differs")
            ok = False
    return ok


def main():
    args = sys.argv[1:]
    check = "--check" in args
    rest = [arg for arg in args if arg != "--check"]
    llama_cpp = peer.llama_cpp_dir(rest[0] if rest else None)
    ggml = make_gguf.Ggml(llama_cpp)
    versions = {"llama_cpp": peer.llama_cpp_version(llama_cpp), "gguf": metadata.version("gguf"), "numpy": np.__version__}
    expected_path = os.path.join(OUT, "expected.json")
    if not check:
        os.makedirs(OUT, exist_ok=True)
        made = {"versions": versions, "models": {name: case(name, llama_cpp, ggml, OUT) for name in MODELS}}
        with open(expected_path, "w", encoding="utf-8") as file:
            file.write(json.dumps(made, separators=(",", ":")).replace('"llama_', '\n"llama_').replace('"qwen', '\n"qwen')
                       .replace('"gpt2', '\n"gpt2') + "\n")
        return
    with tempfile.TemporaryDirectory() as folder:
        made = {"versions": versions, "models": {name: case(name, llama_cpp, ggml, folder) for name in MODELS}}
        files = [f"{name}.gguf" for name in MODELS]
        different = [name for name in files if read(os.path.join(folder, name)) != read(os.path.join(OUT, name))]
    with open(expected_path, encoding="utf-8") as file:
        stored = json.load(file)
    for name in different:
        print(f"{name} has other bytes")
    if not same(stored, made) or different:
        raise SystemExit(1)
    print("all as stored")


def read(path):
    with open(path, "rb") as file:
        return file.read()


if __name__ == "__main__":
    main()
