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

from testbed.stats.checks import NOWHERE, FloatArray, IntArray, StatsError, Where, counts, whole_numbers
from testbed.stats.gain import TIE, Decomposition
from testbed.stats.outcomes import ArmOutcomes
from testbed.stats.reach import posterior_reach, reach_at_k
from testbed.stats.spend import cyclic_reach, reach_curve


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
        with, they are biased downward.

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
    rows, task = np.unique(np.column_stack([n0, c0, n1, c1]), axis=0, return_inverse=True)
    splits = _Splits(b, big)
    creation, loss = np.array([splits.mean(*(int(v) for v in row)) for row in rows])[task.ravel()].T
    gain = reach_at_k(n1, c1, b) - reach_at_k(n0, c0, b)
    return Decomposition(gain, gain - creation + loss, creation, loss, creation, np.ones(gain.shape, np.bool_), True)


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
    if not 0 < operating <= elicitation < np.inf:
        raise StatsError(f"spends must satisfy 0 < operating ≤ elicitation, not {operating} and {elicitation}")
    for arm in (bare, tool):
        _enough(arm.n, 1, "operating", arm.where)
    grid = np.array([operating, elicitation], dtype=np.float64)
    times = splits or int(np.clip(2000 // len(bare.tasks), 2, 8))
    rng = np.random.default_rng([seed, 4])
    parts = np.empty((len(bare.tasks), 4))
    for task in range(len(bare.tasks)):
        before, after = (_halves(arm, task, axis, grid, times, orderings, rng) for arm in (bare, tool))
        parts[task] = _parts(before, after)
    creation, loss, creation_upper, unsettled = parts.T
    # The gain itself needs no regime, so it is measured with all attempts.
    x, t = (reach_curve(arm, grid[:1], axis=axis, seed=seed) for arm in (bare, tool))
    gain = (t.lower - x.upper)[:, 0]
    settled = (unsettled == 0) & (x.lower == x.upper)[:, 0] & (t.lower == t.upper)[:, 0]
    return Decomposition(gain, gain - creation + loss, creation, loss, creation_upper, settled, True)


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


class _Splits:
    """Means over all splits of a task's attempts; keeps what tasks with the same counts share."""

    def __init__(self, b: int, big: int) -> None:
        self._b, self._big = b, big
        self._reach: dict[tuple[int, int], FloatArray] = {}
        self._draws: dict[tuple[int, int, int], tuple[FloatArray, IntArray]] = {}

    def mean(self, n0: int, c0: int, n1: int, c1: int) -> tuple[float, float]:
        """Return creation and loss of one task, averaged over all splits of both arms."""
        b, big = self._b, self._big
        chance0, hits0 = self._hypergeometric(n0, c0, n0 - big)
        chance1, hits1 = self._hypergeometric(n1, c1, n1 - b)
        x, y = (posterior_reach(n0 - big, hits0, k) for k in (b, big))
        t = posterior_reach(n1 - b, hits1, b)
        measured_x, measured_y = self._table(big, b)[c0 - hits0], self._table(big, big)[c0 - hits0]
        measured_t = self._table(b, b)[c1 - hits1]
        # Reach rises with the successes in the choosing fold, so "t > y" and "t < x" are a head and a tail of the
        # bare arm's splits: running sums replace the double sum.
        head, tail = np.searchsorted(y, t - TIE, side="left"), np.searchsorted(x, t + TIE, side="right")
        weight, weight_y, weight_x = (_running(chance0 * v) for v in (np.ones(x.size), measured_y, measured_x))
        creation = chance1 @ (measured_t * weight[head] - weight_y[head])
        loss = chance1 @ ((weight_x[-1] - weight_x[tail]) - measured_t * (weight[-1] - weight[tail]))
        return float(creation), float(loss)

    def _table(self, n: int, k: int) -> FloatArray:
        """Reach at k for c = 0…n successes."""
        if (n, k) not in self._reach:
            self._reach[n, k] = reach_at_k(n, np.arange(n + 1), k)
        return self._reach[n, k]

    def _hypergeometric(self, n: int, c: int, draws: int) -> tuple[FloatArray, IntArray]:
        """Return P(a of the c successes fall among ``draws`` of the n attempts) and the possible a."""
        if (n, c, draws) not in self._draws:
            a = np.arange(max(0, draws - (n - c)), min(c, draws) + 1)
            log = -(gammaln(a + 1) + gammaln(c - a + 1) + gammaln(draws - a + 1) + gammaln(n - c - draws + a + 1))
            chance = np.exp(log - log.max())
            self._draws[n, c, draws] = chance / chance.sum(), a
        return self._draws[n, c, draws]


def _running(values: FloatArray) -> FloatArray:
    return np.concatenate([[0.0], np.cumsum(values)])


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
    mean = np.maximum(cost.mean(axis=-1), np.finfo(np.float64).tiny)
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
