"""Writes a GGUF file of random weights: any shape, any of the weight types that gristmill reads, the same for the same seed.

  python make_gguf.py OUT.gguf --arch llama --type q4_k_m --hidden 768 --layers 12 --heads 12 ... [--twin OUT.f32.gguf]

The twin holds the same numbers as f32: what the stored blocks stand for, dequantised by gguf-py. An engine that is right makes
the same of both files, up to the rounding of its activations.

--type is one type for every matrix, or q4_k_m or q5_k_m: the mixtures of llama.cpp's quantize, which gives values and
down-projections of half the layers, and the head, more bits. --set PATTERN=TYPE changes the matrices whose name matches.
A row that K-quants' blocks of 256 do not divide falls back as there: Q4_K to Q5_0, Q5_K to Q5_1, Q6_K to Q8_0. Vectors, position
embeddings and rope factors stay f32.

Random weights are only of use if the model that they make does something. Matrices are normal, scaled by 1 / sqrt(inputs) so
that sums keep their size; queries and keys by somewhat more, so that attention is not uniform; heads so that logits spread over
several nats; norms lie about 1, each element elsewhere, so that an element out of its place shows; biases are large enough to
be missed.

Needs `pip install gguf numpy`, and of llama.cpp (build_llama_cpp.sh) libggml-base, whose own quantiser fills the blocks.
"""

import argparse
import ctypes
import dataclasses
import os
import re
import zlib

import gguf
import numpy as np
import peer

TYPES = {name: getattr(gguf.GGMLQuantizationType, name) for name in (
    "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")}
MIXTURES = {"Q4_K_M": "Q4_K", "Q5_K_M": "Q5_K"}
# What needs no ggml.
UNPACKED = ("F32", "F16", "BF16")
FALLBACKS = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
# What llama.cpp calls the file as a whole; it is only printed.
FILE_TYPES = {"F32": "ALL_F32", "Q4_K_M": "MOSTLY_Q4_K_M", "Q5_K_M": "MOSTLY_Q5_K_M", "Q4_K": "MOSTLY_Q4_K_S", "Q5_K": "MOSTLY_Q5_K_S"}


@dataclasses.dataclass
class Shape:
    arch: str = "llama"
    hidden: int = 768
    inner: int = 2048
    layers: int = 12
    heads: int = 12
    kv_heads: int = 0  # 0: as many as heads
    head_dim: int = 0  # 0: hidden / heads
    vocab: int = 32000
    context: int = 1024
    rope_base: float = 10000.0
    # (factor, low, high, original context) of llama3's scaling of the rope, as `rope_freqs.weight`.
    rope_factors: tuple = ()
    tied: bool = False
    epsilon: float = 1e-5

    def __post_init__(self):
        self.kv_heads = self.kv_heads or self.heads
        self.head_dim = self.head_dim or self.hidden // self.heads


