"""Reach on a cost axis: the mean over random orderings of 1{the first success ends within the spend}.

Where all attempts cost the same it is reach@k (derived here; docs/measurement.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaln

from testbed.stats.checks import (
    NOWHERE,
    BoolArray,
    FloatArray,
    IntArray,
    StatsError,
    Where,
    costs,
    positive,
    whole_numbers,
)
from testbed.stats.kinds import kinds
from testbed.stats.outcomes import ArmOutcomes
from testbed.stats.reach import first_success_cdf, reach_at_k

# Costs are sums of floats: an attempt that ends at the spend to this relative precision ends within it.
TOLERANCE = 1e-9
# Multisets of preceding failures are enumerated where failures have at most so many different costs …
_EXACT_VALUES = 12
# … and there are at most so many multisets within the largest spend.
_EXACT_STATES = 4096
_ORDERINGS = 256
_ROTATIONS = 32


@dataclass(frozen=True, eq=False)
class SpendReach:
    """Reach of one task and arm at S spends on one cost axis.

    Attributes:
        spends: The spends, shape (S,).
        lower: Estimate in which attempts that ran out before the spend did count as never succeeding, shape (S,).
        upper: The same, counting as succeeding. Equal to ``lower`` wherever the attempts sufficed.
        standard_error: Monte-Carlo standard error of the mean over orderings, shape (S,); 0 where exact. It says
            nothing about the sampling of attempts or tasks.
        exact: Whether the mean over all orderings was computed exactly.
    """

    spends: FloatArray
    lower: FloatArray
    upper: FloatArray
    standard_error: FloatArray
    exact: bool


@dataclass(frozen=True, eq=False)
class ReachCurve:
    """Reach of one arm on T tasks at S spends.

    Attributes:
        axis: "attempts" or the name of a cost axis.
        spends: Shape (S,).
        lower: Shape (T, S).
        upper: Shape (T, S); equal to ``lower`` on the axis of attempts.
        standard_error: Monte-Carlo standard error per task, shape (T, S); 0 on the axis of attempts.
    """

    axis: str
    spends: FloatArray
    lower: FloatArray
    upper: FloatArray
    standard_error: FloatArray


def reach_at_spend(
    success: ArrayLike,
    cost: ArrayLike,
    spends: ArrayLike,
    *,
    orderings: int = _ORDERINGS,
    seed: int = 0,
    axis: str = "cost",
    where: Where = NOWHERE,
    task: int | None = None,
) -> SpendReach:
    """Estimate the reach of one task and arm at given spends from its attempts and their costs.

    Given the failures that precede it, the first success is a uniformly drawn one, and the number of failures is
    independent of which they are: so only the failures' order is random, and each ordering contributes
    reach@(1 + number of failures that fit). Equal costs therefore give reach@k exactly. The mean over orderings is
    exact where the failures have few different costs (or are few), else over ``orderings`` seeded ones
    (random permutations and their rotations, which balance who comes first), with its standard error.

    Args:
        success: Outcomes, shape (n,).
        cost: Cost of each attempt, shape (n,), ≥ 0.
        spends: Spends > 0, shape (S,).
        orderings: About how many orderings where the exact mean is out of reach.
        seed: Seed of these orderings.
        axis: Name of the cost, for messages.
        where: Names for error messages.
        task: Position of the task in ``where``.

    Returns:
        `SpendReach`. Bounds differ only where no attempt succeeded and the spend would pay for one more at least as
        dear as the cheapest one seen: then nothing is known but [0, 1].

    Raises:
        StatsError: No attempts, shapes that differ, negative or non-finite costs, a spend ≤ 0.
    """
    outcome = np.asarray(success).ravel()
    if outcome.dtype.kind not in "iubf" or not ((outcome == 0) | (outcome == 1)).all():
        # NaN would read as True: a missing attempt must be left out by its owner, never scored.
        raise StatsError(f"{where(task)}outcomes must be true or false; leave missing attempts out")
    won = outcome.astype(np.bool_)
    spent = costs(cost, axis, where, task).ravel()
    if won.size == 0:
        raise StatsError(f"{where(task)}no attempts")
    if won.shape != spent.shape:
        raise StatsError(f"{where(task)}{won.size} outcomes but {spent.size} costs on axis {axis!r}")
    grid = np.atleast_1d(positive(spends, f"spend on {axis!r}"))
    return mean_over_orderings(won, spent, grid, orderings, np.random.default_rng([seed, 2]))


def mean_over_orderings(
    won: BoolArray, spent: FloatArray, grid: FloatArray, orderings: int, rng: np.random.Generator
) -> SpendReach:
    """Do the work of `reach_at_spend` on arrays that were checked already, drawing orderings from ``rng``."""
    budget = grid * (1 + TOLERANCE)
    if not won.any():
        zero = np.zeros(grid.size)
        # What is left after the last attempt must pay for another one before anything is unknown.
        open_end = budget >= spent.sum() + spent.min()
        return SpendReach(grid, zero, open_end.astype(np.float64), zero, True)
    lost, gained = spent[~won], spent[won]
    within = first_success_cdf(won.size, gained.size)
    states = _failure_states(lost, float(budget.max()))
    if states is not None:
        value = _mean_over_all_orderings(*states, within, gained, budget)
        return SpendReach(grid, value, value, np.zeros(grid.size), True)
    value, error = _mean_over_some_orderings(lost, gained, within, budget, orderings, rng)
    return SpendReach(grid, value, value, error, False)


def reach_curve(
    arm: ArmOutcomes, spends: ArrayLike, *, axis: str = "attempts", orderings: int | None = None, seed: int = 0
) -> ReachCurve:
    """Return the reach of every task of an arm on a grid of spends.

    Args:
        arm: Its outcomes; every task needs an attempt.
        spends: Numbers of attempts (whole, ≤ the least n) or spends on the cost ``axis``, shape (S,).
        axis: "attempts", or a cost axis of the arm.
        orderings: See `reach_at_spend`; not used for attempts. Where left out, 256 up to 100 tasks and fewer beyond,
            at least 64, so that their mean over tasks never has a greater Monte-Carlo error than that of 100 tasks.
        seed: See `reach_at_spend`; not used for attempts.

    Raises:
        StatsError: As `reach_at_k` and `reach_at_spend`, or an unknown axis.
    """
    grid = np.atleast_1d(positive(spends, f"spend on {axis!r}"))
    if axis == "attempts":
        first, kind = kinds(arm.n, arm.c)
        if (grid > arm.n.min()).any():  # raises, naming the task that is short
            reach_at_k(arm.n, arm.c, whole_numbers(grid, "k").max(), where=arm.where)
        values = reach_at_k(arm.n[first, None], arm.c[first, None], grid[None, :])[kind]
        return ReachCurve(axis, grid, values, values, np.zeros_like(values))
    every_task_attempted(arm)
    flat, rng = arm.cost(axis), np.random.default_rng([seed, 2])
    each = orderings or int(np.clip(_ORDERINGS * 100 // len(arm.tasks), 64, _ORDERINGS))
    lower, upper, error = (np.empty((len(arm.tasks), grid.size)) for _ in range(3))
    for i in range(len(arm.tasks)):
        rows = arm.attempts_of(i)
        one = mean_over_orderings(arm.success[rows], flat[rows], grid, each, rng)
        lower[i], upper[i], error[i] = one.lower, one.upper, one.standard_error
    return ReachCurve(axis, grid, lower, upper, error)


def every_task_attempted(arm: ArmOutcomes) -> None:
    """Refuse a task without a scored attempt."""
    if (arm.n == 0).any():
        raise StatsError(f"{arm.where(int(np.argmin(arm.n)))}no scored attempts")


def cyclic_reach(won: BoolArray, spent: FloatArray, grid: FloatArray) -> FloatArray:
    """Return each row's reach averaged over the rotations of its ordering.

    A rotation of a random ordering is a random ordering, so the mean estimates reach without bias: many rows in one
    pass where `reach_at_spend` would take too long.

    Args:
        won: Outcomes in order, shape (R, m).
        spent: Costs in the same order, shape (R, m).
        grid: Spends, shape (S,).

    Returns:
        Shape (R, S); 0 in rows without a success.
    """
    length = won.shape[1]
    place = np.where(np.concatenate([won, won], axis=1), np.arange(2 * length), 2 * length)
    following = np.minimum.accumulate(place[:, ::-1], axis=1)[:, ::-1][:, :length]
    ends = np.cumsum(np.concatenate([np.zeros((won.shape[0], 1)), spent, spent], axis=1), axis=1)
    until = np.take_along_axis(ends, np.minimum(following + 1, 2 * length), axis=1) - ends[:, :length]
    until[following == 2 * length] = np.inf
    return np.stack([(until <= spend * (1 + TOLERANCE)).mean(axis=1) for spend in grid], axis=1)


def _failure_states(lost: FloatArray, most: float) -> tuple[IntArray, FloatArray, FloatArray] | None:
    """Enumerate the multisets of failures that cost ≤ ``most``: size, total cost, ln(share among those of its size).

    None where there are too many.
    """
    number, total, log_ways = np.zeros(1, np.int64), np.zeros(1), np.zeros(1)
    values, repeats = np.unique(lost, return_counts=True)
    if values.size > _EXACT_VALUES:
        return None
    for value, times in zip(values, repeats, strict=True):
        # Cheapest first: taking none of the rest always stays affordable, so the states only grow.
        take = np.arange(times + 1)
        if value > 0:
            take = take[take * value <= most]
        if number.size * take.size > 4 * _EXACT_STATES:
            return None
        choose = gammaln(times + 1) - gammaln(take + 1) - gammaln(times - take + 1)
        totals = (total[:, None] + take * value).ravel()
        keep = totals <= most
        if np.count_nonzero(keep) > _EXACT_STATES:
            return None
        number = (number[:, None] + take).ravel()[keep]
        log_ways = (log_ways[:, None] + choose).ravel()[keep]
        total = totals[keep]
    return number, total, log_ways - _log_choose(lost.size, number)


def _log_choose(n: int, k: IntArray) -> FloatArray:
    return np.asarray(gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1), dtype=np.float64)


def _mean_over_all_orderings(
    number: IntArray,
    total: FloatArray,
    log_share: FloatArray,
    within: FloatArray,
    gained: FloatArray,
    budget: FloatArray,
) -> FloatArray:
    exactly = np.diff(within, prepend=0.0)  # P(exactly i failures precede the first success)
    order = np.argsort(total, kind="stable")
    running = np.concatenate([[0.0], np.cumsum((np.exp(log_share) * exactly[number])[order])])
    values, repeats = np.unique(gained, return_counts=True)
    fits = np.searchsorted(total[order], budget[None, :] - values[:, None], side="right")
    return np.asarray(np.minimum(repeats @ running[fits] / gained.size, 1.0), dtype=np.float64)


def _mean_over_some_orderings(
    lost: FloatArray,
    gained: FloatArray,
    within: FloatArray,
    budget: FloatArray,
    orderings: int,
    rng: np.random.Generator,
) -> tuple[FloatArray, FloatArray]:
    rotations = min(lost.size, _ROTATIONS, max(1, orderings // 4))
    bases = max(4, -(-orderings // rotations))
    order = rng.permuted(np.broadcast_to(lost, (bases, lost.size)), axis=1)
    ends = np.cumsum(np.concatenate([np.zeros((bases, 1)), order, order], axis=1), axis=1)
    # All bases are searched as one rising array, each shifted past the one before.
    total = float(lost.sum())
    ends += 3 * total * np.arange(bases)[:, None]
    row, start = np.arange(bases)[:, None], np.arange(rotations) * lost.size // rotations
    first = rng.permuted(np.broadcast_to(gained, (bases, gained.size)), axis=1)[:, np.arange(rotations) % gained.size]
    left = budget - first[:, :, None]
    goal = ends[:, start][:, :, None] + np.minimum(left, 1.5 * total)  # enough for all failures
    fit = np.searchsorted(ends.ravel(), goal, side="right") - 1 - (row * ends.shape[1] + start)[:, :, None]
    fit = np.clip(fit, 0, lost.size)  # below 0 where not even the success alone is paid for, which counts for nothing
    means = np.add.reduce(np.where(left >= 0, within[fit], 0.0), axis=1) / rotations
    middle = np.add.reduce(means, axis=0) / bases
    return middle, np.sqrt(np.add.reduce((means - middle) ** 2, axis=0) / (bases - 1) / bases)
