"""Where a reach curve could lie had the missing attempts ended otherwise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from testbed.stats import ArmOutcomes, Range, reach_curve
from testbed.stats.spend_many import MANY, reach_curve_of_many

FloatArray = npt.NDArray[np.float64]
ORDERINGS = 25_600  # of all tasks of a curve together, on an axis of cost
FEWEST = 8  # of a task


def curve_if_missing(
    arm: ArmOutcomes, axis: str, spends: Sequence[float] | FloatArray, seed: int
) -> tuple[Range, ...] | None:
    """Least and greatest mean reach at each spend; None where nothing is missing.

    Reach rises with an arm's successes and falls with what attempts cost. So it is least if all missing attempts
    failed, each at the greatest cost of the scored ones at its task, and greatest if all succeeded at their least; what
    a lost attempt would really have cost, nothing bounds. Tasks without any scored attempt count, too.

    Args:
        arm: its attempts, the missing ones included.
        axis: "attempts" or a component of cost.
        spends: rising.
        seed: of the orderings on an axis of cost.
    """
    kept = arm.n + arm.missing >= (float(np.max(spends)) if axis == "attempts" else 1)
    own = arm.take(np.flatnonzero(kept)) if kept.any() else arm
    if not own.missing.any():
        return None
    low, high = (_means(own.with_missing(succeed=succeed), axis, spends, seed) for succeed in (False, True))
    return tuple(Range(float(least), float(most)) for least, most in zip(low[0], high[1], strict=True))


def _means(
    arm: ArmOutcomes, axis: str, spends: Sequence[float] | FloatArray, seed: int
) -> tuple[FloatArray, FloatArray]:
    if axis != "attempts" and len(arm.tasks) >= MANY:
        found = reach_curve_of_many(arm, spends, axis=axis, seed=seed)
    else:  # as many orderings of all tasks together as the curve itself has of 100
        found = reach_curve(arm, spends, axis=axis, orderings=max(FEWEST, ORDERINGS // len(arm.tasks)), seed=seed)
    return found.lower.mean(axis=0), found.upper.mean(axis=0)
