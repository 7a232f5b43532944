"""The polynomials of the exact GELU in shaders/gelu.wgsl and shaders/gelu_wide.wgsl, and how far they are from the truth.

    pip install numpy scipy
    python3 tests/oracle/gelu_fit.py

x Phi(x) = max(x, 0) - a Phi(-a) for a = |x|. Phi(-a) = t 2^(P(t) - a^2 log2(e) / 2) for t = 1 / (1 + 0.33 a): that is the
form of erfc in Numerical Recipes 6.2, to base 2, and with another fit. Beyond 13.25 the product is below the normal range.
gelu_wide.wgsl has a power of two of its own, 2^f = 1 + f R(f) for f = 0 .. 1.
Both are fitted to be even in their errors (Lawson's weights), then rounded to f32; errors are of arithmetic in f32.
"""

import numpy as np
from scipy.special import log_ndtr

DEGREE, SLOPE, END = 7, 0.33, 13.25
HALF_LOG2E = np.log2(np.e) / 2
U = np.cos((np.arange(4000) + 0.5) / 4000 * np.pi)  # -1 .. 1


def even(basis, target, rounds=200):
    """Coefficients for the columns of `basis` whose largest error is the least, and that error."""
    weights, best = np.ones(len(target)), (np.inf, None)
    for _ in range(rounds):
        root = np.sqrt(weights)
        coefficients = np.linalg.lstsq(basis * root[:, None], target * root, rcond=None)[0]
        errors = np.abs(basis @ coefficients - target)
        best = min(best, (errors.max(), tuple(coefficients)))
        weights *= errors / errors.max() + 1e-3
        weights /= weights.sum()
    return best


def exponent(a):
    """What P is to be: log2(Phi(-a) / t) + a^2 log2(e) / 2."""
    return log_ndtr(-a) / np.log(2) + np.log2(1 + SLOPE * a) + HALF_LOG2E * a * a


def fit_p():
    last = 1 / (1 + SLOPE * END)
    t = (1 + last) / 2 + (1 - last) / 2 * U  # last .. 1
    worst, found = even(np.polynomial.chebyshev.chebvander(U, DEGREE), exponent((1 / t - 1) / SLOPE))
    series = np.polynomial.chebyshev.Chebyshev(found, domain=[last, 1])
    return worst * np.log(2), series.convert(kind=np.polynomial.Polynomial).coef.astype(np.float32)


def fit_r():
    f = (1 + U) / 2
    power = 2**f
    worst, found = even(np.stack([f**i / power for i in range(1, 6)], axis=1), (power - 1) / power)
    return worst, np.array(found).astype(np.float32)


def horner(coefficients, x):
    result = np.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        result = coefficient + x * result
    return result


def by_r(y):
    f = y - np.floor(y)
    return (np.float32(1) + f * horner(r, f)).astype(np.float64) * 2 ** np.floor(y).astype(np.float64)


(of_p, p), (of_r, r) = fit_p(), fit_r()
print(f"P, from its constant on: {' '.join(map(str, p))}; relative error of Phi {of_p:.2e}")
print(f"R, from its constant on: {' '.join(map(str, r))}; relative error of 2^f {of_r:.2e}")
one, slope, half = (np.float32(v) for v in (1, SLOPE, HALF_LOG2E))
a = np.linspace(0, 13.1, 1_000_001).astype(np.float32)
t = one / (one + slope * a)
y = horner(p, t) - half * a * a
square = a.astype(np.float64) ** 2 / 2
for name, power in [("but for exp2", np.exp2(y.astype(np.float64))), ("with R", by_r(y))]:
    units = np.abs(t * power / np.exp(log_ndtr(-a.astype(np.float64))) - 1) * 2**24
    near, worst = units[a < 1].max(), (units / (24 + 8 * square)).max()
    print(f"in f32 {name}: {near:.1f} u below 1; at most {worst:.2f} of (24 + 8 a^2/2) u")
