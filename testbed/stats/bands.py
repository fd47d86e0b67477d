"""Simultaneous bands for reach curves: with probability 1 − α every arm's whole curve lies inside its band.

The replicates are those of the cluster bootstrap (Dirichlet weights, an unseen cluster at the end of the range), with
the same weights for every arm and spend. The band takes the same order statistic j at every point, and j is the largest
for which at most α of the replicated sets of curves leave the band anywhere (the balanced percentile region of Beran
1988 and Mandel & Betensky 2008). Each replicate is held against the band made of the others, which removes the optimism
of judging a region by the replicates that drew it. With one point it is the pointwise interval.

Attempts are not resampled in a second stage, for the reason that docs/measurement.md gives: the spread of the unbiased
per-task reaches over clusters holds the noise within tasks already, and a curve of resampled attempts is centred on
the plug-in, which is biased.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from testbed.stats.bootstrap import cluster_bootstrap, cluster_labels
from testbed.stats.checks import FloatArray, IntArray, StatsError, positive, probability
from testbed.stats.intervals import Drawn
from testbed.stats.outcomes import ArmOutcomes
from testbed.stats.spend import ReachCurve, reach_curve
from testbed.stats.spend_many import MANY, reach_curve_of_many

# Fewer replicates than this below a limit leave the limit to chance; then more are drawn, up to the second figure.
_BELOW = 5
_MOST_REPLICATES = 32_000
# Replicates that agree in so many decimals are the same: rounding must not rank them.
_DECIMALS = 12


@dataclass(frozen=True, eq=False)
class Band:
    """Q figures, such as the points of a curve, with limits that hold together.

    Attributes:
        value: Estimates, shape (Q,).
        low: Lower limits, shape (Q,); None with fewer than two clusters: no band, never a width of 0.
        high: Upper limits, or None.
        alpha: All limits of all bands made in one call hold together with probability 1 − alpha.
        each: The level at which each point by itself is held for that, ≤ alpha.
        clusters: Number of clusters resampled.
    """

    value: FloatArray
    low: FloatArray | None
    high: FloatArray | None
    alpha: float
    each: float
    clusters: int


def simultaneous_band(found: Drawn, alpha: float = 0.05) -> Band:
    """Return limits for all columns of ``found`` that hold together with probability 1 − alpha.

    Columns that rise from left to right get limits that do. NaN columns are not allowed.

    Raises:
        StatsError: A column without a value, or too few replicates for even their extremes to hold together.
    """
    probability(alpha, "alpha", open_ends=True)
    if not np.isfinite(found.value).all():
        raise StatsError(f"figure number {int(np.argmin(np.isfinite(found.value)))} has no value to put a band around")
    if found.low is None or found.high is None:
        return Band(found.value, None, None, alpha, alpha, found.clusters)
    return _at_place(found, alpha, _common_place(found, alpha))


def _at_place(found: Drawn, alpha: float, place: int) -> Band:
    """Return the band of the ``place``-th extremes of every column."""
    assert found.low is not None
    assert found.high is not None
    replicates = found.low.shape[0]
    if place < 1:
        raise StatsError(
            f"{replicates} bootstrap replicates are too few for a band of {found.value.size} points at level "
            f"{1 - alpha:g}; take more"
        )
    low = np.partition(found.low, place - 1, axis=0)[place - 1]
    high = np.partition(found.high, replicates - place, axis=0)[replicates - place]
    return Band(
        found.value,
        np.minimum(low, found.value),
        np.maximum(high, found.value),
        alpha,
        min(alpha, 2 * place / replicates),
        found.clusters,
    )


def reach_bands(
    arms: Sequence[ArmOutcomes],
    spends: Sequence[ArrayLike],
    *,
    axis: str = "attempts",
    clusters: Mapping[str, Hashable] | None = None,
    alpha: float = 0.05,
    replicates: int = 2000,
    seed: int = 0,
) -> tuple[Band, ...]:
    """Return the mean reach over tasks of each arm at its spends, with one band for all arms and spends together.

    Args:
        arms: The arms of one figure. They may have different tasks; tasks and clusters of one name share their weights.
        spends: The spends of each arm, rising: attempts (whole, ≤ its least n) or spends on the cost ``axis``. The part
            of the figure's shared grid that the arm's attempts pay for.
        axis: "attempts", or a cost axis of every arm.
        clusters: Task → cluster label; every task its own cluster where left out.
        alpha: Chance that any curve leaves its band anywhere.
        replicates: Least number of bootstrap replicates; more are drawn where so few do not settle the limits.
        seed: Seed of the weights and of the orderings on a cost axis.

    Returns:
        One `Band` per arm, limits in [0, 1] that rise with the spend. An arm with one cluster of tasks has none, and
        does not count among those that hold together.

    Raises:
        StatsError: As `reach_curve`; a task without cluster label; as many lists of spends as arms are needed.
    """
    if len(arms) != len(spends) or not arms:
        raise StatsError(f"{len(arms)} arms but {len(spends)} lists of spends: give one list per arm")
    probability(alpha, "alpha", open_ends=True)
    for arm, grid in zip(arms, spends, strict=True):
        if (np.diff(np.atleast_1d(positive(grid, "spends"))) <= 0).any():
            raise StatsError(f"{arm.where()}spends must rise from one to the next")
    curves = [_curve(arm, grid, axis, seed) for arm, grid in zip(arms, spends, strict=True)]
    labels = [cluster_labels(arm.tasks, clusters, arm.where) for arm in arms]
    several = [i for i, own in enumerate(labels) if len(set(own)) > 1]
    alone = {i: curves[i].lower.mean(axis=0) for i in range(len(arms)) if i not in several}
    bands = {i: Band(value, None, None, alpha, alpha, 1) for i, value in alone.items()}
    if several:
        table, share, union = _side_by_side(
            [arms[i] for i in several], [curves[i].lower for i in several], [labels[i] for i in several]
        )
        joint = _enough_replicates(table, share, union, alpha, replicates, seed)
        ends = np.cumsum([0, *(curves[i].spends.size for i in several)])
        for place, i in enumerate(several):
            columns = slice(int(ends[place]), int(ends[place + 1]))
            bands[i] = _columns(joint, columns, len(set(labels[i])))
    return tuple(bands[i] for i in range(len(arms)))


def _curve(arm: ArmOutcomes, spends: ArrayLike, axis: str, seed: int) -> ReachCurve:
    if axis != "attempts" and len(arm.tasks) >= MANY:
        return reach_curve_of_many(arm, spends, axis=axis, seed=seed)
    return reach_curve(arm, spends, axis=axis, seed=seed)


def _common_place(found: Drawn, alpha: float) -> int:
    """Return the largest j such that at most alpha of the replicates leave the band of the others' j-th extremes."""
    assert found.low is not None
    assert found.high is not None
    replicates = found.low.shape[0]
    inmost = np.full(replicates, replicates)
    # Places beyond this one cannot be the answer, and ranking all replicates would take most of the time.
    furthest = int(alpha * replicates) + 1
    for table in (found.low, -found.high):
        columns = np.round(np.ascontiguousarray(table.T), _DECIMALS)
        for column, last in zip(columns, np.partition(columns, furthest - 1, axis=1)[:, furthest - 1], strict=True):
            near, place = _places(column, last)
            inmost[near] = np.minimum(inmost[near], place)
    # Replicate r lies outside the others' j-th extremes exactly where its innermost place is at most j.
    # Never inside the pointwise interval, which spends alpha/2 on a side even where only the other one can be left.
    return min(int(np.sort(inmost)[int(alpha * replicates)]) - 1, int(alpha / 2 * replicates))


