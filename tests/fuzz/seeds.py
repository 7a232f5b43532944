"""Writes the seeds of the fuzz targets, small files that load and small files that nearly do:  python seeds.py

Only the standard library is needed. The output is committed, so that `cargo test` can replay it.
"""

import json
import os
import struct

HERE = os.path.dirname(os.path.abspath(__file__))
ORACLE = os.path.join(HERE, "..", "oracle")


def write(target, name, data):
    folder = os.path.join(HERE, "seeds", target)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "wb") as file:
        file.write(data if isinstance(data, bytes) else data.encode())


def copy(target, name, *path):
    with open(os.path.join(ORACLE, *path), "rb") as file:
        write(target, name, file.read())


def string(text):
    return struct.pack("<Q", len(text.encode())) + text.encode()


def gguf(keys, tensors, data=0, alignment=32):
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys) + b"".join(tensors)
    return head + bytes(-len(head) % alignment + data)


def key(name, kind, value):
    return string(name) + struct.pack("<I", kind) + value


def tensor(name, dims, kind, offset):
    return string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def tokenizer_keys(values):
    """Keys `tokenizer.ggml.*`, each of the type of its value."""
    keys = []
    for name, value in values.items():
        items = value if isinstance(value, list) else [value]
        kind, one = {
            str: (8, string), bool: (7, lambda v: struct.pack("<B", v)), int: (5, lambda v: struct.pack("<i", v)),
            float: (6, lambda v: struct.pack("<f", v)),
        }[type(items[0])]
        data = b"".join(map(one, items))
        array = struct.pack("<IQ", kind, len(items)) + data
        keys.append(key(f"tokenizer.ggml.{name}", *((9, array) if isinstance(value, list) else (kind, data))))
    return keys


# Type numbers and the format of one value.
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
# ggml type number: elements and bytes of a block.
BLOCKS = {0: (1, 4), 1: (1, 2), 30: (1, 2), 8: (32, 34), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24),
          12: (256, 144), 13: (256, 176), 14: (256, 210)}


