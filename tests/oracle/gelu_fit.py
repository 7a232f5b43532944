"""The exact GELU in shaders/gelu.wgsl, gelu_wide.wgsl and each epilogue: its fit, and how far it is from the truth.

    pip install numpy scipy
    python3 tests/oracle/gelu_fit.py

x Phi(x) = max(x, 0) - a Phi(-a) for a = |x|. With b = a sqrt(log2(e) / 2), a Phi(-a) = b N(b) / D(b) 2^(-b^2): N / D, of degrees
3 and 4, is Mills' ratio but for factors. It is fitted to be even (Lawson's weights, on a denominator that is repeatedly put in:
Sanathanan, Koerner 1963) in its share of what src/verify/bounds.rs allows, 24 + 8 a^2/2 u.
gelu_wide.wgsl has a power of two of its own, 2^f = 1 + f R(f) for f = 0 .. 1.
Coefficients are rounded to f32; errors are of arithmetic in f32.
"""

import numpy as np
from scipy.special import erfcx, log_ndtr

END = 13.4
SCALE = np.float32(np.sqrt(np.log2(np.e) / 2))
U = np.cos((np.arange(6000) + 0.5) / 6000 * np.pi)  # -1 .. 1


def even(basis, target, weights):
    """Coefficients for the columns of `basis`, and their errors."""
    root = np.sqrt(weights)
    size = np.abs(basis * root[:, None]).max(axis=0)
    coefficients = np.linalg.lstsq(basis * root[:, None] / size, target * root, rcond=None)[0] / size
    return coefficients, np.abs(basis @ coefficients - target)


def polynomial(coefficients, x):
    """From the constant on, in the precision of `x`."""
    result = np.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        result = x.dtype.type(coefficient) + x * result
    return result


def fit_ratio():
    last = 1 / (1 + 0.3 * END)
    a = (2 / ((1 + last) + (1 - last) * U) - 1) / 0.3  # 0 .. END, dense at 0
    b, share = np.float64(SCALE) * a, 1 + a * a / 6
    # Phi(-a) e^(a^2/2), but that SCALE is rounded: what 2^(-b^2) lacks is in the fit.
    truth = a / b * erfcx(a / np.sqrt(2)) / 2 * np.exp2(b * b - a * a / 2 * np.log2(np.e))
    powers = np.stack([b**i for i in range(5)], axis=1)
    weights, below, best = np.ones_like(b), (1 + b) ** 4, (np.inf, None)
    for _ in range(1500):
        basis = np.concatenate([powers[:, :4] / truth[:, None], -powers[:, :4]], axis=1) / (below * share)[:, None]
        found, _ = even(basis, powers[:, 4] / (below * share), weights)
        above, below = powers[:, :4] @ found[:4], powers[:, :4] @ found[4:] + powers[:, 4]
        errors = np.abs(above / below / truth - 1) / share
        best = min(best, (errors.max(), tuple(found)))
        weights *= np.sqrt(errors / errors.max()) + 1e-4
        weights /= weights.sum()
    found = np.array(best[1]).astype(np.float32)
    return best[0], found[:4], np.append(found[4:], np.float32(1))


def fit_r():
    f = (1 + U) / 2
    power, weights, best = 2**f, np.ones_like(f), (np.inf, None)
    for _ in range(200):
        found, errors = even(np.stack([f**i / power for i in range(1, 6)], axis=1), (power - 1) / power, weights)
        best = min(best, (errors.max(), tuple(found)))
        weights *= errors / errors.max() + 1e-3
        weights /= weights.sum()
    return best[0], np.array(best[1]).astype(np.float32)


(of_ratio, n, d), (of_r, r) = fit_ratio(), fit_r()
print(f"scale {SCALE!s}; N, from its constant on: {' '.join(map(str, n))}; D: {' '.join(map(str, d))}")
print(f"relative error of Phi {of_ratio * 2**24:.1f} (1 + a^2/6) u")
print(f"R, from its constant on: {' '.join(map(str, r))}; relative error of 2^f {of_r:.2e}")
a = np.linspace(1e-6, 13.1, 1_000_001).astype(np.float32)
b = SCALE * a
square = b * b
f = np.ceil(square) - square
by_r = polynomial(np.append(np.float32(1), r), f).astype(np.float64) * 2.0 ** -np.ceil(square)
truth = a.astype(np.float64) * np.exp(log_ndtr(-a.astype(np.float64)))
allowed = 24 + 4 * a.astype(np.float64) ** 2
for name, power in [("but for exp2", np.exp2(-square.astype(np.float64))), ("with R", by_r)]:
    units = np.abs(b * polynomial(n, b) / polynomial(d, b) * power / truth - 1) * 2**24
    print(f"in f32 {name}: {units[a < 1].max():.1f} u below 1; at most {(units / allowed).max():.2f} of (24 + 8 a^2/2) u")
