"""Small GGUF files and what the PyPI package `gguf` reads in them.

  python gguf_oracle.py            remakes tests/oracle/gguf
  python gguf_oracle.py --check    compares with the stored files instead

`metadata.gguf`: every type of metadata, alone and in arrays, at an alignment of 64, and three tensors.
`quants.gguf`: for each type NAME that is read a tensor `NAME` [8 rows, 512 columns] of its blocks, and a tensor `NAME.f32`
of what `gguf.quants.dequantize` makes of them. Rows 0..4 hold random blocks, rows 4..8 the edges: see `edges`.
`expected.json`: metadata and tensor table of both, as `gguf.GGUFReader` finds them; see `value` and `table`.

Needs `pip install gguf numpy`; the stored files come from gguf 0.19.0, numpy 2.4.6 (the `versions` field).
"""

import argparse
import importlib.metadata
import json
import os
import struct
import tempfile

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import GGUFValueType as V

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "gguf")
ROWS, COLUMNS = 8, 512
# Where in a block its f16 scales lie; the bytes of everything else may have any value.
SCALES = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0],
    T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
}


def random_blocks(rng, kind, count):
    """Blocks of random bytes, with scales of either sign between 2^-9 and 2^3."""
    size = gguf.GGML_QUANT_SIZES[kind][1]
    blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
    for at in SCALES[kind]:
        magnitude = np.exp2(rng.uniform(-9, 3, count)) * rng.choice([-1, 1], count)
        blocks[:, at:at + 2] = magnitude.astype("<f2").reshape(-1, 1).view(np.uint8)
    return blocks


def edges(rng, kind, count):
    """Blocks at the limits of the format, `count` of them: each scale among each filling, then once more."""
    scales = [0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x7BFF, 0xFBFF, 0x3C00, 0xBC00]
    blocks = random_blocks(rng, kind, count)
    for i, block in enumerate(blocks):
        filling = [0x00, 0xFF, 0x80, 0x7F, None][i % 5]
        if filling is not None:
            block[:] = filling
        for place, at in enumerate(SCALES[kind]):
            block[at:at + 2] = np.array([scales[(i + 4 * place) % len(scales)]], "<u2").view(np.uint8)
    blocks[0] = 0
    return blocks


def quantised(rng, kind):
    """[ROWS, bytes of a row] of blocks."""
    per_row = COLUMNS // gguf.GGML_QUANT_SIZES[kind][0]
    half = per_row * ROWS // 2
    blocks = np.concatenate([random_blocks(rng, kind, half), edges(rng, kind, half)])
    return blocks.reshape(ROWS, -1)


def halves(rng, kind):
    """[ROWS, COLUMNS] of finite 16-bit floats: any bits, zeros, subnormals and the largest among them."""
    words = rng.integers(0, 1 << 16, ROWS * COLUMNS, dtype=np.uint16)
    exponent = 0x7C00 if kind == T.F16 else 0x7F80
    words[(words & exponent) == exponent] ^= 0x4000
    words[:8] = [0x0000, 0x8000, 0x0001, 0x8001, exponent - 1, (exponent - 1) | 0x8000, 0x3C00, 0x3F80]
    return words.astype("<u2").reshape(ROWS, COLUMNS).view(np.uint8)


def write_quants(path):
    rng = np.random.default_rng(6)
    writer = gguf.GGUFWriter(path, "test")
    for kind in [*SCALES, T.F16, T.BF16]:
        raw = quantised(rng, kind) if kind in SCALES else halves(rng, kind)
        values = gguf.quants.dequantize(raw, kind)
        assert values.shape == (ROWS, COLUMNS) and np.isfinite(values).all(), kind
        writer.add_tensor(kind.name.lower(), raw, raw_dtype=kind)
        writer.add_tensor(f"{kind.name.lower()}.f32", values.astype("<f4"))
    finish(writer)


