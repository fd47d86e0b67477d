"""Reach on the axis of attempts: the unbiased reach@k of Chen et al. (2021, arXiv 2107.03374)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaln, gammaln

from testbed.stats.checks import NOWHERE, FloatArray, IntArray, StatsError, Where, counts, together, whole_numbers

# Up to here the product over min(c, k) factors is evaluated; past it Stirling's series, whose relative error at
# n = 1e6 is then below 1e-11.
_PRODUCT_LIMIT = 64


def reach_at_k(n: ArrayLike, c: ArrayLike, k: ArrayLike, *, where: Where = NOWHERE) -> FloatArray:
    """Return the unbiased estimate 1 − C(n−c, k)/C(n, k) of the chance that one of k attempts succeeds.

    Args:
        n: Attempts, whole numbers; broadcasts with the others.
        c: Successes among them, ≤ n.
        k: Attempts afforded, 1 ≤ k ≤ n.
        where: Names for error messages.

    Returns:
        Reach in [0, 1], in the broadcast shape. Relative error below 1e-10 up to n = 1e6.

    Raises:
        StatsError: k > n (nothing unbiased exists there), k < 1, c > n, or values that are not whole numbers.
    """
    attempts, successes = counts(n, c, where)
    afforded = whole_numbers(k, "k")
    if (afforded < 1).any():
        raise StatsError("k must be at least 1")
    by_task = attempts.ndim > 0
    attempts, successes, afforded = together(attempts=attempts, successes=successes, k=afforded)
    short = np.argwhere(afforded > attempts)
    if len(short):
        place = tuple(short[0])
        have = int(attempts[place])
        raise StatsError(
            f"{where(int(place[0]) if by_task else None)}reach@k is estimable for k ≤ n only: k = "
            f"{int(afforded[place])} asked for, {have} attempts there; sample more or ask for k ≤ {have}"
        )
    result = np.ones(attempts.shape)
    open_case = attempts - successes >= afforded
    result[open_case] = -np.expm1(_log_miss(attempts[open_case], successes[open_case], afforded[open_case]))
    return result


def first_success_cdf(n: int, c: int) -> FloatArray:
    """Return P(at most i failures precede the first success) for i = 0…n−c in a random ordering of n attempts."""
    failures = np.arange(n - c + 1)
    return np.asarray(1 - np.cumprod((n - c - failures) / (n - failures)), dtype=np.float64)


def posterior_reach(n: ArrayLike, c: ArrayLike, k: ArrayLike) -> FloatArray:
    """Return the mean of 1 − (1−p)^k under the posterior of a Jeffreys prior, Beta(½+c, ½+n−c).

    Biased, but defined for every k > 0, whole or not: used to choose between regimes, never to report.
    """
    attempts, successes, afforded = (np.asarray(v, dtype=np.float64) for v in (n, c, k))
    a, b = 0.5 + successes, 0.5 + attempts - successes
    return np.asarray(-np.expm1(betaln(a, b + afforded) - betaln(a, b)), dtype=np.float64)


def _log_miss(n: IntArray, c: IntArray, k: IntArray) -> FloatArray:
    """Return ln C(n−c, k)/C(n, k) for n − c ≥ k."""
    few, many = np.minimum(c, k), np.maximum(c, k)
    result = np.zeros(n.shape)
    product = few <= _PRODUCT_LIMIT
    for i in range(int(few[product].max(initial=0))):
        live = product & (i < few)
        result[live] += np.log1p(-many[live] / (n[live] - i))
    far = ~product
    if far.any():
        total = n[far]
        parts = ((total - c[far], 1), (total - k[far], 1), (total - c[far] - k[far], -1), (total, -1))
        result[far] = sum(sign * _log_factorial_over(x, total) for x, sign in parts)
    return result


def _log_factorial_over(x: IntArray, n: IntArray) -> FloatArray:
    """Return ln x! − x ln n + x − ½ ln(2πn), kept small so that four of them cancel without loss (Stirling)."""
    real = x.astype(np.float64)
    inverse = 1 / np.maximum(real, 1)
    series = inverse / 12 - inverse**3 / 360 + inverse**5 / 1260 - inverse**7 / 1680
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(2 * real < n, np.log(real / n), np.log1p((real - n) / n))
        near = (real + 0.5) * ratio + series
        small = gammaln(real + 1) - real * np.log(n) + real - 0.5 * np.log(2 * np.pi * n)
    return np.where(real < 16, small, near)
