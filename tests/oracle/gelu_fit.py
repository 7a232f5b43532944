"""The polynomial of the exact GELU in shaders/gelu.wgsl, and how far it is from the truth.

    pip install numpy scipy
    python3 tests/oracle/gelu_fit.py

x Phi(x) = max(x, 0) - a Phi(-a) for a = |x|. Phi(-a) = t 2^(P(t) - a^2 log2(e) / 2) for t = 1 / (1 + 0.33 a): that is the
form of erfc in Numerical Recipes 6.2, to base 2, and with another fit. Beyond 13.25 the product is below the normal range.
P is fitted to be even in its error (Lawson's weights), then rounded to f32; errors are of arithmetic in f32.
"""

import numpy as np
from scipy.special import log_ndtr

DEGREE, SLOPE, END = 7, 0.33, 13.25
HALF_LOG2E = np.log2(np.e) / 2


def exponent(a):
    """What P is to be: log2(Phi(-a) / t) + a^2 log2(e) / 2."""
    return log_ndtr(-a) / np.log(2) + np.log2(1 + SLOPE * a) + HALF_LOG2E * a * a


def fit(points=4000, rounds=200):
    last = 1 / (1 + SLOPE * END)
    u = np.cos((np.arange(points) + 0.5) / points * np.pi)  # -1 .. 1 for t = last .. 1
    t = (1 + last) / 2 + (1 - last) / 2 * u
    target, basis = exponent((1 / t - 1) / SLOPE), np.polynomial.chebyshev.chebvander(u, DEGREE)
    weights, best = np.ones(points), (np.inf, None)
    for _ in range(rounds):
        root = np.sqrt(weights)
        coefficients = np.linalg.lstsq(basis * root[:, None], target * root, rcond=None)[0]
        errors = np.abs(basis @ coefficients - target)
        best = min(best, (errors.max(), tuple(coefficients)))
        weights *= errors / errors.max() + 1e-3
        weights /= weights.sum()
    series = np.polynomial.chebyshev.Chebyshev(best[1], domain=[last, 1])
    return best[0], series.convert(kind=np.polynomial.Polynomial).coef.astype(np.float32)


worst, p = fit()
print("P, from its constant on:", *p)
print(f"error of the exponent {worst:.2e}, so of Phi {worst * np.log(2):.2e} relative")
one, slope, half = (np.float32(v) for v in (1, SLOPE, HALF_LOG2E))
a = np.linspace(0, 13.1, 1_000_001).astype(np.float32)
t = one / (one + slope * a)
sum_ = np.full_like(t, p[-1])
for coefficient in p[-2::-1]:
    sum_ = coefficient + t * sum_
tail = t * np.exp2((sum_ - half * a * a).astype(np.float64))
square = a.astype(np.float64) ** 2 / 2
units = np.abs(tail / np.exp(log_ndtr(-a.astype(np.float64))) - 1) * 2**24
print(f"in f32 but for exp2: {units[a < 1].max():.1f} u below 1; at most {(units / (24 + 8 * square)).max():.2f} of (24 + 8 a^2/2) u")
