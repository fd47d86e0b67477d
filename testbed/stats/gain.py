"""Gain = elicitation + creation − loss, exactly, per task and in total (derived here; docs/measurement.md).

With x = R_0(b), y = R_0(B) the bare arm's reach at the operating and the elicitation spend, B ≥ b, and t = R_T(b):

    creation = max(0, t − y)    elicitation = max(0, min(t, y) − x)    loss = max(0, x − t)

so one of three regimes holds: t > y, x ≤ t ≤ y, t < x. The plug-in picks the regime and measures the differences with
the same attempts, which biases creation upward. Cross-fitting picks the regime with one fold of a task's attempts and
measures with the other, averaged over splits: creation and loss are then never biased upward, and the identity
still holds on every split.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from testbed.stats.checks import BoolArray, FloatArray, StatsError, finite, probability, together, whole_numbers

# Decisions compare numbers that are equal in exact arithmetic but may differ in the last bits.
TIE = 1e-12


@dataclass(frozen=True, eq=False)
class Decomposition:
    """The parts of the gain per task, each of shape (T,); gain = elicitation + creation − loss in every row.

    Attributes:
        gain: R_T(b) − R_0(b).
        elicitation: What resampling the bare arm up to B would have reached too.
        creation: What it would not have reached. On a cost axis, where the bare attempts ran out before B, the least
            value that the data allow.
        loss: What the tools broke.
        creation_upper: The greatest value of creation that the data allow; equal to ``creation`` where ``settled``.
        settled: Whether the attempts sufficed for the spends; always True on the axis of attempts.
        cross_fitted: False for the plug-in, whose creation is biased upward.
    """

    gain: FloatArray
    elicitation: FloatArray
    creation: FloatArray
    loss: FloatArray
    creation_upper: FloatArray
    settled: BoolArray
    cross_fitted: bool


def decompose(bare_b: ArrayLike, bare_B: ArrayLike, tool_b: ArrayLike) -> Decomposition:
    """Return the plug-in decomposition of given reaches x = R_0(b) ≤ y = R_0(B), t = R_T(b), each of shape (T,).

    Exact for true reaches. For estimates, creation (and loss) are biased upward: prefer the cross-fitted forms.

    Raises:
        StatsError: NaN, values outside [0, 1], or y < x.
    """
    x, y, t = (np.atleast_1d(probability(v, "reaches")) for v in (bare_b, bare_B, tool_b))
    x, y, t = together(bare_b=x, bare_B=y, tool_b=t)
    if (y < x - TIE).any():
        task = int(np.flatnonzero(y < x - TIE)[0])
        raise StatsError(f"task number {task}: bare reach falls from {x[task]} to {y[task]} as the spend rises")
    creation, loss = np.maximum(0.0, t - y), np.maximum(0.0, x - t)
    return Decomposition(
        t - x, np.maximum(0.0, np.minimum(t, y) - x), creation, loss, creation, np.ones(x.shape, np.bool_), False
    )


def sample_equivalent(bare_reach: ArrayLike, target: float, attempts: ArrayLike) -> int | None:
    """Return the least number of bare attempts whose reach is at least ``target``; None if none listed is (censored).

    Args:
        bare_reach: Reach of the bare arm, not falling, shape (K,).
        target: Reach of the tool arm at its operating spend.
        attempts: The numbers of attempts that belong to ``bare_reach``, rising, shape (K,).
    """
    reach, listed = finite(bare_reach, "reaches"), whole_numbers(attempts, "attempts")
    if reach.shape != listed.shape or reach.ndim != 1:
        raise StatsError(f"{reach.size} reaches for {listed.size} numbers of attempts")
    reached = reach >= finite(target, "the target") - TIE
    return int(listed[int(np.argmax(reached))]) if reached.any() else None
