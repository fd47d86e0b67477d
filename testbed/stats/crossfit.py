"""Cross-fitted gain = elicitation + creation − loss: the regime chosen with one fold, the parts measured with another.

Creation and loss are then never biased upward, whatever the truth and however the regime is chosen
(docs/measurement.md). It is chosen by the posterior mean of reach under a Jeffreys prior: with c = 0 the unbiased
estimate of bare reach is 0, which would call every lucky success of the tool arm a creation and bias it far downward.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaln

from testbed.stats.checks import NOWHERE, FloatArray, IntArray, StatsError, Where, counts, whole_numbers
from testbed.stats.gain import TIE, Decomposition, decompose
from testbed.stats.joint import JointSplits, joint_splits
from testbed.stats.kinds import kinds
from testbed.stats.outcomes import ArmOutcomes
from testbed.stats.reach import posterior_reach, reach_at_k

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
    enough_to_split(n0, big, "elicitation", bare)
    enough_to_split(n1, b, "operating", tool)
    rows, kind = kinds(n0, c0, n1, c1)
    creation, loss = _mean_over_splits(np.column_stack([n0, c0, n1, c1])[rows], b, big)[kind].T
    return _with_limits(n0, c0, n1, c1, b, big, creation, loss)


def decompose_cross_fitted_jointly(splits: JointSplits, *, operating: int = 1, elicitation: int) -> Decomposition:
    """Return what `decompose_cross_fitted` does, over splits by sample index in both arms at once.

    For arms whose attempts at one sample index may depend on one another, as on one random stream they do.

    Args:
        splits: The arms' attempts, split (`testbed.stats.joint.joint_splits`).
        operating: b, in attempts.
        elicitation: B ≥ b, in attempts.

    Raises:
        StatsError: As `decompose_cross_fitted`.
    """
    b, big = _spends(operating, elicitation)
    bare, tool = splits.bare, splits.tool
    enough_to_split(bare.n, big, "elicitation", bare.where)
    enough_to_split(tool.n, b, "operating", tool.where)
    creation, loss = splits.creation_and_loss(b, big).T
    return _with_limits(bare.n, bare.c, tool.n, tool.c, b, big, creation, loss)


def _with_limits(
    n0: IntArray, c0: IntArray, n1: IntArray, c1: IntArray, b: int, big: int, creation: FloatArray, loss: FloatArray
) -> Decomposition:
    plug_in = decompose(reach_at_k(n0, c0, b), reach_at_k(n0, c0, big), reach_at_k(n1, c1, b))
    gain = plug_in.gain
    # Never less than the cross-fitted parts, which among attempts that depend on one another is no matter of course.
    creation_most, loss_most = np.maximum(plug_in.creation, creation), np.maximum(plug_in.loss, loss)
    return Decomposition(
        gain=gain, elicitation=gain - creation + loss, creation=creation, loss=loss,
        elicitation_least=gain - creation_most + loss, elicitation_most=gain - creation + loss_most,
        creation_most=creation_most, loss_most=loss_most,
        creation_upper=creation, settled=np.ones(gain.shape, np.bool_), cross_fitted=True,
    )  # fmt: skip


def parts_of(
    bare: ArmOutcomes,
    tool: ArmOutcomes,
    *,
    operating: int = 1,
    elicitation: int,
    seed: int = 0,
    splits: JointSplits | None = None,
) -> Decomposition:
    """Return the cross-fitted decomposition of two arms on the same tasks, jointly where attempts share an index.

    Args:
        bare: The bare arm.
        tool: The tool arm.
        operating: b, in attempts.
        elicitation: B ≥ b, in attempts.
        seed: Seed of the splits.
        splits: `joint_splits` of the arms, where they are at hand.
    """
    splits = splits or joint_splits(bare, tool, seed=seed)
    if splits is not None:
        return decompose_cross_fitted_jointly(splits, operating=operating, elicitation=elicitation)
    return decompose_cross_fitted(
        bare.n, bare.c, tool.n, tool.c,
        operating=operating, elicitation=elicitation, bare=bare.where, tool=tool.where,
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
    splits = joint_splits(bare, tool)
    columns = [
        parts_of(bare, tool, operating=operating, elicitation=int(b), splits=splits).creation
        for b in np.atleast_1d(whole_numbers(spends, "elicitation attempts"))
    ]
    return np.stack(columns, axis=1)


def _spends(operating: int, elicitation: int) -> tuple[int, int]:
    b, big = (
        int(whole_numbers(operating, "operating attempts")),
        int(whole_numbers(elicitation, "elicitation attempts")),
    )
    if not 1 <= b <= big:
        raise StatsError(f"spends must satisfy 1 ≤ operating ≤ elicitation, not {operating} and {elicitation}")
    return b, big


def enough_to_split(n: IntArray, spend: int, name: str, where: Where) -> None:
    """Refuse a task that has no attempt left to choose with."""
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