def tensors(shape, seed):
    """(name, f32 array [out, in] or [n]) of every tensor."""

    def normal(name, *dims, deviation=1.0):
        # Each tensor from its own generator: one more or one less changes no other.
        random = np.random.default_rng([seed, zlib.crc32(name.encode())])
        return deviation * random.standard_normal(dims, dtype=np.float32)

    def matrix(name, out, inputs, gain=1.0):
        return name, normal(name, out, inputs, deviation=np.float32(gain / np.sqrt(inputs)))

    def norm(name, n, bias=False, about=1.0):
        yield f"{name}.weight", np.float32(about) * (1 + normal(f"{name}.weight", n, deviation=np.float32(0.2)))
        if bias:
            yield f"{name}.bias", normal(f"{name}.bias", n, deviation=np.float32(0.2))

    def bias(name, n):
        return name, normal(name, n, deviation=np.float32(0.3))

    s, head = shape, 2.5
    gpt2 = s.arch == "gpt2"
    # A tied embedding is scaled as the head that it is; norms bring what it puts in to size.
    yield matrix("token_embd.weight", s.vocab, s.hidden, gain=head if s.tied else np.sqrt(s.hidden))
    if gpt2:
        yield "position_embd.weight", normal("position_embd.weight", s.context, s.hidden, deviation=np.float32(0.05))
    if s.rope_factors:
        yield "rope_freqs.weight", llama3_factors(s)
    queries, keys = s.heads * s.head_dim, s.kv_heads * s.head_dim
    for layer in range(s.layers):
        at = f"blk.{layer}"
        yield from norm(f"{at}.attn_norm", s.hidden, gpt2)
        if gpt2:
            yield matrix(f"{at}.attn_qkv.weight", queries + 2 * keys, s.hidden, gain=1.2)
            yield bias(f"{at}.attn_qkv.bias", queries + 2 * keys)
        else:
            yield matrix(f"{at}.attn_q.weight", queries, s.hidden, gain=1.3)
            yield matrix(f"{at}.attn_k.weight", keys, s.hidden, gain=1.3)
            yield matrix(f"{at}.attn_v.weight", keys, s.hidden)
        if s.arch == "qwen2":
            for kind, n in (("q", queries), ("k", keys), ("v", keys)):
                yield bias(f"{at}.attn_{kind}.bias", n)
        if s.arch == "qwen3":
            for kind in "qk":
                yield from norm(f"{at}.attn_{kind}_norm", s.head_dim, about=1.2)
        yield matrix(f"{at}.attn_output.weight", s.hidden, queries)
        yield from norm(f"{at}.ffn_norm", s.hidden, gpt2)
        if not gpt2:
            yield matrix(f"{at}.ffn_gate.weight", s.inner, s.hidden)
        yield matrix(f"{at}.ffn_up.weight", s.inner, s.hidden)
        yield matrix(f"{at}.ffn_down.weight", s.hidden, s.inner)
        if gpt2:
            for name, n in (("attn_output", s.hidden), ("ffn_up", s.inner), ("ffn_down", s.hidden)):
                yield bias(f"{at}.{name}.bias", n)
    yield from norm("output_norm", s.hidden, gpt2)
    if not s.tied:
        yield matrix("output.weight", s.vocab, s.hidden, gain=head)


