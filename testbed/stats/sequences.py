"""Statements about one success probability that stay valid however often one looks, and whenever one stops.

The Beta(½, ½)-mixture confidence sequence (Robbins 1970; Ville's inequality) keeps p as long as
ln B(½+c, ½+n−c) − ln B(½, ½) − c ln p − (n−c) ln(1−p) < ln(1/α). With probability at least 1 − α it never excludes
the true p, over all looks together. `clopper_pearson` is here for comparison only: it holds at one look fixed
in advance and is wrong far more often than α when it is peeked at.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincinv, betaln, xlog1py, xlogy

from testbed.stats.checks import (
    NOWHERE,
    BoolArray,
    FloatArray,
    IntArray,
    StatsError,
    Where,
    counts,
    level,
    positive,
    probability,
    together,
)
from testbed.stats.kinds import kinds

_HALF = betaln(0.5, 0.5)
_BISECTIONS = 80
# More attempts than this are reported as "never" (inf): the observed rate sits on the threshold.
_NEVER = 1e9


@dataclass(frozen=True, eq=False)
class AttemptsNeeded:
    """Further attempts until accessibility is settled; 0 where it is settled already, inf where never.

    Attributes:
        if_all_fail: The next attempts all fail (the least number that can settle *out*).
        if_all_succeed: They all succeed (the least number that can settle *in*).
        at_this_rate: They go on at the rate seen so far, smoothed to (c + ½)/(n + 1): a projection, not a bound.
    """

    if_all_fail: FloatArray
    if_all_succeed: FloatArray
    at_this_rate: FloatArray

    def times(self, attempts: FloatArray) -> AttemptsNeeded:
        """Return the same where each trial takes several attempts."""
        return AttemptsNeeded(self.if_all_fail * attempts, self.if_all_succeed * attempts, self.at_this_rate * attempts)


def p_star(rho: float, k: ArrayLike) -> FloatArray:
    """Return 1 − (1 − ρ)^(1/K): the success probability at which K independent attempts reach ρ.

    Args:
        rho: Reach that counts as accessible, 0 < ρ < 1.
        k: Affordable attempts K > 0, whole or not.
    """
    share, afforded = together(rho=probability(rho, "rho", open_ends=True), k=positive(k, "affordable attempts K"))
    threshold = -np.expm1(np.log1p(-share) / afforded)
    # Far below one attempt it would round to 1, which no failure contradicts.
    return np.asarray(np.minimum(threshold, np.nextafter(1.0, 0.0)), dtype=np.float64)


def failures_needed(epsilon: ArrayLike, alpha: float = 0.05) -> IntArray:
    """Return ⌈ln α / ln(1−ε)⌉: straight failures that certify p < ε at level α (29 for ε = .1, α = .05).

    Valid when sampling stops at the first success or at this number of failures, whichever comes first: a policy with
    p ≥ ε survives that many with probability at most α.
    """
    limit = probability(epsilon, "epsilon", open_ends=True)
    level(alpha)
    # Equality (ε = .5, α = .25) must not be rounded up to one failure more.
    return np.asarray(np.ceil(np.log(alpha) / np.log1p(-limit) - 1e-12), dtype=np.int64)


def log_martingale(n: ArrayLike, c: ArrayLike, p: ArrayLike) -> FloatArray:
    """Return ln M(p), the Beta(½, ½) mixture's likelihood ratio against p.

    Under p, M is a non-negative martingale of mean 1, so M ≥ 1/α ever happens with probability at most α.

    Args:
        n: Attempts.
        c: Successes.
        p: Probability tested, in [0, 1]; all broadcast. inf where p makes the data impossible.
    """
    attempts, successes = counts(n, c)
    attempts, successes, tested = together(attempts=attempts, successes=successes, p=probability(p, "p"))
    return _log_martingale(attempts, successes, tested)


def confidence_sequence(
    n: ArrayLike, c: ArrayLike, alpha: float = 0.05, *, where: Where = NOWHERE
) -> tuple[FloatArray, FloatArray]:
    """Return the Beta(½, ½)-mixture confidence set [low, high] for p at level 1 − α, anytime-valid.

    Args:
        n: Attempts so far (0 gives [0, 1]).
        c: Successes so far; broadcasts with n.
        alpha: Chance of ever excluding the true p, 0 < α < 1.
        where: Names for error messages.

    Returns:
        Both ends, in the broadcast shape, to a relative precision of about 1e-12.
    """
    attempts, successes = counts(n, c, where)
    limit = -np.log(level(alpha))
    return _lower_end(attempts, successes, limit), 1 - _lower_end(attempts, attempts - successes, limit)


def clopper_pearson(n: ArrayLike, c: ArrayLike, alpha: float = 0.05) -> tuple[FloatArray, FloatArray]:
    """Return the exact two-sided interval (level 1 − α, α/2 on each side) for one look, fixed in advance.

    For comparison only. Looked at after each of 1,000 attempts at p = .05 it excludes the truth 30% of the time.
    """
    attempts, successes = counts(n, c)
    level(alpha)
    failures = attempts - successes
    low = np.where(successes == 0, 0.0, betaincinv(np.maximum(successes, 1), failures + 1, alpha / 2))
    high = np.where(failures == 0, 1.0, betaincinv(successes + 1, np.maximum(failures, 1), 1 - alpha / 2))
    return low, high


def log_e_below(n: ArrayLike, c: ArrayLike, threshold: ArrayLike) -> FloatArray:
    """Return the log e-value against "p ≥ threshold": the evidence that p lies below it.

    The least of M(p) over p ≥ threshold, which is at max(threshold, c/n): at every stopping time its mean is ≤ 1
    under each such p.
    """
    attempts, successes, limit = _against(n, c, threshold)
    return _log_martingale(attempts, successes, np.maximum(limit, _rate(attempts, successes)))


def log_e_above(n: ArrayLike, c: ArrayLike, threshold: ArrayLike) -> FloatArray:
    """Return the log e-value against "p ≤ threshold": the evidence that p lies above it."""
    attempts, successes, limit = _against(n, c, threshold)
    return _log_martingale(attempts, successes, np.minimum(limit, _rate(attempts, successes)))


def attempts_still_needed(
    n: ArrayLike, c: ArrayLike, p_out: ArrayLike, p_in: ArrayLike | None = None, alpha: float = 0.05
) -> AttemptsNeeded:
    """Return how many further attempts would settle whether p < ``p_out`` or p ≥ ``p_in``.

    Args:
        n: Attempts so far.
        c: Successes so far.
        p_out: Threshold below which the task is out, in (0, 1).
        p_in: Threshold from which it is in; ``p_out`` where left out.
        alpha: Level of the confidence sequence.

    Raises:
        StatsError: c > n, a threshold or level outside (0, 1), ``p_out`` > ``p_in``, shapes that do not fit.
    """
    attempts, successes = counts(n, c)
    limit = -np.log(level(alpha))
    low = probability(p_out, "p_out", open_ends=True)
    high = low if p_in is None else probability(p_in, "p_in", open_ends=True)
    attempts, successes, low, high = together(attempts=attempts, successes=successes, p_out=low, p_in=high)
    if (low > high).any():
        raise StatsError(f"p_out = {low[low > high].ravel()[0]} must not exceed p_in = {high[low > high].ravel()[0]}")
    if attempts.size > 1:
        # Many tasks have the same counts: each kind is projected once.
        n, c, out, into = (column.ravel() for column in (attempts, successes, low, high))
        first, kind = kinds(n, c, out, into)
        if first.size < attempts.size:
            few = attempts_still_needed(n[first], c[first], out[first], into[first], alpha)
            place = kind.reshape(attempts.shape)
            return AttemptsNeeded(few.if_all_fail[place], few.if_all_succeed[place], few.at_this_rate[place])
    settled = (log_e_below(attempts, successes, low) >= limit) | (log_e_above(attempts, successes, high) >= limit)
    rate = (successes + 0.5) / (attempts + 1)
    moves = (rate < low) | (rate > high)
    thresholds = np.stack([low, high, np.where(rate < low, low, high)])
    rates = np.stack([np.zeros(rate.shape), np.ones(rate.shape), rate])
    failing, succeeding, projected = _first_crossing(attempts, successes, thresholds, rates, limit)
    return AttemptsNeeded(
        if_all_fail=np.where(settled, 0.0, failing),
        if_all_succeed=np.where(settled, 0.0, succeeding),
        at_this_rate=np.where(settled, 0.0, np.where(moves, projected, np.inf)),
    )


def _against(n: ArrayLike, c: ArrayLike, threshold: ArrayLike) -> tuple[IntArray, IntArray, FloatArray]:
    attempts, successes = counts(n, c)
    attempts, successes, limit = together(
        attempts=attempts, successes=successes, threshold=probability(threshold, "threshold")
    )
    return attempts, successes, limit


def _rate(n: IntArray, c: IntArray) -> FloatArray:
    return c / np.maximum(n, 1)


def _log_martingale(n: ArrayLike, c: ArrayLike, p: FloatArray) -> FloatArray:
    successes = np.asarray(c, dtype=np.float64)
    failures = np.asarray(n, dtype=np.float64) - successes
    with np.errstate(divide="ignore"):
        likelihood = xlogy(successes, p) + xlog1py(failures, -p)
    return np.asarray(betaln(0.5 + successes, 0.5 + failures) - _HALF - likelihood, dtype=np.float64)


def _lower_end(n: IntArray, c: IntArray, limit: float) -> FloatArray:
    """Solve ln M(p) = limit for p < c/n by bisection on ln p; 0 where c = 0."""
    if (c == 0).all():
        return np.zeros(c.shape)
    successes, failures = np.maximum(c, 1).astype(np.float64), (n - c).astype(np.float64)
    constant = betaln(0.5 + successes, 0.5 + failures) - _HALF
    # ln M ≥ limit at the left end because (1−p)^(n−c) ≤ 1, and ln M ≤ 0 at the right end, the observed rate.
    left = (constant - limit) / successes
    right = np.log(successes / np.maximum(n, 1))
    for _ in range(_BISECTIONS):
        middle = (left + right) / 2
        excluded = constant - successes * middle - xlog1py(failures, -np.exp(middle)) >= limit
        left, right = np.where(excluded, middle, left), np.where(excluded, right, middle)
    return np.where(c == 0, 0.0, np.exp((left + right) / 2))


def _first_crossing(n: IntArray, c: IntArray, threshold: FloatArray, rate: FloatArray, limit: float) -> FloatArray:
    """Return the least whole m at which ln M(threshold) ≥ limit after m further attempts at ``rate``.

    ln M is convex along a straight path of counts and below the limit at m = 0, so it crosses once.
    """

    def crossed(m: FloatArray) -> BoolArray:
        return np.asarray(_log_martingale(n + m, c + rate * m, threshold) >= limit)

    left, right = np.zeros(rate.shape), np.ones(rate.shape)
    while True:
        ever = crossed(right)
        short = ~ever & (right < _NEVER)
        if not short.any():
            break
        left, right = np.where(short, right, left), np.where(short, 2 * right, right)
    furthest = np.where(ever, right, 1.0).max(initial=1.0)  # a power of 2
    for _ in range(int(np.log2(furthest)) + 1):
        middle = np.floor((left + right) / 2)
        done = crossed(middle)
        left, right = np.where(done, left, middle), np.where(done, middle, right)
    return np.where(ever & (right < _NEVER), right, np.inf)
