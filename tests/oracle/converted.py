"""Draws Llama, Qwen2, Qwen3 and GPT-2 models with random options, has llama.cpp's converter make GGUF files of them, and compares
what gristmill makes of each file with what transformers makes of the folder: the nll at every position.

  python converted.py GRISTMILL LLAMA_CPP [--count 40] [--seed 1] [--backend cpu]

GRISTMILL is the built command, LLAMA_CPP the source of llama.cpp (in the archive of llama-cpp-python: vendor/llama.cpp). The
files are F32, without a vocabulary. Options that the converter drops are not drawn. A row is printed for each model; the exit
code is 1 if any nll is off by more than 2e-3.
"""

import argparse
import copy
import json
import os
import pathlib
import random
import shutil
import sys
import tempfile

import numpy as np
import torch

import gpt2_oracle as oracle
import random_configs

NLL = 2e-3


def converter(llama_cpp):
    """A function that converts a folder to a file."""
    sys.path[:0] = [llama_cpp, os.path.join(llama_cpp, "gguf-py")]
    import gguf
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

    def without_vocabulary(self):
        self.gguf_writer.add_tokenizer_model("no_vocab")
        if not any(key.endswith(".vocab_size") for data in self.gguf_writer.kv_data for key in data):
            self.gguf_writer.add_vocab_size(self.hparams["vocab_size"])

    def convert(folder, file):
        path = pathlib.Path(folder)
        base = get_model_class(get_model_architecture(ModelBase.load_hparams(path, False), ModelType.TEXT))
        kind = type(base.__name__, (base,), {"set_vocab": without_vocabulary, "model_arch": base.model_arch})
        with torch.inference_mode():
            kind(path, gguf.LlamaFileType.ALL_F32, pathlib.Path(file)).write()

    return convert


def draw_gpt2(rng):
    heads = rng.choice([1, 2, 3, 5])
    config = {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": rng.choice([50, 97, 131]),
        "n_positions": 128, "n_ctx": 128, "n_embd": heads * rng.choice([5, 8, 12]), "n_layer": rng.choice([1, 2, 3]),
        "n_head": heads, "layer_norm_epsilon": rng.choice([1e-5, 1e-3]), "activation_function": "gelu_new",
        "bos_token_id": 1, "eos_token_id": 2,
    }
    return config, f"GPT-2 {config['n_embd']}x{config['n_layer']} {heads} heads"


def draw(rng):
    """A config that the converter keeps all of, and what it is."""
    while True:
        if rng.random() < 0.2:
            return draw_gpt2(rng)
        config, saving, head, mixed, rope = random_configs.draw(rng)
        inner = config.get("rope_scaling") or config.get("rope_parameters") or {}
        for key in ("beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim", "truncate"):
            inner.pop(key, None)
        # The converter has llama3's factors for Llama alone.
        lost = rope == "llama3" and config["model_type"] != "llama"
        window = config.get("use_sliding_window") and config.get("sliding_window", 0) < config["max_position_embeddings"]
        if rope in ("none", "default", "linear", "llama3", "yarn") and not lost and not window:
            return config, random_configs.describe(config, {"dtype": "f32"}, None, None, rope)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gristmill")
    parser.add_argument("llama_cpp")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--keep", help="a folder for the files that are wrong")
    args = parser.parse_args()
    convert, wrong, worst = converter(args.llama_cpp), 0, 0.0
    for seed in range(args.seed, args.seed + args.count):
        config, what = draw(random.Random(seed))
        folder = tempfile.mkdtemp()
        file = os.path.join(folder, "model.gguf")
        try:
            random_configs.save(folder, copy.deepcopy(config), seed, {"dtype": "f32"})
            convert(folder, file)
            model = oracle.load_folder(folder)
            tokens = oracle.seeded_tokens(seed, 110, config["vocab_size"])
            nll = oracle.nll_of(oracle.full_logits(model, tokens), tokens)
            ids = ",".join(map(str, tokens))
            got = random_configs.gristmill(args.gristmill, ["perplexity", "--model", file, "--backend", args.backend, "--json",
                                                            "--tokens", ids])["nll"]
            off = float(np.abs(np.array(got) - nll).max())
            worst, good, row = max(worst, off), off <= NLL, f"nll {off:.1e}"
        except Exception as error:
            good, row = False, f"{type(error).__name__}: {error}"
        print(f"{seed} {'ok' if good else 'WRONG'} | {what} | {row}", flush=True)
        wrong += not good
        if not good and args.keep:
            shutil.copytree(folder, os.path.join(args.keep, str(seed)), dirs_exist_ok=True)
        shutil.rmtree(folder)
    print(f"{args.count} models, {wrong} wrong; worst nll {worst:.1e}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
