"""Reach at a spend for thousands of tasks at once: without a step of Python for each, and with seeded orderings only.

`reach_curve` takes every task by itself, exactly where it can; over many tasks it is the mean that matters, and its
error from a few orderings of each is far below that of the tasks themselves.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from testbed.stats.checks import FloatArray, IntArray, positive
from testbed.stats.outcomes import ArmOutcomes
from testbed.stats.rows import rows_of
from testbed.stats.spend import TOLERANCE, ReachCurve, cyclic_reach, every_task_attempted

MANY = 2_000  # tasks from which a curve is made so
_ORDERINGS = 64  # of each task, at least: rotations of at least two random orders
_CELLS_AT_A_TIME = 2_000_000  # attempts in order, held at a time


def reach_curve_of_many(arm: ArmOutcomes, spends: ArrayLike, *, axis: str, seed: int = 0) -> ReachCurve:
    """Return what `testbed.stats.reach_curve` does on a cost axis, unbiased, from about 64 orderings of each task.

    A rotation of a random ordering is a random ordering, so a task's mean over the rotations of a few is unbiased. With
    2,000 tasks or more the Monte-Carlo standard error of their mean is below .005, whatever the outcomes: at worst a
    task's share of rotations is spread evenly over [0, 1], and two orders halve the variance of that.

    Args:
        arm: Its outcomes; every task needs an attempt.
        spends: Spends on the axis, shape (S,).
        axis: A cost axis of the arm.
        seed: Seed of the orderings.

    Raises:
        StatsError: A task without attempts, an unknown axis, a spend ≤ 0.
    """
    every_task_attempted(arm)
    grid = np.atleast_1d(positive(spends, f"spend on {axis!r}"))
    cost, rng = arm.cost(axis), np.random.default_rng([seed, 2])
    lower, error = (np.zeros((len(arm.tasks), grid.size)) for _ in range(2))
    for attempts in np.unique(arm.n).tolist():
        tasks = np.flatnonzero(arm.n == attempts)
        orders = max(2, -(-_ORDERINGS // attempts))
        block = max(1, _CELLS_AT_A_TIME // (attempts * orders))
        for own in (tasks[start : start + block] for start in range(0, tasks.size, block)):
            lower[own], error[own] = _mean_over_rotations(arm, cost, own, orders, grid, rng)
    total = np.add.reduceat(cost, arm.offsets[:-1])
    cheapest = np.minimum.reduceat(cost, arm.offsets[:-1])
    # As in `reach_at_spend`: without a success, and with money for one attempt more, nothing is known.
    open_end = (arm.c == 0)[:, None] & (grid * (1 + TOLERANCE) >= (total + cheapest)[:, None])
    return ReachCurve(axis, grid, lower, np.where(open_end, 1.0, lower), error)


def _mean_over_rotations(
    arm: ArmOutcomes, cost: FloatArray, tasks: IntArray, orders: int, grid: FloatArray, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Return the reach of tasks with equally many attempts, and its Monte-Carlo error, shape (tasks, S) each."""
    rows = np.tile(rows_of(arm.offsets, tasks).reshape(tasks.size, -1), (orders, 1))
    rows = rng.permuted(rows, axis=1)
    each = cyclic_reach(arm.success[rows], cost[rows], grid).reshape(orders, tasks.size, grid.size)
    return each.mean(axis=0), each.std(axis=0, ddof=1) / np.sqrt(orders)
