"""Intervals for means and ratios over tasks: a paired Bayesian bootstrap of clusters, with an end point.

Each replicate gives the clusters Dirichlet(1, …, 1) weights (Rubin 1981), the same ones in every column and both
arms, and one weight more to a cluster nobody saw, at the least possible value for the lower limit and at the greatest
for the upper. For bounded values this is the bound of Gaffke (2005; Learned-Miller & Thomas 2019, arXiv 1905.06208):
it equals Clopper–Pearson for 0/1 data, never shrinks to a point, and has kept its level in every simulation, also at
three clusters. Intervals are computed without drawing (`testbed.stats.exact_limits`); replicates are drawn for what is
no quantile of one mean or ratio. Why no second stage resamples the attempts: docs/measurement.md.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property

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
from testbed.stats.exact_limits import lower_ends
from testbed.stats.intervals import Intervals, Replicates

# Weights held at a time, in numbers (32 MiB): bounds the memory at any number of clusters and replicates.
_WEIGHTS_AT_A_TIME = 4_000_000
# Weights that `shared_weights` keeps, in numbers (256 MiB): 2,000 replicates of 16,000 clusters.
_WEIGHTS_KEPT = 32_000_000

WeightBlock = tuple[slice, FloatArray, FloatArray]


@dataclass(frozen=True, eq=False)
class ClusterMeans:
    """Q means or ratios over clusters. Their intervals are computed, not drawn; replicates are drawn once asked for.

    Attributes:
        value: Point estimates, shape (Q,); NaN where a ratio's denominator is 0.
        top: Sums of the J clusters, shape (J, Q).
        bottom: Their denominators, shape (J, Q) or (J, 1).
        unseen: Denominator of the cluster that nobody saw, shape (Q,) or (1,).
        least: Its ratio for the lower limits, shape (Q,).
        greatest: Its ratio for the upper limits, shape (Q,).
        replicates: Number R of replicates, for what is no quantile of one figure: bands, a function of several.
        seed: Seed of their weights.
    """

    value: FloatArray
    top: FloatArray
    bottom: FloatArray
    unseen: FloatArray
    least: FloatArray
    greatest: FloatArray
    replicates: int
    seed: int

    @property
    def clusters(self) -> int:
        """Number of clusters resampled."""
        return len(self.top)

    @property
    def low(self) -> FloatArray | None:
        """Replicates with the unseen cluster at its least, shape (R, Q); None with fewer than two clusters."""
        return self.drawn.low

    @property
    def high(self) -> FloatArray | None:
        """The same at its greatest."""
        return self.drawn.high

    @cached_property
    def drawn(self) -> Replicates:
        """Replicates, the same for the same seed."""
        if self.clusters < 2:
            return Replicates(self.value, None, None, self.clusters)
        low, high = (np.empty((self.replicates, self.value.size)) for _ in range(2))
        for rows, seen, extra in cluster_weights(self.clusters, self.replicates, self.seed):
            upper, lower = seen @ self.top, seen @ self.bottom
            with np.errstate(invalid="ignore", divide="ignore"):
                size = extra[:, None] * self.unseen
                low[rows] = (upper + size * self.least) / (lower + size)
                high[rows] = (upper + size * self.greatest) / (lower + size)
        return Replicates(self.value, low, high, self.clusters)

    def intervals(self, alpha: float = 0.05) -> Intervals:
        """Return the intervals at level 1 − alpha: the quantiles that endless replicates would have."""
        level(alpha)
        if self.clusters < 2:
            return Intervals(self.value, None, None, alpha, self.clusters)
        known = np.flatnonzero(~np.isnan(self.value))
        value, top = self.value[known], self.top[:, known]
        bottom = np.broadcast_to(self.bottom, self.top.shape)[:, known]
        unseen = np.broadcast_to(self.unseen, self.value.shape)[known]
        low, high = (np.full(self.value.shape, np.nan) for _ in range(2))
        # An upper limit is the lower one of the mirrored figures; both ends of all columns are found in one go.
        ends = lower_ends(
            np.hstack([top, -top]),
            np.hstack([bottom, bottom]),
            np.concatenate([unseen, unseen]),
            np.concatenate([self.least[known], -self.greatest[known]]),
            np.concatenate([value, -value]),
            alpha / 2,
        )
        low[known], high[known] = ends[: known.size], -ends[known.size :]
        return Intervals(self.value, low, high, alpha, self.clusters)


def cluster_bootstrap(
    values: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    least: ArrayLike = 0.0,
    greatest: ArrayLike = 1.0,
    largest: float | None = None,
    clusters: Sequence[Hashable] | None = None,
    replicates: int = 2000,
    seed: int = 0,
) -> ClusterMeans:
    """Resample clusters of tasks: Q means, or Q ratios Σ values / Σ weights, with intervals and replicates.

    Args:
        values: One row per task, shape (T, Q). Columns share their cluster weights, so differences of columns are
            paired; put both arms' figures in one call.
        weights: Denominators, shape (T, Q) or (T, 1), ≥ 0; all 1 (plain means) where left out.
        least: The least that a cluster's ratio can be, per column.
        greatest: The greatest that it can be, per column.
        largest: The greatest denominator that a task can have, which the unseen cluster's tasks then have. Left out, it
            is as large as the cluster that a randomly drawn unit of the denominator lives in: too small where tasks of
            large denominators are rare and unlike the others.
        clusters: Cluster label of each task, length T; every task its own cluster where left out.
        replicates: Number R ≥ 100 of replicates to draw where they are asked for. Intervals do not depend on it.
        seed: Seed of their weights; nor on this.

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
    if largest is not None and (share > largest + 1e-9).any():
        raise StatsError(f"a denominator of {share.max():g} is greater than the largest that there can be, {largest:g}")
    check_replicates(replicates)
    code = label_codes(clusters, table.shape[0])
    top, bottom = _sums(code, table), _sums(code, share)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = top.sum(axis=0) / bottom.sum(axis=0)
        # The unseen cluster is as big as one that a randomly drawn unit lives in: never smaller than a typical one.
        size = bottom if largest is None else np.bincount(code).astype(np.float64)[:, None]
        unseen = (size**2).sum(axis=0) / size.sum(axis=0) * (1.0 if largest is None else largest)
    return ClusterMeans(value, top, bottom, unseen, ends[0], ends[1], replicates, seed)


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
