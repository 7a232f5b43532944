"""Makes (or, with --check, remakes and compares) what gguf-py says stored numbers are.

  python quants_oracle.py [--check]

For each format, in quants/: NAME.blocks.bin, 8 rows of 512 numbers as a GGUF file has them, and NAME.f32.bin, the same
numbers as f32, little-endian, from gguf.quants.dequantize. The blocks are random bytes with scales that are finite; the
first rows have blocks at the edges: no scale at all, the smallest and the largest subnormal f16, the smallest normal one,
1, the largest, each of both signs, with quants that are all zero bits, all one bits, and random ones.

Needs `pip install gguf numpy`; the stored values come from gguf 0.19.0, numpy 2.4.6.
"""

import os
import sys

import numpy as np
from gguf import GGMLQuantizationType, quants

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "quants")
ROWS, COLUMNS = 8, 512

# name: (type, numbers of a block, bytes of a block, offsets of its f16)
FORMATS = {
    "f16": (GGMLQuantizationType.F16, 1, 2, [0]),
    "bf16": (GGMLQuantizationType.BF16, 1, 2, []),
    "q8_0": (GGMLQuantizationType.Q8_0, 32, 34, [0]),
    "q4_0": (GGMLQuantizationType.Q4_0, 32, 18, [0]),
    "q4_1": (GGMLQuantizationType.Q4_1, 32, 20, [0, 2]),
    "q5_0": (GGMLQuantizationType.Q5_0, 32, 22, [0]),
    "q5_1": (GGMLQuantizationType.Q5_1, 32, 24, [0, 2]),
    "q4_k": (GGMLQuantizationType.Q4_K, 256, 144, [0, 2]),
    "q5_k": (GGMLQuantizationType.Q5_K, 256, 176, [0, 2]),
    "q6_k": (GGMLQuantizationType.Q6_K, 256, 210, [208]),
}
# +-0, subnormal, normal and large f16, as bits.
EDGES = [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x83FF, 0x0400, 0x8400, 0x3C00, 0xBC00, 0x7BFF, 0xFBFF]


def blocks_of(name):
    kind, numbers, size, halves = FORMATS[name]
    count = ROWS * COLUMNS // numbers
    random = np.random.default_rng(sum(name.encode()))
    blocks = random.integers(0, 256, (count, size), dtype=np.uint8)
    # Two thirds of the first blocks: all bits of the quants zero, or one.
    edges = min(count * 3 // 4, 3 * len(EDGES) ** len(halves))
    blocks[: edges // 3] = 0
    blocks[edges // 3 : 2 * (edges // 3)] = 255
    for at in halves:
        # Magnitudes from 2^-20 to 2^4, so that about one in five is subnormal.
        values = np.exp2(random.uniform(-20, 4, count)) * random.choice([-1, 1], count)
        bits = values.astype(np.float16).view(np.uint16)
        bits[:edges] = [EDGES[(i + i // len(EDGES) * (at + 1)) % len(EDGES)] for i in range(edges)]
        blocks[:, at : at + 2] = bits.astype("<u2").view(np.uint8).reshape(count, 2)
    if name == "bf16":
        bits = blocks.view("<u2")
        # Every finite number, subnormal ones too.
        bits[(bits & 0x7F80) == 0x7F80] &= 0x807F
    return blocks


def main(check):
    os.makedirs(HERE, exist_ok=True)
    for name, (kind, numbers, size, _) in FORMATS.items():
        blocks = blocks_of(name)
        values = quants.dequantize(blocks.reshape(ROWS, -1), kind).astype("<f4")
        assert values.shape == (ROWS, COLUMNS) and np.isfinite(values).all(), name
        for suffix, data in [("blocks", blocks.tobytes()), ("f32", values.tobytes())]:
            path = os.path.join(HERE, f"{name}.{suffix}.bin")
            if check:
                with open(path, "rb") as file:
                    assert file.read() == data, f"{path} differs"
            else:
                with open(path, "wb") as file:
                    file.write(data)
        print(f"{name}: {len(blocks)} blocks, {int((values == 0).sum())} zeros, largest {np.abs(values).max():.4g}")


if __name__ == "__main__":
    main("--check" in sys.argv[1:])
