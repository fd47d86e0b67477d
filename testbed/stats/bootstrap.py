"""Intervals for means and ratios over tasks: a paired Bayesian bootstrap of clusters, with an end point.

Each replicate gives the clusters Dirichlet(1, …, 1) weights (Rubin 1981), the same ones in every column and both
arms, and one weight more to a cluster nobody saw, at the least possible value for the lower limit and at the greatest
for the upper. For bounded values this is the bound of Gaffke (2005; Learned-Miller & Thomas 2019, arXiv 1905.06208):
it equals Clopper–Pearson for 0/1 data, never shrinks to a point, and has kept its level in every simulation, also at
three clusters. Why no second stage resamples the attempts: docs/measurement.md.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from testbed.stats.checks import (
    NOWHERE,
    FloatArray,
    IntArray,
    StatsError,
    Where,
    finite,
    level,
    numbers,
    together,
    whole_numbers,
)

# Weights held at a time, in numbers (32 MiB): bounds the memory at any number of clusters and replicates.
_WEIGHTS_AT_A_TIME = 4_000_000
# Weights that `shared_weights` keeps, in numbers (256 MiB): 2,000 replicates of 16,000 clusters.
_WEIGHTS_KEPT = 32_000_000

WeightBlock = tuple[slice, FloatArray, FloatArray]


@dataclass(frozen=True)
class Estimate:
    """One figure with its interval.

    Attributes:
        value: The point estimate; None where it is not defined (a ratio with denominator 0).
        low: Lower end of the interval; None with fewer than two clusters.
        high: Upper end; None with fewer than two clusters.
    """

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, eq=False)
class Intervals:
    """Q figures with pointwise intervals.

    Attributes:
        value: Point estimates, shape (Q,); NaN where a ratio's denominator is 0.
        low: Lower ends, shape (Q,), or None with fewer than two clusters: no interval, never a width of 0.
        high: Upper ends, shape (Q,), or None.
        alpha: Each interval has level 1 − alpha, alpha/2 on each side.
        clusters: Number of clusters resampled.
    """

    value: FloatArray
    low: FloatArray | None
    high: FloatArray | None
    alpha: float
    clusters: int

    def __getitem__(self, index: int) -> Estimate:
        """Return figure number ``index`` as an `Estimate`."""
        value = float(self.value[index])
        if np.isnan(value):
            return Estimate(None, None, None)
        if self.low is None or self.high is None:
            return Estimate(value, None, None)
        return Estimate(value, float(self.low[index]), float(self.high[index]))


@dataclass(frozen=True, eq=False)
class Replicates:
    """Bootstrap replicates of Q figures, or a function of them that rises with each.

    Attributes:
        value: Point estimates, shape (Q,).
        low: Replicates with the unseen cluster at its least, shape (R, Q); None with fewer than two clusters.
        high: The same at its greatest.
        clusters: Number of clusters resampled.
    """

    value: FloatArray
    low: FloatArray | None
    high: FloatArray | None
    clusters: int

    def intervals(self, alpha: float = 0.05) -> Intervals:
        """Return the intervals at level 1 − alpha."""
        level(alpha)
        if self.low is None or self.high is None:
            return Intervals(self.value, None, None, alpha, self.clusters)
        low, high = np.quantile(self.low, alpha / 2, axis=0), np.quantile(self.high, 1 - alpha / 2, axis=0)
        return Intervals(self.value, np.minimum(low, self.value), np.maximum(high, self.value), alpha, self.clusters)


def cluster_bootstrap(
    values: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    least: ArrayLike = 0.0,
    greatest: ArrayLike = 1.0,
    clusters: Sequence[Hashable] | None = None,
    replicates: int = 2000,
    seed: int = 0,
) -> Replicates:
    """Resample clusters of tasks and return replicates of Q means, or of Q ratios Σ values / Σ weights.

    Args:
        values: One row per task, shape (T, Q). Columns share their cluster weights, so differences of columns are
            paired; put both arms' figures in one call.
        weights: Denominators, shape (T, Q) or (T, 1), ≥ 0; all 1 (plain means) where left out.
        least: The least that a cluster's ratio can be, per column.
        greatest: The greatest that it can be, per column.
        clusters: Cluster label of each task, length T; every task its own cluster where left out.
        replicates: Number R ≥ 100.
        seed: Seed of the weights.

    Raises:
        StatsError: No task, NaN, a value outside its range, labels that do not match, R < 100.
    """
    table, share = _table(values, weights)
    ends = together(least=finite(least, "least"), greatest=finite(greatest, "greatest"), column=table[0])[:2]
    if ends[0].shape != table.shape[1:]:
        raise StatsError(f"least and greatest must be one number, or one per column: {table.shape[1]}")
    slack = 1e-9 * np.maximum(1.0, np.abs(ends[1]) + np.abs(ends[0]))
    if (table < ends[0] * share - slack).any() or (table > ends[1] * share + slack).any():
        raise StatsError("a value lies outside the range [least, greatest] given for its column")
    check_replicates(replicates)
    code = label_codes(clusters, table.shape[0])
    top, bottom = _sums(code, table), _sums(code, share)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = top.sum(axis=0) / bottom.sum(axis=0)
        # The unseen cluster is as big as one that a randomly drawn unit lives in: never smaller than a typical one.
        unseen = (bottom**2).sum(axis=0) / bottom.sum(axis=0)
    if top.shape[0] < 2:
        return Replicates(value, None, None, top.shape[0])
    low, high = (np.empty((replicates, table.shape[1])) for _ in range(2))
    for rows, seen, extra in cluster_weights(top.shape[0], replicates, seed):
        upper, lower = seen @ top, seen @ bottom
        with np.errstate(invalid="ignore", divide="ignore"):
            size = extra[:, None] * unseen
            low[rows] = (upper + size * ends[0]) / (lower + size)
            high[rows] = (upper + size * ends[1]) / (lower + size)
    return Replicates(value, low, high, top.shape[0])


def _table(values: ArrayLike, weights: ArrayLike | None) -> tuple[FloatArray, FloatArray]:
    table = numbers(values, "tasks' figures")
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2:
        raise StatsError(f"figures must be one row per task, not of shape {table.shape}")
    share = np.ones((table.shape[0], 1)) if weights is None else numbers(weights, "weights")
    share = share[:, None] if share.ndim == 1 else share
    if share.shape not in (table.shape, (table.shape[0], 1)):
        raise StatsError(f"weights of shape {share.shape} do not fit values of shape {table.shape}")
    if not (np.isfinite(table).all() and np.isfinite(share).all()):
        raise StatsError(f"task number {int(np.argwhere(~np.isfinite(table + share))[0][0])}: a figure is not finite")
    if (share < 0).any():
        raise StatsError("weights must not be negative")
    return table, share


def cluster_labels(
    tasks: Sequence[str], clusters: Mapping[str, Hashable] | None, where: Where = NOWHERE
) -> list[Hashable]:
    """Return the cluster label of each task; its own name where no clusters are given.

    Args:
        tasks: Task names.
        clusters: Task → cluster label.
        where: Names for error messages.

    Raises:
        StatsError: A task has no label.
    """
    if clusters is None:
        return list(tasks)
    unknown = [task for task in tasks if task not in clusters]
    if unknown:
        raise StatsError(f"{where()}task {unknown[0]!r} has no cluster label")
    return [clusters[task] for task in tasks]


def label_codes(labels: Sequence[Hashable] | None, tasks: int) -> IntArray:
    """Return the number of each task's label, counted from 0 in the order in which they first occur."""
    if labels is None:
        return np.arange(tasks)
    if len(labels) != tasks:
        raise StatsError(f"{len(labels)} cluster labels for {tasks} tasks")
    index: dict[Hashable, int] = {}
    return np.array([index.setdefault(label, len(index)) for label in labels], dtype=np.int64)