def llama3_factors(shape):
    """By what llama3's scaling divides each frequency: 1 for the short waves, `factor` for the long, between them smoothly."""
    factor, low, high, original = shape.rope_factors
    waves = 2 * np.pi * shape.rope_base ** (np.arange(0, shape.head_dim, 2) / shape.head_dim)
    smooth = np.clip((original / waves - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)


def type_of(name, array, shape, kind, rules=()):
    """The type that a tensor is stored in, by its name."""
    if array.ndim == 1 or name.startswith(("position_embd", "rope_freqs")):
        return "F32"
    found = [new for pattern, new in rules if re.search(pattern, name)]
    if found:
        chosen = found[-1]
    elif kind in MIXTURES:
        head = name == ("token_embd.weight" if shape.tied else "output.weight")
        wide = re.fullmatch(r"blk\.(\d+)\.(attn_v|attn_qkv|ffn_down)\.weight", name)
        more = head or wide and more_bits(int(wide[1]), shape.layers)
        chosen = "Q6_K" if more else MIXTURES[kind]
    else:
        chosen = kind
    if array.shape[1] % 256 != 0:
        chosen = FALLBACKS.get(chosen, chosen)
    return chosen


def more_bits(layer, layers):
    """Which layers the mixtures give more bits: the first and last eighths, and of the others every third."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


class Ggml:
    """ggml's own quantiser."""

    def __init__(self, llama_cpp):
        self.library = ctypes.CDLL(os.path.join(llama_cpp, "build", "bin", "libggml-base.so"))
        self.library.ggml_quantize_chunk.restype = ctypes.c_size_t
        self.library.ggml_quantize_chunk.argtypes = [
            ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]

    def blocks(self, array, name):
        """The bytes of the rows, [out, bytes of a row]."""
        block, size = gguf.GGML_QUANT_SIZES[TYPES[name]]
        if array.shape[1] % block != 0:
            raise SystemExit(f"rows of {array.shape[1]} are no whole blocks of {name} ({block})")
        array = np.ascontiguousarray(array, dtype=np.float32)
        rows, columns = array.shape
        out = np.zeros((rows, columns // block * size), dtype=np.uint8)
        wrote = self.library.ggml_quantize_chunk(
            int(TYPES[name]), array.ctypes.data, out.ctypes.data, 0, rows, columns, None)
        if wrote != out.nbytes:
            raise SystemExit(f"ggml wrote {wrote} bytes of {name} where {out.nbytes} were due")
        return out


def encode(array, name, ggml):
    """The array as it is stored."""
    if name in UNPACKED:
        return gguf.quants.quantize(array, TYPES[name])
    return ggml.blocks(array, name)


def writer_for(path, shape, kind):
    writer = gguf.GGUFWriter(path, shape.arch)
    writer.add_name(f"random {shape.arch}")
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.heads)
    if shape.arch == "gpt2":
        writer.add_layer_norm_eps(shape.epsilon)
    else:
        writer.add_head_count_kv(shape.kv_heads)
        writer.add_layer_norm_rms_eps(shape.epsilon)
        writer.add_rope_freq_base(shape.rope_base)
        writer.add_rope_dimension_count(shape.head_dim)
        writer.add_key_length(shape.head_dim)
        writer.add_value_length(shape.head_dim)
    writer.add_file_type(gguf.LlamaFileType[FILE_TYPES.get(kind, f"MOSTLY_{kind}")])
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(shape.vocab)
    return writer


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make(path, shape, kind, seed, ggml, rules=()):
    """Writes the file. Returns how many tensors have each type."""
    writer = writer_for(path, shape, kind)
    counts = {}
    for name, array in tensors(shape, seed):
        chosen = type_of(name, array, shape, kind, rules)
        writer.add_tensor(name, encode(array, chosen, ggml), raw_dtype=TYPES[chosen])
        counts[chosen] = counts.get(chosen, 0) + 1
    finish(writer)
    return counts


def make_twin(path, twin):
    """Writes a file of the same metadata, whose tensors are f32."""
    reader = gguf.GGUFReader(path)
    fields = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    writer = gguf.GGUFWriter(twin, fields.pop("general.architecture").contents())
    for name, field in fields.items():
        kind, of_items = field.types[0], field.types[-1]
        is_array = kind == gguf.GGUFValueType.ARRAY
        writer.add_key_value(name, field.contents(), kind, of_items if is_array else None)
    for tensor in reader.tensors:
        numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        # Dimensions are stored from the innermost out.
        writer.add_tensor(tensor.name, np.ascontiguousarray(numbers.reshape(tensor.shape[::-1]), dtype=np.float32))
    finish(writer)


def random_ids(count, vocab, seed):
    """Token ids for a model."""
    return [int(id) for id in np.random.default_rng([seed, 1]).integers(0, vocab, count)]


def main():
    parser = argparse.ArgumentParser(description="Writes a GGUF file of random weights.")
    parser.add_argument("out")
    parser.add_argument("--type", default="f16", help="of the matrices: " + ", ".join([*TYPES, *MIXTURES]).lower())
    parser.add_argument("--set", action="append", default=[], metavar="PATTERN=TYPE", help="the type of matrices by name")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--twin", help="the same numbers as f32")
    parser.add_argument("--llama-cpp", help="the folder that build_llama_cpp.sh built in [$LLAMA_CPP, or target/peers/llama.cpp]")
    for field in dataclasses.fields(Shape):
        name = "--" + field.name.replace("_", "-")
        if field.name == "tied":
            parser.add_argument(name, action="store_true", help="the head is the embedding")
        elif field.name == "arch":
            parser.add_argument(name, default=field.default, choices=["llama", "qwen2", "qwen3", "gpt2"])
        elif field.name == "rope_factors":
            parser.add_argument(name, nargs=4, type=float, default=(), metavar=("FACTOR", "LOW", "HIGH", "ORIGINAL"))
        else:
            parser.add_argument(name, type=type(field.default), default=field.default)
    args = parser.parse_args()
    kind, rules = args.type.upper(), [tuple(rule.rsplit("=", 1)) for rule in args.set]
    rules = [(pattern, new.upper()) for pattern, new in rules]
    for name in [kind, *(new for _, new in rules)]:
        if name not in TYPES and name not in MIXTURES:
            parser.error(f"no type {name}")
    shape = Shape(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Shape)})
    unpacked = all(name in UNPACKED for name in [kind, *(new for _, new in rules)])
    ggml = None if unpacked else Ggml(peer.llama_cpp_dir(args.llama_cpp))
    counts = make(args.out, shape, kind, args.seed, ggml, rules)
    if args.twin:
        make_twin(args.out, args.twin)
    print(args.out, os.path.getsize(args.out), "bytes:", ", ".join(f"{n} {name}" for name, n in sorted(counts.items())))


if __name__ == "__main__":
    main()
