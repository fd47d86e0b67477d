"""Ranks with limits: how far up and how far down a table the data let a row stand.

After Mogstad, Romano, Shaikh & Wilhelm (Inference for ranks, Review of Economic Studies 2024): test every pair of rows,
paired over tasks, so that all the verdicts hold together; a row's best rank is one more than the rows that are shown to
be better, its worst the number of rows less those that are shown to be worse. All true ranks lie within their limits
together, with probability 1 − α. So the row of a group with the best value may be picked after the fact, too.

What is derived here, since a table of agents has few clusters of tasks and many exact 0s and 1s: as everywhere in
this folder one cluster more, which nobody saw, speaks against each claim with the worst that it can hold, so a
difference that never varied is not certain (of two rows and tasks of their own, winning 5 of 5 is no claim and 6 of 6
is one, as in the sign test); the critical value comes from a multiplier bootstrap of the greatest of all studentised
differences, and is read off Student's distribution at the same level, which few clusters need.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri, stdtrit

from testbed.stats.bootstrap import check_replicates, label_codes
from testbed.stats.checks import BoolArray, FloatArray, IntArray, StatsError, finite, level

_MOST_AT_A_TIME = 4_000_000  # differences held at a time, in numbers (16 MiB)


@dataclass(frozen=True, eq=False)
class Ranks:
    """The ranks that the data allow to P rows; 1 is the best, and equal rows share the better rank.

    Attributes:
        low: best ranks, shape (P,).
        high: worst ranks, shape (P,).
        better: whether row j is shown to be better than row k, shape (P, P).
        critical: studentised difference from which a pair is told apart.
        clusters: number of clusters of tasks.
    """

    low: IntArray
    high: IntArray
    better: BoolArray
    critical: float
    clusters: int

    def among(self, rows: Sequence[int]) -> tuple[IntArray, IntArray]:
        """Best and worst ranks among some of the rows only, chosen in whatever way; the limits hold as before."""
        chosen = np.asarray(rows, dtype=np.int64)
        better = self.better[np.ix_(chosen, chosen)]
        return 1 + better.sum(axis=0), chosen.size - better.sum(axis=1)


def rank_intervals(
    least: ArrayLike,
    most: ArrayLike | None = None,
    *,
    span: float = 1.0,
    clusters: Sequence[Hashable] | None = None,
    alpha: float = 0.05,
    replicates: int = 1000,
    seed: int = 0,
) -> Ranks:
    """Limits of the ranks of rows by their mean over tasks, all valid together at level 1 − alpha.

    Args:
        least: a figure of each row at each task, shape (P, T), higher being better; where it is not known, the least
            that it can be.
        most: the most that it can be, likewise; `least` where left out. A claim holds whatever the unknown ones are.
        span: greatest less least value that a figure can have.
        clusters: cluster label of each task, length T; every task its own cluster where left out.
        alpha: level.
        replicates: of the bootstrap, at least 100.
        seed: its seed.

    Raises:
        StatsError: no row or task, figures that are not finite, a range that is empty or wider than `span`.
    """
    low, high = _checked(least, most, span)
    level(alpha)
    check_replicates(replicates)
    code = label_codes(clusters, low.shape[1])
    size = np.bincount(code).astype(np.float64)
    bottom, top = _by_cluster(code, low), _by_cluster(code, high)
    rows = low.shape[0]
    if size.size < 2 or rows < 2:  # one cluster says nothing of how clusters differ
        return _ranks(np.zeros((rows, rows), dtype=np.bool_), np.inf, size.size)
    critical = _critical((bottom + top) / 2, size, span, alpha, replicates, seed)
    better = np.zeros((rows, rows), dtype=np.bool_)
    for some in _blocks(rows, rows):
        better[some] = _studentised(bottom, top, size, span, some) >= critical
    return _ranks(better, critical, size.size)


def _ranks(better: BoolArray, critical: float, clusters: int) -> Ranks:
    return Ranks(1 + better.sum(axis=0), better.shape[0] - better.sum(axis=1), better, critical, clusters)


def _checked(least: ArrayLike, most: ArrayLike | None, span: float) -> tuple[FloatArray, FloatArray]:
    low = finite(least, "figures")
    high = low if most is None else finite(most, "figures")
    if low.ndim != 2 or low.shape != high.shape:
        raise StatsError(f"figures must be one row of tasks per row, not of shapes {low.shape} and {high.shape}")
    if (high < low).any():
        raise StatsError("a figure's most is less than its least")
    if high.max() - low.min() > span * (1 + 1e-9):
        raise StatsError(f"the figures differ by {high.max() - low.min():g}, more than the span {span:g}")
    return low, high


def _by_cluster(code: IntArray, table: FloatArray) -> FloatArray:
    """Sums over the tasks of a cluster, shape (P, clusters)."""
    sums = np.zeros((int(code.max()) + 1, table.shape[0]))
    np.add.at(sums, code, table.T)
    return np.ascontiguousarray(sums.T)


def _unseen(size: FloatArray) -> float:
    """Size of the cluster that nobody saw: of one that a randomly drawn task lives in."""
    return float((size**2).sum() / size.sum())


def _blocks(rows: int, width: int) -> Iterator[slice]:
    """Some rows at a time of a table `width` wide, so that no more numbers are held than need be."""
    step = max(1, _MOST_AT_A_TIME // width)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def _studentised(bottom: FloatArray, top: FloatArray, size: FloatArray, span: float, some: slice) -> FloatArray:
    """How far row j lies above row k in standard errors, the unseen cluster speaking against it, for some j and all k.

    Shape (rows in `some`, P).
    """
    numbers = np.arange(bottom.shape[0])[some]
    bottom = bottom[some]
    unseen, tasks = _unseen(size), size.sum()
    whole = tasks + unseen
    mean = (bottom.sum(axis=1)[:, None] - top.sum(axis=1)[None, :] - span * unseen) / whole
    squares = (bottom**2).sum(axis=1)[:, None] + (top**2).sum(axis=1)[None, :] - 2 * bottom @ top.T
    cross = (bottom @ size)[:, None] - (top @ size)[None, :]
    # Sum over clusters of (difference − mean × size)², the unseen one included.
    spread = squares - 2 * mean * cross + mean**2 * (size @ size) + (unseen * (span + mean)) ** 2
    error = np.sqrt(np.maximum(spread, 0.0) * (size.size + 1) / size.size) / whole
    with np.errstate(divide="ignore", invalid="ignore"):
        found: FloatArray = np.where(error > 0, mean / error, -np.inf)
    found[np.arange(numbers.size), numbers] = -np.inf  # no row is better than itself
    return found


def _critical(sums: FloatArray, size: FloatArray, span: float, alpha: float, replicates: int, seed: int) -> float:
    """The studentised difference that no pair of equal rows exceeds, with probability 1 − alpha."""
    rows, unseen, one_pair = sums.shape[0], _unseen(size), float(-ndtri(alpha / 2))
    rng = np.random.default_rng([seed, 29])
    off = sums - (sums.sum(axis=1) / size.sum())[:, None] * size
    own = unseen * span / 2  # the unseen cluster of a row is its own, so that rows that never vary are pairs, too
    noise = off @ rng.standard_normal((size.size, replicates)) + own * rng.standard_normal((rows, replicates))
    variance = (off**2).sum(axis=1)
    greatest = np.zeros(replicates, dtype=np.float32)
    noise = noise.astype(np.float32)
    block = max(1, _MOST_AT_A_TIME // replicates)
    for row in range(rows - 1):
        spread = variance[row] + variance[row:] - 2 * off[row:] @ off[row] + 2 * own**2
        scale = (1 / np.sqrt(np.maximum(spread, 2 * own**2))).astype(np.float32)
        for start in range(row + 1, rows, block):
            others = slice(start, min(start + block, rows))
            apart = noise[others] - noise[row]
            np.abs(apart, out=apart)
            apart *= scale[others.start - row : others.stop - row, None]
            np.maximum(greatest, apart.max(axis=0), out=greatest)
    # One pair needs no simulation, and more never need less.
    normal = max(float(np.quantile(greatest, 1 - alpha, method="higher")), one_pair) if rows > 2 else one_pair
    freedom = float(size.sum() ** 2 / (size**2).sum())  # as many clusters of equal size tell as much
    return float(-stdtrit(freedom, ndtr(-normal)))
