"""Cross-fitted gain = elicitation + creation − loss: the regime chosen with one fold, the parts measured with another.

Creation and loss are then never biased upward, whatever the truth and however the regime is chosen
(docs/measurement.md). It is chosen by the posterior mean of reach under a Jeffreys prior: with c = 0 the unbiased
estimate of bare reach is 0, which would call every lucky success of the tool arm a creation and bias it far downward.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaln

from testbed.stats.checks import NOWHERE, FloatArray, IntArray, StatsError, Where, counts, positive, whole_numbers
from testbed.stats.gain import TIE, Decomposition, decompose
from testbed.stats.kinds import kinds
from testbed.stats.outcomes import ArmOutcomes
from testbed.stats.reach import posterior_reach, reach_at_k
from testbed.stats.spend import cyclic_reach, reach_curve

# Splits held at a time, in numbers (16 MiB for each of some ten arrays): bounds the memory at any number of tasks.
_NUMBERS_AT_A_TIME = 2_000_000


def decompose_cross_fitted(
    bare_n: ArrayLike,
    bare_c: ArrayLike,
    tool_n: ArrayLike,
    tool_c: ArrayLike,
    *,
    operating: int = 1,
    elicitation: int,
    bare: Where = NOWHERE,
    tool: Where = NOWHERE,
) -> Decomposition:
    """Return the cross-fitted decomposition on the axis of attempts, averaged over all splits exactly.

    Of a task's n attempts in an arm, as many as its largest spend measure and the others choose the regime. Counts
    are sufficient, so the mean over all splits is a hypergeometric sum: no randomness.

    Args:
        bare_n: Attempts of the bare arm per task, shape (T,).
        bare_c: Its successes.
        tool_n: Attempts of the tool arm.
        tool_c: Its successes.
        operating: b, in attempts.
        elicitation: B ≥ b, in attempts.
        bare: Names for error messages.
        tool: Names for error messages.

    Returns:
        The gain is unbiased; creation and loss are never biased upward. Keep B ≤ n/2: with few attempts left to choose
        with, they are biased far downward, and elicitation upward. Its limits come from ``elicitation_least`` and
        ``elicitation_most``, which hold at any B.

    Raises:
        StatsError: B < b, or a task with fewer than B + 1 bare or b + 1 tool attempts: nothing is left to choose with.
    """
    n0, c0 = counts(np.atleast_1d(bare_n), np.atleast_1d(bare_c), bare)
    n1, c1 = counts(np.atleast_1d(tool_n), np.atleast_1d(tool_c), tool)
    if n0.shape != n1.shape:
        raise StatsError(f"{n0.size} tasks in the bare arm but {n1.size} in the tool arm")
    b, big = _spends(operating, elicitation)
    _enough(n0, big, "elicitation", bare)
    _enough(n1, b, "operating", tool)
    rows, kind = kinds(n0, c0, n1, c1)
    creation, loss = _mean_over_splits(np.column_stack([n0, c0, n1, c1])[rows], b, big)[kind].T
    plug_in = decompose(reach_at_k(n0, c0, b), reach_at_k(n0, c0, big), reach_at_k(n1, c1, b))
    gain, creation_most, loss_most = plug_in.gain, plug_in.creation, plug_in.loss
    return Decomposition(
        gain=gain, elicitation=gain - creation + loss, creation=creation, loss=loss,
        elicitation_least=gain - creation_most + loss, elicitation_most=gain - creation + loss_most,
        creation_most=creation_most, loss_most=loss_most,
        creation_upper=creation, settled=np.ones(gain.shape, np.bool_), cross_fitted=True,
    )  # fmt: skip


def creation_curve(bare: ArmOutcomes, tool: ArmOutcomes, spends: ArrayLike, *, operating: int = 1) -> FloatArray:
    """Return cross-fitted creation per task at each elicitation spend B, shape (T, S), on the axis of attempts.

    True creation never rises with B: what one resample cannot reach, more may. The estimates may, by noise.

    Args:
        bare: The bare arm.
        tool: The tool arm, on the same tasks in the same order.
        spends: Elicitation spends B ≥ b in attempts, each less than every task's bare attempts, shape (S,).
        operating: b, in attempts.
    """
    if bare.tasks != tool.tasks:
        raise StatsError(f"arms {bare.arm!r} and {tool.arm!r} must be aligned on the same tasks first")
    columns = [
        decompose_cross_fitted(
            bare.n, bare.c, tool.n, tool.c,
            operating=operating, elicitation=int(b), bare=bare.where, tool=tool.where,
        ).creation
        for b in np.atleast_1d(whole_numbers(spends, "elicitation attempts"))
    ]  # fmt: skip
    return np.stack(columns, axis=1)


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
        _enough(arm.n, 1, "operating", arm.where)
    grid = np.array([operating, elicitation], dtype=np.float64)
    times = splits or int(np.clip(2000 // len(bare.tasks), 2, 8))
    rng = np.random.default_rng([seed, 4])
    parts = np.empty((len(bare.tasks), 4))
    for task in range(len(bare.tasks)):
        halves = (_halves(arm, task, axis, grid, times, orderings, rng) for arm in (bare, tool))
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


def _spends(operating: int, elicitation: int) -> tuple[int, int]:
    b, big = (
        int(whole_numbers(operating, "operating attempts")),
        int(whole_numbers(elicitation, "elicitation attempts")),
    )
    if not 1 <= b <= big:
        raise StatsError(f"spends must satisfy 1 ≤ operating ≤ elicitation, not {operating} and {elicitation}")
    return b, big


def _enough(n: IntArray, spend: int, name: str, where: Where) -> None:
    if (n <= spend).any():
        task = int(np.argmin(n))
        raise StatsError(
            f"{where(task)}{n[task]} attempts cannot be cross-fitted at {name} spend {spend}: that takes {spend + 1} "
            f"or more (better twice the spend); sample more, lower the spend, or take the plug-in (biased upward)"
        )


def _mean_over_splits(counts: IntArray, b: int, big: int) -> FloatArray:
    """Return creation and loss, averaged over all splits of both arms, of each row (n0, c0, n1, c1); shape (R, 2)."""
    means = np.empty((len(counts), 2))
    # Rows whose successes are alike in number go together: they have as many splits to sum over.
    width = np.frexp(np.maximum(np.minimum(counts[:, 1], big), np.minimum(counts[:, 3], b)))[1]
    for bits in np.unique(width):
        alike = np.flatnonzero(width == bits)
        at_a_time = max(1, _NUMBERS_AT_A_TIME >> int(bits))
        for i in range(0, alike.size, at_a_time):
            some = alike[i : i + at_a_time]
            means[some] = _some_means(counts[some], b, big)
    return means


def _some_means(rows: IntArray, b: int, big: int) -> FloatArray:
    n0, c0, n1, c1 = (column[:, None] for column in rows.T)
    # One column for each number of successes that the measuring fold may hold, most first: then the choosing fold's
    # rise, and with them every reach that it expects.
    measured0, measured1 = (np.arange(min(k, int(c.max())), -1, -1) for k, c in ((big, c0), (b, c1)))
    chance0, hits0 = _splits(n0, c0, big, measured0)
    chance1, hits1 = _splits(n1, c1, b, measured1)
    x, y = (posterior_reach(n0 - big, hits0, k) for k in (b, big))
    t = posterior_reach(n1 - b, hits1, b)
    measured_x, measured_y = (reach_at_k(big, measured0, k) for k in (b, big))
    measured_t = reach_at_k(b, measured1, b)
    # "t > y" and "t < x" are a head and a tail of the bare arm's splits: running sums replace the double sum.
    head, tail = _count_below(y, t - TIE, ties=False), _count_below(x, t + TIE, ties=True)
    weight, weight_y, weight_x = (_running(chance0 * v) for v in (1.0, measured_y, measured_x))
    before, before_y = (np.take_along_axis(sums, head, axis=1) for sums in (weight, weight_y))
    after, after_x = (sums[:, -1:] - np.take_along_axis(sums, tail, axis=1) for sums in (weight, weight_x))
    creation = (chance1 * (measured_t * before - before_y)).sum(axis=1)
    loss = (chance1 * (after_x - measured_t * after)).sum(axis=1)
    return np.stack([creation, loss], axis=1)


def _splits(n: IntArray, c: IntArray, fold: int, measured: IntArray) -> tuple[FloatArray, IntArray]:
    """Return P(``measured`` of the c successes fall into the measuring fold) and how many are left to choose with.

    Both of shape (R, M). What cannot happen has probability 0, and the nearest number that can.
    """
    rest = n - fold
    left = np.clip(c - measured, np.maximum(0, rest - (n - c)), np.minimum(c, rest))
    log = -(gammaln(left + 1) + gammaln(c - left + 1) + gammaln(rest - left + 1) + gammaln(n - c - rest + left + 1))
    chance = np.where(left == c - measured, np.exp(log - log.max(axis=1, keepdims=True)), 0.0)
    return chance / chance.sum(axis=1, keepdims=True), left


def _count_below(rising: FloatArray, goals: FloatArray, *, ties: bool) -> IntArray:
    """Return, row by row, how many of ``rising`` (R, M) lie below each of ``goals`` (R, G), or at it with ``ties``."""
    low = np.zeros(goals.shape, dtype=np.int64)
    high = np.full(goals.shape, rising.shape[1], dtype=np.int64)
    for _ in range(rising.shape[1].bit_length()):
        middle = (low + high) // 2
        value = np.take_along_axis(rising, np.minimum(middle, rising.shape[1] - 1), axis=1)
        below = ((value <= goals) if ties else (value < goals)) & (middle < high)
        low, high = np.where(below, middle + 1, low), np.where(below, high, middle)
    return low


def _running(values: FloatArray) -> FloatArray:
    return np.concatenate([np.zeros((len(values), 1)), np.cumsum(values, axis=1)], axis=1)


@dataclass(frozen=True, eq=False)
class _Halves:
    """Reach of one task's halves, shape (splits, 2, spends), and what choosing needs."""

    lower: FloatArray
    upper: FloatArray
    chosen: FloatArray


def _halves(
    arm: ArmOutcomes, task: int, axis: str, grid: FloatArray, splits: int, orderings: int, rng: np.random.Generator
) -> _Halves:
    rows = arm.attempts_of(task)
    won, spent = arm.success[rows], arm.cost(axis)[rows]
    size = won.size // 2
    order = rng.permuted(np.tile(np.arange(won.size), (splits, 1)), axis=1)[:, : 2 * size].reshape(splits, 2, 1, size)
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