# Every type of metadata: its least and largest values, or the hardest to read.
SAMPLES = {
    V.UINT8: [0, 255], V.INT8: [-128, 127], V.UINT16: [0, 65535], V.INT16: [-32768, 32767],
    V.UINT32: [0, 2**32 - 1], V.INT32: [-2**31, 2**31 - 1], V.UINT64: [0, 2**64 - 1], V.INT64: [-2**63, 2**63 - 1],
    V.FLOAT32: [-0.0, 1e-45, 3.4028234663852886e38, float("inf"), float("nan")],
    V.FLOAT64: [-0.0, 5e-324, 1.7976931348623157e308, float("-inf")],
    V.BOOL: [True, False], V.STRING: ["", "grist", "Mühle 磨 🌾", "a\nb\"c\\", "x" * 300],
}


def write_metadata(path):
    rng = np.random.default_rng(7)
    writer = gguf.GGUFWriter(path, "test")
    writer.add_custom_alignment(64)
    for kind, values in SAMPLES.items():
        name = kind.name.lower()
        for i, item in enumerate(values):
            writer.add_key_value(f"test.{name}.{i}", item, kind)
        writer.add_key_value(f"test.{name}.array", values, V.ARRAY, kind)
    writer.add_key_value("test.long", list(range(1000)), V.ARRAY, V.INT32)
    writer.add_tensor("vector", rng.standard_normal(5, dtype=np.float32))
    writer.add_tensor("cube", rng.standard_normal((2, 3, 7), dtype=np.float32).astype(np.float16))
    writer.add_tensor("four", rng.integers(0, 256, (2, 1, 3, 34), dtype=np.uint8), raw_dtype=T.Q8_0)
    finish(writer)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def value(kind, item):
    """A value in JSON that loses nothing: floats are their bits in hexadecimal, 64-bit integers are decimal text."""
    if kind == V.FLOAT32:
        return struct.pack(">f", item).hex()
    if kind == V.FLOAT64:
        return struct.pack(">d", item).hex()
    if kind in (V.UINT64, V.INT64):
        return str(item)
    return item


def checksum(data):
    """FNV-1a, 64 bits, of bytes."""
    total = 0xCBF29CE484222325
    for byte in data:
        total = (total ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{total:016x}"


def table(path):
    """Metadata and tensors of a file. A shape is outermost first; an offset counts from the file's first byte."""
    reader = gguf.GGUFReader(path)
    metadata = {}
    for key, field in reader.fields.items():
        if key.startswith("GGUF."):
            continue
        kinds = [kind.name for kind in field.types]
        found = field.contents()
        if field.types[0] == V.ARRAY:
            metadata[key] = {"type": kinds, "value": [value(field.types[-1], item) for item in found]}
        else:
            metadata[key] = {"type": kinds, "value": value(field.types[0], found)}
    tensors = [
        {
            "name": tensor.name, "type": tensor.tensor_type.name, "shape": [int(n) for n in reversed(tensor.shape)],
            "offset": int(tensor.data_offset), "bytes": int(tensor.n_bytes), "fnv1a": checksum(tensor.data.tobytes()),
        }
        for tensor in reader.tensors
    ]
    return {"alignment": int(reader.alignment), "metadata": metadata, "tensors": tensors}


def make(folder):
    os.makedirs(folder, exist_ok=True)
    write_quants(os.path.join(folder, "quants.gguf"))
    write_metadata(os.path.join(folder, "metadata.gguf"))
    expected = {name: table(os.path.join(folder, f"{name}.gguf")) for name in ["quants", "metadata"]}
    expected["versions"] = {name: importlib.metadata.version(name) for name in ["gguf", "numpy"]}
    with open(os.path.join(folder, "expected.json"), "w", encoding="utf-8") as file:
        json.dump(expected, file, indent=1, sort_keys=True)
        file.write("\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the stored files")
    if not parser.parse_args().check:
        make(HERE)
        return
    with tempfile.TemporaryDirectory() as folder:
        make(folder)
        for name in sorted(os.listdir(folder)):
            with open(os.path.join(folder, name), "rb") as new, open(os.path.join(HERE, name), "rb") as old:
                print(f"{name}: {'equal' if new.read() == old.read() else 'DIFFERENT'}")


if __name__ == "__main__":
    main()
