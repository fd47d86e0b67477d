"""Cross-fitted gain = elicitation + creation − loss on a cost axis, over random halvings of each task's attempts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from testbed.stats.checks import FloatArray, IntArray, StatsError, positive
from testbed.stats.crossfit import enough_to_split
from testbed.stats.gain import TIE, Decomposition
from testbed.stats.joint import common_attempts
from testbed.stats.outcomes import ArmOutcomes
from testbed.stats.reach import posterior_reach
from testbed.stats.spend import cyclic_reach, reach_curve


def decompose_cross_fitted_at_spend(
    bare: ArmOutcomes,
    tool: ArmOutcomes,
    *,
    axis: str,
    operating: float,
    elicitation: float,
    splits: int | None = None,
    orderings: int = 8,
    seed: int = 0,
) -> Decomposition:
    """Return the cross-fitted decomposition on a cost axis, averaged over seeded random halvings, in both directions.

    Attempts of the two arms that share a sample index fall into the same half.

    Where the half of the bare attempts runs out before B without a success, bare reach at B is only known to lie in
    [0, 1]: `creation` then takes 1 (the least creation), `creation_upper` takes 0.

    Args:
        bare: The bare arm.
        tool: The tool arm, on the same tasks in the same order, each with two attempts or more in both.
        axis: Cost axis of both.
        operating: b > 0.
        elicitation: B ≥ b.
        splits: Random halvings per task; 2 to 8, fewer for large suites, where left out.
        orderings: Random orderings per half, each averaged over its rotations.
        seed: Seed of the halvings and orderings.

    Raises:
        StatsError: B < b, different tasks, an unknown axis, a task with one attempt.
    """
    if bare.tasks != tool.tasks:
        raise StatsError(f"arms {bare.arm!r} and {tool.arm!r} must be aligned on the same tasks first")
    positive([operating, elicitation], "spends")
    if operating > elicitation:
        raise StatsError(f"spends must satisfy 0 < operating ≤ elicitation, not {operating} and {elicitation}")
    for arm in (bare, tool):
        enough_to_split(arm.n, 1, "operating", arm.where)
    grid = np.array([operating, elicitation], dtype=np.float64)
    times = splits or int(np.clip(2000 // len(bare.tasks), 2, 8))
    rng = np.random.default_rng([seed, 4])
    parts = np.empty((len(bare.tasks), 4))
    for task, shared in enumerate(common_attempts(bare, tool)):
        together = _permuted(np.arange(shared[0].size), times, rng)
        halves = (
            _halves(arm, task, own[together], axis, grid, orderings, rng)
            for arm, own in zip((bare, tool), shared, strict=True)
        )
        parts[task] = _parts(*halves)
    creation, loss, creation_upper, unsettled = parts.T
    # The gain and the plug-in parts need no folds, so they are measured with all attempts.
    before, after = (reach_curve(arm, grid, axis=axis, seed=seed) for arm in (bare, tool))
    (x_low, y_low), x_high = before.lower.T, before.upper[:, 0]
    t_low, t_high = after.lower[:, 0], after.upper[:, 0]
    gain, creation_most, loss_most = t_low - x_high, np.maximum(0.0, t_high - y_low), np.maximum(0.0, x_high - t_low)
    settled = (unsettled == 0) & (x_low == x_high) & (t_low == t_high)
    return Decomposition(
        gain=gain, elicitation=gain - creation + loss, creation=creation, loss=loss,
        elicitation_least=gain - creation_most + loss,
        elicitation_most=np.maximum(0.0, t_high - x_low - creation + loss_most),  # never below what is bounded
        creation_most=creation_most, loss_most=loss_most,
        creation_upper=creation_upper, settled=settled, cross_fitted=True,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Halves:
    """Reach of one task's halves, shape (splits, 2, spends), and what choosing needs."""

    lower: FloatArray
    upper: FloatArray
    chosen: FloatArray


def _permuted(values: IntArray, times: int, rng: np.random.Generator) -> IntArray:
    return np.asarray(rng.permuted(np.tile(values, (times, 1)), axis=1), dtype=np.int64)


def _halvings(size: int, shared: IntArray, rng: np.random.Generator) -> IntArray:
    """Return random halvings of a task's attempts, shape (splits, 2, 1, half); those with partners come in an order.

    Args:
        size: Attempts of the arm at the task.
        shared: Those that share their sample index with one of the other arm, in an order for each split; the other
            arm has its own in the same orders, so that partners fall into the same half. Shape (splits, shared).
        rng: For the others.
    """
    both = shared.shape[1]
    alone = _permuted(np.setdiff1d(np.arange(size), shared[0]), len(shared), rng)
    half, rest = both // 2, alone.shape[1] // 2
    first, second = [shared[:, :half], alone[:, :rest]], [shared[:, half : 2 * half], alone[:, rest : 2 * rest]]
    if both % 2 and alone.shape[1] % 2:  # the odd ones balance each other, always in the same halves of both arms
        first.append(shared[:, -1:])
        second.append(alone[:, -1:])
    return np.stack([np.concatenate(rows, axis=1) for rows in (first, second)], axis=1)[:, :, None]


def _halves(
    arm: ArmOutcomes,
    task: int,
    shared: IntArray,
    axis: str,
    grid: FloatArray,
    orderings: int,
    rng: np.random.Generator,
) -> _Halves:
    rows = arm.attempts_of(task)
    won, spent = arm.success[rows], arm.cost(axis)[rows]
    order = _halvings(won.size, shared, rng)
    splits, size = len(order), order.shape[-1]
    again = rng.permuted(np.repeat(order, orderings, axis=2), axis=-1).reshape(-1, size)
    lower = cyclic_reach(won[again], spent[again], grid).reshape(splits, 2, orderings, grid.size).mean(axis=2)
    hits, cost = won[order].sum(axis=-1), spent[order]
    open_end = (hits == 0) & (grid >= (cost.sum(axis=-1) + cost.min(axis=-1)))
    mean = np.maximum(cost.mean(axis=-1), 1e-12 * grid.max())  # free attempts: as good as endless ones
    # At the operating spend the orderings choose; at the elicitation spend the posterior does, as the halves of a
    # task without successes would always say 0.
    chosen = lower.copy()
    if grid.size > 1:
        chosen[:, :, 1:] = np.maximum(lower[:, :, :1], posterior_reach(size, hits, np.minimum(grid[1:] / mean, 1e12)))
    return _Halves(lower, np.where(open_end, 1.0, lower), chosen)


def _parts(bare: _Halves, tool: _Halves) -> FloatArray:
    """Return creation, loss, greatest creation and the share of open ends, averaged over splits and directions.

    One half chooses the regime, the other measures. All but the greatest creation take the bare arm at its upper and
    the tool arm at its lower bound.
    """
    x, y, t = bare.chosen[:, ::-1, 0], bare.chosen[:, ::-1, 1], tool.chosen[:, ::-1, 0]
    created, lost = t > y + TIE, t < x - TIE
    t_low, t_high = tool.lower[:, :, 0], tool.upper[:, :, 0]
    x_high, (y_low, y_high) = bare.upper[:, :, 0], (bare.lower[:, :, 1], bare.upper[:, :, 1])
    unsettled = (bare.lower != bare.upper).any(axis=2) | (t_low != t_high)
    figures = (created * (t_low - y_high), lost * (x_high - t_low), created * (t_high - y_low), unsettled)
    return np.array([figure.mean() for figure in figures])
