#!/usr/bin/env python3
"""Writes a GGUF file of a GPT-2 with random weights, matrices in f16: the same work as with real ones.

  random_gguf.py OUT.gguf [--layers 12 --hidden 768 --heads 12 --vocab 50257 --context 1024]

For machines that have python3 and nothing else; benches/peers/make_gguf.py makes files of every shape and type, but needs numpy and
gguf. Random numbers are drawn once and repeated, at a period that divides no row.
"""

import argparse
import random
import struct

# A prime.
PERIOD = 65521
ALIGNMENT = 32
F32, F16 = 0, 1


def tensors(shape):
    """(name, dimensions from the innermost out, deviation, about) of every tensor."""
    hidden, inner = shape.hidden, 4 * shape.hidden

    def layer(at):
        for name, out, inputs in (("attn_qkv", 3 * hidden, hidden), ("attn_output", hidden, hidden), ("ffn_up", inner, hidden),
                                  ("ffn_down", hidden, inner)):
            yield f"{at}.{name}.weight", (inputs, out), inputs ** -0.5, 0.0
            yield f"{at}.{name}.bias", (out,), 0.3, 0.0
        for name in ("attn_norm", "ffn_norm"):
            yield from norm(f"{at}.{name}")

    def norm(name):
        yield f"{name}.weight", (hidden,), 0.2, 1.0
        yield f"{name}.bias", (hidden,), 0.2, 0.0

    yield "token_embd.weight", (hidden, shape.vocab), 2.5 * hidden ** -0.5, 0.0
    yield "position_embd.weight", (hidden, shape.context), 0.05, 0.0
    for i in range(shape.layers):
        yield from layer(f"blk.{i}")
    yield from norm("output_norm")


def string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def metadata(shape):
    """Each key with the number of its type, and its value."""
    yield "general.architecture", 8, string("gpt2")
    yield "general.name", 8, string("random gpt2")
    for key, value in (("block_count", shape.layers), ("context_length", shape.context), ("embedding_length", shape.hidden),
                       ("feed_forward_length", 4 * shape.hidden), ("attention.head_count", shape.heads), ("vocab_size", shape.vocab)):
        yield f"gpt2.{key}", 4, struct.pack("<I", value)
    yield "gpt2.attention.layer_norm_epsilon", 6, struct.pack("<f", 1e-5)
    yield "general.file_type", 4, struct.pack("<I", 1)
    yield "tokenizer.ggml.model", 8, string("no_vocab")


def padding(size):
    return -size % ALIGNMENT


def repeated(tile, size):
    """Writes need no more memory than a tile."""
    whole, rest = divmod(size, len(tile))
    for _ in range(whole):
        yield tile
    yield tile[:rest]


def main():
    parser = argparse.ArgumentParser(description="Writes a GGUF file of a GPT-2 with random weights.")
    parser.add_argument("out")
    for name, default in (("layers", 12), ("hidden", 768), ("heads", 12), ("vocab", 50257), ("context", 1024)):
        parser.add_argument(f"--{name}", type=int, default=default)
    shape = parser.parse_args()
    draws = random.Random(1)
    normal = [draws.gauss(0, 1) for _ in range(PERIOD)]
    tiles = {}
    infos, parts, offset = b"", [], 0
    every = list(tensors(shape))
    for name, dims, deviation, about in every:
        kind = F16 if len(dims) == 2 and name != "position_embd.weight" else F32
        key = (kind, deviation, about)
        if key not in tiles:
            tiles[key] = struct.pack(f"<{PERIOD}{'e' if kind == F16 else 'f'}", *(about + deviation * value for value in normal))
        size = (2 if kind == F16 else 4)
        for n in dims:
            size *= n
        infos += string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)
        parts.append((key, size))
        offset += size + padding(size)
    keys = list(metadata(shape))
    head = b"GGUF" + struct.pack("<IQQ", 3, len(every), len(keys))
    head += b"".join(string(key) + struct.pack("<I", kind) + value for key, kind, value in keys) + infos
    with open(shape.out, "wb") as file:
        file.write(head + bytes(padding(len(head))))
        for key, size in parts:
            for piece in repeated(tiles[key], size):
                file.write(piece)
            file.write(bytes(padding(size)))


if __name__ == "__main__":
    main()
