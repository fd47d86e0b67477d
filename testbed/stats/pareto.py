"""Which arms are worth their cost: the front of cost and reach, and in how many bootstrap replicates an arm is on it.

An arm is on the front unless another one costs no more and reaches no less, and one of the two is better. Its
membership is the share of replicates of the paired cluster bootstrap (Rubin 1981: Dirichlet weights, the same for every
arm and for both coordinates) in which it is on the front of that replicate. It says how settled the picture is under
another draw of tasks from the same clusters; it is no probability that the arm belongs there.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from testbed.stats.bootstrap import cluster_bootstrap, cluster_codes, cluster_weights
from testbed.stats.checks import BoolArray, FloatArray, IntArray, StatsError, level, numbers, whole_numbers
from testbed.stats.intervals import Estimate
from testbed.stats.outcomes import ArmOutcomes
from testbed.stats.reach import reach_at_k
from testbed.stats.spend import every_task_attempted

# Figures that agree to this are equal: rounding must not put one of two equal arms behind the other.
_TOLERANCE = 1e-12


@dataclass(frozen=True)
class ArmOnFront:
    """One arm in the plane of cost and reach.

    Attributes:
        arm: Its name.
        cost: Mean cost of the attempts on a task, mean over tasks; a percentile interval, since costs have no end.
        reach: Mean reach over tasks, with the interval that all means have here.
        on_front: Whether no other arm is at least as good in both and better in one.
        membership: Share of replicates in which it is; None with fewer than two clusters.
    """

    arm: str
    cost: Estimate
    reach: Estimate
    on_front: bool
    membership: float | None


@dataclass(frozen=True)
class CostFront:
    """Arms in the plane of cost and reach, on the same tasks.

    Attributes:
        axis: Component of cost.
        attempts: Attempts k at each task, which cost is paid for and reach is of.
        tasks: Number of tasks.
        clusters: Number of clusters that were resampled.
        arms: The arms, in the order given.
    """

    axis: str
    attempts: int
    tasks: int
    clusters: int
    arms: tuple[ArmOnFront, ...]


def pareto_front(cost: ArrayLike, reach: ArrayLike) -> BoolArray:
    """Return which arms are on the front of least cost and greatest reach.

    Args:
        cost: Costs ≥ 0, shape (..., A).
        reach: Reaches, of the same shape.

    Returns:
        Shape (..., A): no other arm of the row costs no more and reaches no less with one of the two better. Of equal
        arms all are on it, or none.

    Raises:
        StatsError: Shapes that differ, or a value that is not finite.
    """
    spent, reached = numbers(cost, "costs"), numbers(reach, "reaches")
    if spent.shape != reached.shape or spent.ndim == 0:
        raise StatsError(f"costs of shape {spent.shape} for reaches of shape {reached.shape}")
    if not (np.isfinite(spent).all() and np.isfinite(reached).all()):
        raise StatsError("a cost or a reach is not finite")
    slack = _TOLERANCE * np.maximum(1.0, np.abs(spent))
    beaten = np.zeros(spent.shape, np.bool_)
    for other in range(spent.shape[-1]):
        its_cost, its_reach = spent[..., other, None], reached[..., other, None]
        no_worse = (its_cost <= spent + slack) & (its_reach >= reached - _TOLERANCE)
        beaten |= no_worse & ((its_cost < spent - slack) | (its_reach > reached + _TOLERANCE))
    return ~beaten


def cost_front(
    arms: Sequence[ArmOutcomes],
    axis: str,
    *,
    attempts: int = 1,
    clusters: Mapping[str, Hashable] | None = None,
    alpha: float = 0.05,
    replicates: int = 2000,
    seed: int = 0,
) -> CostFront:
    """Return the front of what k attempts at a task cost and how many of the tasks they reach, with memberships.

    Args:
        arms: At least two, on the same tasks in the same order.
        axis: Cost axis of every arm.
        attempts: k, at most the least n of any arm.
        clusters: Task → cluster label; every task its own cluster where left out.
        alpha: Level of each interval.
        replicates: Bootstrap replicates.
        seed: Their seed.

    Raises:
        StatsError: Fewer than two arms, other tasks, an unknown axis, k beyond what a task has.
    """
    level(alpha)
    if len(arms) < 2:
        raise StatsError("a front needs two arms or more")
    for arm in arms:
        if arm.tasks != arms[0].tasks:
            raise StatsError(f"arm {arm.arm!r} has other tasks than {arms[0].arm!r}: compare arms on the same ones")
        every_task_attempted(arm)
    k = int(whole_numbers(attempts, "attempts"))
    cost = k * np.column_stack([arm.mean_cost(axis) for arm in arms])
    reach = np.column_stack([reach_at_k(arm.n, arm.c, k, where=arm.where) for arm in arms])
    code = cluster_codes(arms[0].tasks, clusters, arms[0].where)
    reached = cluster_bootstrap(reach, clusters=code.tolist(), replicates=replicates, seed=seed).intervals(alpha)
    on_front = pareto_front(cost.mean(axis=0), reach.mean(axis=0))
    costs = [Estimate(float(value), None, None) for value in cost.mean(axis=0)]
    share: list[float | None] = [None] * len(arms)
    if reached.clusters > 1:
        drawn = _replicated(cost, reach, code, replicates, seed)
        share = [float(x) for x in pareto_front(*drawn).mean(axis=0)]
        low, high = np.quantile(drawn[0], [alpha / 2, 1 - alpha / 2], axis=0)
        costs = [
            Estimate(float(value), min(float(a), float(value)), max(float(b), float(value)))
            for value, a, b in zip(cost.mean(axis=0), low, high, strict=True)
        ]
    points = tuple(ArmOnFront(arm.arm, costs[i], reached[i], bool(on_front[i]), share[i]) for i, arm in enumerate(arms))
    return CostFront(axis, k, len(arms[0].tasks), reached.clusters, points)


def _replicated(
    cost: FloatArray, reach: FloatArray, code: IntArray, replicates: int, seed: int
) -> tuple[FloatArray, FloatArray]:
    """Return the arms' mean costs and reaches in every replicate, shape (R, A) each."""
    size = int(code.max()) + 1
    table = np.column_stack([cost, reach, np.ones(len(code))])
    sums = np.stack([np.bincount(code, weights=column, minlength=size) for column in table.T], axis=1)
    means = np.empty((replicates, table.shape[1] - 1))
    for rows, seen, _ in cluster_weights(size, replicates, seed):
        totals = seen @ sums
        means[rows] = totals[:, :-1] / totals[:, -1:]
    return means[:, : cost.shape[1]], means[:, cost.shape[1] :]
