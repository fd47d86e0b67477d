"""Intervals of the parts of the gain: each end from the form that errs outwards, whatever the folds could tell.

Cross-fitted creation and loss are never biased upward and the plug-ins never downward, so the ones give lower and the
others upper limits; of elicitation, which takes what they leave, the other way round (docs/measurement.md). The parts
are at least 0 by definition, so limits are cut there. Point estimates are not cut: they add up to the gain exactly, and
may be slightly negative.
"""

from __future__ import annotations

from collections.abc import Mapping

from testbed.stats.checks import FloatArray
from testbed.stats.gain import Decomposition
from testbed.stats.intervals import Estimate

Columns = dict[str, tuple[FloatArray, float, float]]


def part_columns(parts: Decomposition) -> Columns:
    """Return the columns to resample for `part_estimates`: name → values per task, and the ends of their range."""
    names = (
        "elicitation", "elicitation_least", "elicitation_most",
        "creation", "creation_most", "creation_upper", "loss", "loss_most",
    )  # fmt: skip
    # A single task's cross-fitted part may be negative: on every split it is a difference of reaches. What adds
    # several estimates may leave [−1, 1] by noise, and on a cost axis also by Monte-Carlo noise.
    columns: Columns = {"gain": (parts.gain, -1.0, 1.0)}
    for name in names:
        values = getattr(parts, name)
        columns[name] = (values, min(-1.0, float(values.min())), max(1.0, float(values.max())))
    return columns


def part_estimates(found: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """Return gain, elicitation_part, creation, creation_upper and loss from the estimates of `part_columns`."""
    creation = between(found["creation"], found["creation"], found["creation_most"])
    return {
        "gain": found["gain"],
        "elicitation_part": between(found["elicitation"], found["elicitation_least"], found["elicitation_most"]),
        "creation": creation,
        "creation_upper": between(found["creation_upper"], found["creation_upper"], creation),
        "loss": between(found["loss"], found["loss"], found["loss_most"]),
    }


def between(value: Estimate, least: Estimate, most: Estimate) -> Estimate:
    """A part in [0, 1], from the lower limit of one form and the upper limit of another."""
    if least.low is None or most.high is None:
        return Estimate(value.value, None, None)
    low = min(max(0.0, least.low), 1.0)
    return Estimate(value.value, low, min(max(low, most.high), 1.0))
