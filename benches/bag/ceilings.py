#!/usr/bin/env python3
"""What the maker's own libraries reach on this GPU, where python3 has PyTorch with CUDA: cuBLAS and a copy.

  ceilings.py [N]    products are of N^3 (4096), a copy of 64 N^2 bytes, both read and written

  f32        a product with TF32 off, the measure for f32 kernels
  tf32       the same numbers on matrix units
  f16, bf16  the measure for matrix units
  copy       from memory to memory

A line of JSON for each, as soon as it is measured: where it is cut, what was measured is there. A time is that of 20 calls between
two of the GPU's events, divided, and the median of such times after a warm-up, in which the clocks rise; the results of
products are compared with f64.
"""

import json
import statistics
import sys
import time

CALLS = 20
REPETITIONS = 7
WARM_UP = 0.3


def batch(torch, call):
    """Seconds of a call, of many without a gap."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(CALLS):
        call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / CALLS


def timed(torch, call):
    """Seconds of a call, the median and the least."""
    until = time.monotonic() + WARM_UP
    while time.monotonic() < until:
        batch(torch, call)
    times = [batch(torch, call) for _ in range(REPETITIONS)]
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


def say(line):
    print(json.dumps(line), flush=True)


def main():
    try:
        import torch
    except ImportError as error:
        say({"skipped": f"no PyTorch: {error}"})
        return
    if not torch.cuda.is_available():
        say({"skipped": f"PyTorch {torch.__version__} has no CUDA device"})
        return
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 4096
    say({"torch": torch.__version__, "cuda": torch.version.cuda, "device": torch.cuda.get_device_name(), "n": n})
    kinds = {
        "f32": lambda: product(torch, n, torch.float32, False),
        "f16": lambda: product(torch, n, torch.float16, False),
        "copy": lambda: copy(torch, 64 * n * n),
        "tf32": lambda: product(torch, n, torch.float32, True),
        "bf16": lambda: product(torch, n, torch.bfloat16, False),
    }
    for name, measure in kinds.items():
        try:
            say({"kind": name, **measure()})
        except RuntimeError as error:
            # One that this GPU cannot do is no reason to leave out the others.
            say({"kind": name, "error": str(error)})


if __name__ == "__main__":
    main()