def cluster_codes(tasks: Sequence[str], clusters: Mapping[str, Hashable] | None, where: Where = NOWHERE) -> IntArray:
    """Return the number of each task's cluster, as `label_codes`; arguments and errors as `cluster_labels`."""
    return label_codes(cluster_labels(tasks, clusters, where), len(tasks))


def check_replicates(replicates: int) -> None:
    """Refuse fewer than 100 bootstrap replicates."""
    if (whole_numbers(replicates, "replicates") < 100).any():
        raise StatsError(f"{replicates} bootstrap replicates cannot give an interval; take at least 100")


def _sums(code: IntArray, table: FloatArray) -> FloatArray:
    size = int(code.max()) + 1
    return np.stack([np.bincount(code, weights=column, minlength=size) for column in table.T], axis=1)


@dataclass(eq=False)
class _Kept:
    """Weights that were drawn, so that every table of a report need not draw the same ones again."""

    blocks: dict[tuple[int, int, int], list[WeightBlock]] = field(default_factory=dict)
    numbers: int = 0

    def keep(self, key: tuple[int, int, int], drawn: list[WeightBlock]) -> None:
        size = sum(seen.size + unseen.size for _, seen, unseen in drawn)
        if self.numbers + size > _WEIGHTS_KEPT:
            self.blocks.clear()
            self.numbers = 0
        self.blocks[key] = drawn
        self.numbers += size


_kept: ContextVar[_Kept | None] = ContextVar("weights kept", default=None)


@contextmanager
def shared_weights() -> Iterator[None]:
    """Keeps the bootstrap's weights until the end: equal numbers of clusters, replicates and seed have the same ones.

    Nothing changes but the time: a report calls `cluster_bootstrap` a hundred times, and most of it is drawing weights.
    """
    token = _kept.set(_Kept())
    try:
        yield
    finally:
        _kept.reset(token)


def cluster_weights(clusters: int, replicates: int, seed: int) -> Iterator[WeightBlock]:
    """Yield blocks of replicates: their rows, the seen clusters' weights and the unseen one's (not normalised)."""
    kept, key = _kept.get(), (clusters, replicates, seed)
    if kept is None or (clusters + 1) * replicates > _WEIGHTS_KEPT:
        yield from _draw(clusters, replicates, seed)
        return
    if key not in kept.blocks:
        kept.keep(key, list(_draw(clusters, replicates, seed)))
    yield from kept.blocks[key]


def _draw(clusters: int, replicates: int, seed: int) -> Iterator[WeightBlock]:
    rng = np.random.default_rng([seed, 3])
    block = max(1, _WEIGHTS_AT_A_TIME // (clusters + 1))
    for start in range(0, replicates, block):
        rows = slice(start, min(start + block, replicates))
        weights = rng.standard_exponential((rows.stop - rows.start, clusters + 1))
        yield rows, weights[:, :-1], weights[:, -1]
