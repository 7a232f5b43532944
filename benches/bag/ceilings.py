#!/usr/bin/env python3
"""What the maker's own libraries reach on this GPU, where python3 has PyTorch with CUDA: cuBLAS and a copy, as one JSON document.

  matmul 4096^3 in f32 with TF32 off, the measure for f32 kernels; with TF32; in f16 and bf16, the measure for matrix units
  a copy from memory to memory: bytes read and written

Each is the median of repetitions by the GPU's own events, after a warm-up; the results of products are compared with f64.
"""

import json
import statistics
import sys


def timed(torch, call, repetitions=20):
    """Seconds of a call, the median and the least."""
    for _ in range(3):
        call()
    times = []
    for _ in range(repetitions):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times), min(times)


def product(torch, n, kind, tf32):
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.manual_seed(1)
    a, b = (torch.randn(n, n, device="cuda", dtype=kind) for _ in range(2))
    out = torch.empty(n, n, device="cuda", dtype=kind)
    median, least = timed(torch, lambda: torch.matmul(a, b, out=out))
    truth = a[:8].double() @ b.double()
    error = ((out[:8].double() - truth).abs().max() / truth.abs().max()).item()
    return {"median_us": 1e6 * median, "tflops": 2e-12 * n ** 3 / median, "best_tflops": 2e-12 * n ** 3 / least, "worst_error": error}


def copy(torch, size):
    source, target = (torch.zeros(size, device="cuda", dtype=torch.uint8) for _ in range(2))
    median, least = timed(torch, lambda: target.copy_(source))
    return {"bytes": size, "median_us": 1e6 * median, "gb_per_s": 2e-9 * size / median, "best_gb_per_s": 2e-9 * size / least}


def main():
    try:
        import torch
    except ImportError as error:
        print(json.dumps({"skipped": f"no PyTorch: {error}"}))
        return
    if not torch.cuda.is_available():
        print(json.dumps({"skipped": f"PyTorch {torch.__version__} has no CUDA device"}))
        return
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 4096
    kinds = {"f32": (torch.float32, False), "tf32": (torch.float32, True), "f16": (torch.float16, False), "bf16": (torch.bfloat16, False)}
    print(json.dumps({
        "torch": torch.__version__, "cuda": torch.version.cuda, "device": torch.cuda.get_device_name(), "n": n,
        "copy": copy(torch, 1 << 30),
        "matmul": {name: product(torch, n, *kind) for name, kind in kinds.items()},
    }, indent=1))


if __name__ == "__main__":
    main()
