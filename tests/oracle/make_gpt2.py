"""Makes (or, with --check, remakes and compares) the expected values in this folder.

  python make_gpt2.py [--check] [ID ...]

Cases a1 .. a6 are seeded: only expected.json is stored, and the weights follow from (config, seed)
by the rule at the head of gpt2_oracle.py. Cases b1 .. b4 are folders as transformers saves them.

The seeds are chosen: random models soon repeat themselves when decoding greedily, and these are
seeds for which the continuation varies and no step is a near tie.
"""

import argparse
import os
import shutil

import numpy as np

import gpt2_oracle as oracle
from gpt2_oracle import config_dict

HERE = os.path.dirname(os.path.abspath(__file__))

# id: (config, seed, number of tokens)
A1 = dict(hidden=84, heads=7, vocab=97, inner=130, layers=3, positions=96)
SEEDED = {
    "a1": (config_dict(**A1), 70, 88),
    "a2": (config_dict(hidden=60, heads=1, vocab=211, layers=2, positions=80, act="relu"), 12, 70),
    "a3": (config_dict(hidden=66, heads=3, vocab=130, layers=2, positions=80, act="gelu",
                       untied=True, eps=1e-6), 68, 70),
    "a4": (config_dict(hidden=50, heads=5, vocab=33, inner=36, layers=3, positions=128,
                       scale_by_layer=True), 91, 120),
    "a5": (config_dict(**A1, scale_attn=False), 47, 88),
    "a6": (config_dict(hidden=768, heads=12, vocab=50257, layers=2, positions=1024,
                       eos=50256), 7, 24),
}

# id: (config, seed, number of tokens, how it is saved)
FOLDERS = {
    "b1": (config_dict(hidden=32, heads=4, vocab=61, layers=2, positions=64, eos=50256),
           17, 60, dict()),
    "b2": (config_dict(hidden=36, heads=3, vocab=50, layers=3, positions=64),
           17, 60, dict(dtype="bf16", prefix=False, old_buffers=True)),
    "b3": (config_dict(hidden=40, heads=5, vocab=53, layers=2, positions=64, act="gelu",
                       untied=True, eos=52), 49, 60, dict(dtype="f16")),
    "b4": (config_dict(hidden=30, heads=3, vocab=47, layers=2, positions=64, inner=50, act="relu"),
           5, 60, dict(shard_size="20KB")),
}


def seeded_case(case):
    config, seed, count = case
    model, weights = oracle.seeded_model(config, seed)
    return oracle.expected(model, config, seed, count, weights)


def make(name, seeded, folders):
    folder = os.path.join(HERE, name)
    shutil.rmtree(folder, ignore_errors=True)
    if name in seeded:
        result = seeded_case(seeded[name])
        oracle.write_expected(folder, result)
    else:
        config, seed, count, saving = folders[name]
        result = oracle.make_folder(folder, config, seed, count, **saving)
    return oracle.summary(result)


def check(name, seeded):
    """Computes the stored values again: from the seed, or from the files as they lie here."""
    folder = os.path.join(HERE, name)
    stored = oracle.read_json(folder, "expected.json")
    if name in seeded:
        again = seeded_case(seeded[name])
    else:
        again = oracle.folder_expected(folder, stored["seed"], len(stored["tokens"]))
    for ignored in ("versions", "f64_difference"):
        stored.pop(ignored), again.pop(ignored)
    return f"agrees, largest difference {largest_difference(stored, again, name):g}"


def largest_difference(a, b, where):
    """Walks two JSON values: floats may differ by rounding, everything else must be equal."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return max((largest_difference(a[k], b[k], f"{where}.{k}") for k in a), default=0.0)
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return max((largest_difference(x, y, where) for x, y in zip(a, b)), default=0.0)
    if isinstance(a, float) and isinstance(b, float) and np.isclose(a, b, rtol=1e-5, atol=1e-4):
        return abs(a - b)
    if type(a) is not type(b) or a != b:
        raise SystemExit(f"{where}: stored {a!r}, now {b!r}")
    return 0.0


def main(seeded, folders):
    parser = argparse.ArgumentParser(description="Makes or checks expected values.")
    parser.add_argument("--check", action="store_true", help="compare with the stored values")
    parser.add_argument("ids", nargs="*", help="cases; all of them if none is named")
    args = parser.parse_args()
    print(oracle.versions())
    for name in args.ids or [*seeded, *folders]:
        if name not in seeded and name not in folders:
            parser.error(f"no case {name!r}")
        done = check(name, seeded) if args.check else make(name, seeded, folders)
        print(f"{name}: {done}", flush=True)


if __name__ == "__main__":
    main(SEEDED, FOLDERS)