def _places(column: FloatArray, last: float) -> tuple[IntArray, IntArray]:
    """Return which replicates lie at or below ``last``, and their places; equal ones share the highest place."""
    near = np.flatnonzero(column <= last)
    return near, np.searchsorted(np.sort(column[near]), column[near], side="right")


def _enough_replicates(
    table: FloatArray, share: FloatArray | None, union: Sequence[Hashable], alpha: float, replicates: int, seed: int
) -> Band:
    while True:
        found = cluster_bootstrap(table, share, clusters=union, replicates=replicates, seed=seed)
        place = _common_place(found, alpha)
        if replicates >= _MOST_REPLICATES or place >= _BELOW:
            return _at_place(found, alpha, place)
        replicates = min(2 * replicates, _MOST_REPLICATES)


def _side_by_side(
    arms: Sequence[ArmOutcomes], reach: Sequence[FloatArray], labels: Sequence[list[Hashable]]
) -> tuple[FloatArray, FloatArray | None, list[Hashable]]:
    """Put the arms' curves side by side: a row per task of any arm, weight 0 where an arm lacks the task."""
    if all(arm.tasks == arms[0].tasks for arm in arms):
        return np.hstack(reach), None, labels[0]
    label = {
        task: own for arm, mine in zip(arms, labels, strict=True) for task, own in zip(arm.tasks, mine, strict=True)
    }
    row = {task: i for i, task in enumerate(label)}
    ends = np.cumsum([0, *(values.shape[1] for values in reach)])
    table, share = np.zeros((len(row), int(ends[-1]))), np.zeros((len(row), int(ends[-1])))
    for arm, values, start, stop in zip(arms, reach, ends, ends[1:], strict=False):
        rows = np.array([row[task] for task in arm.tasks])
        table[rows, start:stop], share[rows, start:stop] = values, 1
    return table, share, list(label.values())


def _columns(joint: Band, columns: slice, clusters: int) -> Band:
    assert joint.low is not None
    assert joint.high is not None
    low, high = joint.low[columns], joint.high[columns]
    return Band(joint.value[columns], low, high, joint.alpha, joint.each, clusters)
