"""A confidence sequence for a mean difference of paired tasks that may be looked at after every task.

Waudby-Smith & Ramdas (2024, "Estimating means of bounded random variables by betting"): for each candidate mean m one
gambler bets that the mean is higher and one that it is lower. If m is the mean, neither can expect to gain, and half a
unit with each is a non-negative martingale: it ever reaches 1/α with probability at most α (Ville). The candidates
against which it never did are the confidence sequence. The bets are their predictable plug-in.

Derived here: clusters of unequal size. With cluster j's sum s_j over m_j tasks and the greatest size M (known from the
suite, before any outcome), the stakes are on (s_j − m·m_j)/M, whose mean is 0 at m = E s/E m, the mean over tasks; for
one size it is the published form. Assumed: the clusters come in an order that has nothing to do with their outcomes, so
that each has the same mean given those before it. `order` shuffles them by a seed; else they are taken as they come.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from testbed.stats.bootstrap import label_codes
from testbed.stats.checks import NOWHERE, FloatArray, IntArray, StatsError, Where, numbers, probability, whole_numbers

# A bet never risks more than this share of what the gambler has.
_STAKE = 0.5
# Candidates × looks held at a time: 32 MiB.
_CELLS_AT_A_TIME = 4_000_000


@dataclass(frozen=True, eq=False)
class MeanSequence:
    """The mean difference after each of J looks, one per cluster, with limits that hold at all looks together.

    Attributes:
        tasks: Tasks seen at each look, shape (J,).
        value: Their mean difference, shape (J,).
        low: Lower limits, shape (J,), in [−1, 1], never falling.
        high: Upper limits, never rising.
        alpha: The true mean difference ever lies outside with probability at most alpha.
        clusters: J.
        contradicted: First look (counted from 1) at which no candidate was left; None where one always was. It happens
            with probability at most alpha unless the mean drifted along the order. The limits then stay at the last
            ones that left a candidate.
    """

    tasks: IntArray
    value: FloatArray
    low: FloatArray
    high: FloatArray
    alpha: float
    clusters: int
    contradicted: int | None


def paired_mean_sequence(
    differences: ArrayLike,
    *,
    clusters: Sequence[Hashable] | None = None,
    order: int | None = None,
    alpha: float = 0.05,
    candidates: int = 2001,
    where: Where = NOWHERE,
) -> MeanSequence:
    """Return the hedged betting confidence sequence for the mean over tasks of a paired difference.

    Args:
        differences: One per task, tool minus bare, in [−1, 1], such as the difference of the shares solved; shape (T,).
        clusters: Cluster label of each task; a cluster counts as one look. Every task its own where left
            out.
        order: Seed of the random order in which clusters are taken; the order given (by a cluster's first task) where
            left out, which must then have been fixed without regard to outcomes.
        alpha: Chance that the limits ever exclude the true mean.
        candidates: Size of the grid of candidate means on [−1, 1]; limits are rounded outwards to it.
        where: Names for error messages.

    Returns:
        `MeanSequence`. Exchanging the arms mirrors it. Time and (in blocks) memory are O(T · candidates).

    Raises:
        StatsError: No task, NaN, a difference outside [−1, 1], labels that do not match, fewer than 3 candidates.
    """
    probability(alpha, "alpha", open_ends=True)
    if (whole_numbers(candidates, "candidate means") < 3).any():
        raise StatsError(f"{candidates} candidate means are no grid; take at least 3 (2001 gives steps of .001)")
    total, size = _clusters(_checked(differences, where), clusters)
    if order is not None:
        shuffled = np.random.default_rng([order, 5]).permutation(total.size)
        total, size = total[shuffled], size[shuffled]
    most = float(size.max())
    # From [−1, 1] to [0, 1]; both gamblers in the tool arm's view, and in the bare arm's, which swaps them.
    won, weight = (total + size) / 2 / most, size / most
    stakes = _stakes(won, weight, alpha)
    below = _excluded(won, weight, stakes, candidates, alpha)
    above = _excluded(weight - won, weight, stakes, candidates, alpha)
    step = 2 / (candidates - 1)
    low, high, contradicted = _kept(step * below.astype(np.float64) - 1, 1 - step * above.astype(np.float64))
    seen = np.cumsum(size)
    return MeanSequence(
        tasks=seen.astype(np.int64),
        value=np.cumsum(total) / seen,
        low=low,
        high=high,
        alpha=alpha,
        clusters=total.size,
        contradicted=contradicted,
    )


def _checked(differences: ArrayLike, where: Where) -> FloatArray:
    values = np.atleast_1d(numbers(differences, "differences", where))
    if values.ndim != 1 or values.size == 0:
        raise StatsError(f"{where()}differences must be one number per task, not of shape {values.shape}")
    bad = np.flatnonzero(~(np.abs(values) <= 1))
    if bad.size:
        raise StatsError(f"{where(int(bad[0]))}a paired difference must lie in [−1, 1], not {values[bad[0]]}")
    return values


def _clusters(values: FloatArray, clusters: Sequence[Hashable] | None) -> tuple[FloatArray, FloatArray]:
    """Return each cluster's sum and size, in the order of their first tasks."""
    if clusters is None:
        return values, np.ones(values.size, dtype=np.float64)
    code = label_codes(clusters, values.size)
    sizes = np.bincount(code).astype(np.float64)
    return np.bincount(code, weights=values).astype(np.float64), sizes


def _stakes(won: FloatArray, weight: FloatArray, alpha: float) -> FloatArray:
    """Return the predictable plug-in bets: those before cluster j use clusters before it only."""
    look = np.arange(1, won.size + 1)
    mean = (0.5 + np.cumsum(won)) / (1 + np.cumsum(weight))
    spread = (0.25 + np.cumsum((won - mean * weight) ** 2)) / (look + 1)
    before = np.concatenate([[0.25], spread[:-1]])
    return np.asarray(np.sqrt(2 * np.log(2 / alpha) / (before * look * np.log1p(look))), dtype=np.float64)


def _excluded(won: FloatArray, weight: FloatArray, stakes: FloatArray, candidates: int, alpha: float) -> IntArray:
    """Return the position of the greatest candidate that the gambler on "higher" has excluded by each look; 0 if none.

    His capital falls as the candidate rises, so all candidates up to that one are excluded.
    """
    grid = np.linspace(0.0, 1.0, candidates)
    with np.errstate(divide="ignore"):
        limit = _STAKE / grid
    goal, log_capital = np.log(2 / alpha), np.zeros(candidates)
    found = np.empty(won.size, dtype=np.int64)
    block = max(1, _CELLS_AT_A_TIME // candidates)
    for start in range(0, won.size, block):
        part = slice(start, start + block)
        bet = np.minimum(stakes[part, None], limit)
        growth = np.log1p(bet * (won[part, None] - weight[part, None] * grid))
        path = log_capital + np.cumsum(growth, axis=0)
        found[part] = (path >= goal).sum(axis=1) - 1
        log_capital = path[-1]
    return np.maximum(np.maximum.accumulate(found), 0)


def _kept(low: FloatArray, high: FloatArray) -> tuple[FloatArray, FloatArray, int | None]:
    empty = np.flatnonzero(low > high)
    if not empty.size:
        return low, high, None
    first = int(empty[0])
    low[first:], high[first:] = (low[first - 1], high[first - 1]) if first else (-1.0, 1.0)
    return low, high, first + 1