def model(architecture, kind=0):
    """A model of one layer, 32 wide, its matrices of a type: all zero, which is a number in each."""
    gpt2 = architecture == "gpt2"
    u32 = {"block_count": 1, "context_length": 8, "embedding_length": 32, "feed_forward_length": 32, "vocab_size": 3,
           "attention.head_count": 2, "attention.head_count_kv": 2 if gpt2 else 1}
    keys = [key("general.architecture", 8, string(architecture)), key("tokenizer.ggml.eos_token_id", 4, struct.pack("<I", 2))]
    keys += [key(f"{architecture}.{name}", 4, struct.pack("<I", value)) for name, value in u32.items()]
    eps = "layer_norm_epsilon" if gpt2 else "layer_norm_rms_epsilon"
    keys.append(key(f"{architecture}.attention.{eps}", 6, struct.pack("<f", 1e-5)))
    matrices = {"token_embd": [32, 3], "blk.0.attn_output": [32, 32], "blk.0.ffn_up": [32, 32], "blk.0.ffn_down": [32, 32]}
    vectors = {"output_norm": 32, "blk.0.attn_norm": 32, "blk.0.ffn_norm": 32}
    if gpt2:
        matrices["blk.0.attn_qkv"] = [32, 96]
        vectors.update({f"{name}.bias": 32 for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm")})
        vectors.update({f"{name}.bias": dims[1] for name, dims in matrices.items() if name != "token_embd"})
        matrices["position_embd"] = [32, 8]
    else:
        keys.append(key(f"{architecture}.rope.freq_base", 6, struct.pack("<f", 1e4)))
        matrices.update({"blk.0.attn_q": [32, 32], "blk.0.attn_k": [32, 16], "blk.0.attn_v": [32, 16], "blk.0.ffn_gate": [32, 32]})
    if architecture == "qwen2":
        vectors.update({"blk.0.attn_q.bias": 32, "blk.0.attn_k.bias": 16, "blk.0.attn_v.bias": 16})
    if architecture == "qwen3":
        vectors.update({"blk.0.attn_q_norm": 16, "blk.0.attn_k_norm": 16})
    if architecture == "llama":
        keys.append(key("llama.rope.scaling.type", 8, string("yarn")))
        keys.append(key("llama.rope.scaling.factor", 6, struct.pack("<f", 2)))
    records, offset = [], 0
    tensors = [(name, dims, kind) for name, dims in matrices.items()] + [(name, [n], 0) for name, n in vectors.items()]
    for name, dims, of in tensors:
        name = name if name.endswith(".bias") else f"{name}.weight"
        records.append(tensor(name, dims, of, offset))
        elements, size = BLOCKS[of]
        count = dims[0] * (dims[1] if len(dims) > 1 else 1)
        offset += count // elements * size + -(count // elements * size) % 32
    return gguf(keys, records, offset)


def seeds_gguf():
    for architecture, kind in [("llama", 2), ("qwen2", 8), ("qwen3", 1), ("gpt2", 30), ("gpt2", 0)]:
        write("gguf", f"model_{architecture}_{kind}", model(architecture, kind))
    write("gguf", "empty", gguf([], []))
    for kind, code in NUMBERS.items():
        one = struct.pack("<" + code, 1)
        array = struct.pack("<IQ", kind, 3) + 3 * one
        write("gguf", f"value_{kind}", gguf([key("a", kind, one), key("b", 9, array)], []))
    strings = struct.pack("<IQ", 8, 3) + string("a") + string("") + string("é")
    write("gguf", "strings", gguf([key("a", 8, string("text")), key("b", 9, strings)], []))
    write("gguf", "nested", gguf([key("a", 9, struct.pack("<IQIQ", 9, 1, 0, 0))], []))
    for kind, (elements, size) in BLOCKS.items():
        padded = size + -size % 32
        table = [tensor("a", [elements], kind, 0), tensor("b", [elements, 2], kind, padded)]
        write("gguf", f"tensor_{kind}", gguf([], table, padded + 2 * size))
    aligned = [key("general.alignment", 4, struct.pack("<I", 64)), key("split.count", 2, struct.pack("<H", 1))]
    table = [tensor("s", [], 0, 0), tensor("t", [2, 1, 1, 3], 1, 64)]
    write("gguf", "aligned", gguf(aligned, table, 64 + 12, 64))
    write("gguf", "iq", gguf([], [tensor("a", [256], 16, 0)], 64))
    copy("gguf", "metadata", "gguf", "metadata.gguf")
    vocabulary = ["<s>", "T", "h", "e", "Th", "The", "\u0120", "m", "i", "l", "\u0120m", " tool"]
    bpe = {"model": "gpt2", "pre": "llama-bpe", "tokens": vocabulary, "token_type": [3] + 10 * [1] + [4],
           "merges": ["T h", "Th e", "\u0120 m"], "bos_token_id": 0, "add_eos_token": False}
    write("gguf", "bpe", gguf(tokenizer_keys(bpe), []))
    write("gguf", "bpe_default", gguf(tokenizer_keys({**bpe, "pre": "default", "eos_token_id": 1, "add_eos_token": True}), []))
    pieces = ["<unk>", "<s>", "</s>", "T", "h", "e", "Th", "The", "\u2581The", "\u2581", "m", "ill", "<0x0A>", "<0xC3>", "il"]
    spm = {"model": "llama", "tokens": pieces, "token_type": [2, 3, 3] + 9 * [1] + [6, 6, 5],
           "scores": [0.0, 0.0, 0.0] + [-float(i) for i in range(12)], "add_space_prefix": True}
    write("gguf", "spm", gguf(tokenizer_keys(spm), []))
    spelt = pieces[:12] + [f"<0x{byte:02X}>" for byte in range(256)]
    types = [2, 3, 3] + 9 * [1] + 256 * [6]
    write("gguf", "spm_bytes", gguf(tokenizer_keys({**spm, "tokens": spelt, "token_type": types, "scores": 268 * [0.5]}), []))


def safetensors(header, data=0):
    text = header if isinstance(header, str) else json.dumps(header)
    return struct.pack("<Q", len(text.encode())) + text.encode() + bytes(data)


def seeds_safetensors():
    entry = lambda dtype, shape, begin, end: {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    write("safetensors", "empty", safetensors({}))
    write("safetensors", "metadata", safetensors({"__metadata__": {"format": "pt"}}))
    for dtype, size in [("F64", 8), ("F32", 4), ("F16", 2), ("BF16", 2), ("I64", 8), ("U8", 1), ("BOOL", 1)]:
        write("safetensors", dtype, safetensors({"a": entry(dtype, [2, 3], 0, 6 * size)}, 6 * size))
    write("safetensors", "F4", safetensors({"a": entry("F4", [2, 3], 0, 3)}, 3))
    several = {"a": entry("F32", [], 0, 4), "b": entry("F16", [0, 7], 4, 4), "c\u00e9": entry("U8", [5], 4, 9)}
    write("safetensors", "several", safetensors(several, 9))
    write("safetensors", "padded", safetensors(json.dumps({"a": entry("U8", [1], 0, 1)}) + "     ", 1))
    write("safetensors", "hole", safetensors({"a": entry("U8", [1], 1, 2)}, 2))


def seeds_index():
    both = {"x": "a.safetensors", "y": "b.safetensors"}
    write("index", "both", json.dumps({"metadata": {"total_size": 2}, "weight_map": both}))
    write("index", "one", json.dumps({"weight_map": {"x": "a.safetensors"}}))
    write("index", "outside", json.dumps({"weight_map": {"x": "../a.safetensors"}}))
    write("index", "empty", "{}")


def seeds_config():
    for case in ["b1", "b2", "b3", "b4"]:
        copy("config", case, case, "config.json")
    with open(os.path.join(ORACLE, "a1", "expected.json"), encoding="utf-8") as file:
        write("config", "a1", json.dumps(json.load(file)["config"]))


def tokenizer(model, **parts):
    rest = ["normalizer", "pre_tokenizer", "post_processor", "decoder", "truncation", "padding"]
    return json.dumps({"version": "1.0", "added_tokens": [], **dict.fromkeys(rest), **parts, "model": model})


def seeds_tokenizer():
    vocab = {token: i for i, token in enumerate(["<s>", "T", "h", "e", "Th", "The", "\u0120", "m", "i", "l", "\u0120m"])}
    merges = ["T h", "Th e", "\u0120 m"]
    bpe = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
           "end_of_word_suffix": None, "fuse_unk": False, "vocab": vocab, "merges": merges}
    levels = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    special = {"id": 0, "content": "<s>", "single_word": False, "lstrip": False, "rstrip": False,
               "normalized": False, "special": True}
    parts = {"added_tokens": [special], "pre_tokenizer": levels, "decoder": levels, "post_processor": levels}
    write("tokenizer", "bpe", tokenizer(bpe, **parts))
    pairs = {**bpe, "merges": [merge.split(" ") for merge in merges], "byte_fallback": True, "unk_token": "<s>"}
    split = {"type": "Split", "pattern": {"Regex": "\\s+|\\S+"}, "behavior": "Isolated", "invert": False}
    write("tokenizer", "split", tokenizer(pairs, pre_tokenizer=split, normalizer={"type": "NFC"}))
    words = {"type": "WordLevel", "vocab": {"The": 0, "[UNK]": 1}, "unk_token": "[UNK]"}
    write("tokenizer", "words", tokenizer(words, pre_tokenizer={"type": "Whitespace"}))
    unigram = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["T", -1.0], ["\u2581", -2.0]]}
    meta = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    write("tokenizer", "unigram", tokenizer(unigram, pre_tokenizer=meta, decoder=meta))


if __name__ == "__main__":
    seeds_gguf()
    seeds_safetensors()
    seeds_index()
    seeds_config()
    seeds_tokenizer()
