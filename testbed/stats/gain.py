"""Gain = elicitation + creation − loss, exactly, per task and in total (derived here; docs/measurement.md).

With x = R_0(b), y = R_0(B) the bare arm's reach at the operating and the elicitation spend, B ≥ b, and t = R_T(b):

    creation = max(0, t − y)    elicitation = max(0, min(t, y) − x)    loss = max(0, x − t)

so one of three regimes holds: t > y, x ≤ t ≤ y, t < x. The plug-in picks the regime and measures the differences with
the same attempts, which biases creation upward. Cross-fitting picks the regime with one fold of a task's attempts and
measures with the other, averaged over splits: creation and loss are then never biased upward, and the identity
still holds on every split. What elicitation gains in it is what creation misses, so it may be biased upward; the
plug-in parts, which err to the other side, bound it: limits of elicitation come from those.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import ArrayLike

from testbed.stats.checks import (
    BoolArray,
    FloatArray,
    IntArray,
    StatsError,
    finite,
    probability,
    together,
    whole_numbers,
)

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
        elicitation_least: Gain less the plug-in creation plus ``loss``: its mean is at most true elicitation.
        elicitation_most: Gain less ``creation`` plus the plug-in loss: its mean is at least true elicitation.
        creation_most: The plug-in creation: its mean is at least true creation.
        loss_most: The plug-in loss: its mean is at least true loss.
        creation_upper: The greatest value of creation that the data allow; equal to ``creation`` where ``settled``.
        settled: Whether the attempts sufficed for the spends; always True on the axis of attempts.
        cross_fitted: False for the plug-in, whose creation and loss are biased upward.
    """

    gain: FloatArray
    elicitation: FloatArray
    creation: FloatArray
    loss: FloatArray
    elicitation_least: FloatArray
    elicitation_most: FloatArray
    creation_most: FloatArray
    loss_most: FloatArray
    creation_upper: FloatArray
    settled: BoolArray
    cross_fitted: bool

    def take(self, rows: IntArray) -> Decomposition:
        """Return the parts of the tasks at positions ``rows``."""
        columns = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "cross_fitted"}
        return replace(self, **columns)


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
    gain, creation, loss = t - x, np.maximum(0.0, t - y), np.maximum(0.0, x - t)
    return Decomposition(
        gain=gain, elicitation=np.maximum(0.0, np.minimum(t, y) - x), creation=creation, loss=loss,
        # Nothing here is too small on average but 0: so the least takes 0 for loss, the most 0 for creation.
        elicitation_least=gain - creation, elicitation_most=gain + loss, creation_most=creation, loss_most=loss,
        creation_upper=creation, settled=np.ones(x.shape, np.bool_), cross_fitted=False,
    )  # fmt: skip


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
