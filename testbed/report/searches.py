"""What a reader must know of arms whose attempts are searches: who checked, and how much of the bare arm one costs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from testbed.experiment import Measure
from testbed.report.arms import Arm

AXES = {"generated_tokens": "generated tokens", "model_calls": "model calls"}


def searches(arms: Sequence[Arm], bare: Arm | None, settings: Measure) -> Iterator[str]:
    """A sentence or two for each arm that looks ahead.

    Args:
        arms: the arms of the report.
        bare: the arm that they are compared with; None where there is none.
        settings: how they are read.
    """
    for arm in arms:
        if arm.lookahead:
            yield f"Arm {arm.name!r} {_how(arm)}{_price(arm, bare, settings)}"


def _how(arm: Arm) -> str:
    kind, n = arm.lookahead.get("kind"), arm.lookahead.get("n")
    if kind == "tree":
        return (
            "plans by trying moves on clones of the environment's game, which are a perfect simulator of it; an agent "
            "that has none cannot do what it does."
        )
    if arm.lookahead.get("check") == "grader":
        return (
            f"submits the first of up to {n} candidates that the grader itself accepts. That is an oracle, which "
            "nobody has who needs the answer: its success is what resampling with a perfect checker reaches, no more."
        )
    return f"submits the first of up to {n} candidates that a public check accepts, which needs nothing hidden."


def _price(arm: Arm, bare: Arm | None, settings: Measure) -> str:
    """What one attempt costs in attempts of the bare arm, and whether resampling may spend as much on every task."""
    present = set(arm.scored.tasks)
    common = [task for task in bare.scored.tasks if task in present] if bare is not None and bare is not arm else []
    if bare is None or not common:
        return ""
    own, others = arm.on(common), bare.on(common)
    recorded = [axis for axis in AXES if axis in own.costs and axis in others.costs and others.costs[axis].min() > 0]
    if not recorded:
        return ""
    prices = {axis: own.mean_cost(axis) / others.mean_cost(axis) for axis in recorded}
    axis = max(recorded, key=lambda axis: float(prices[axis].max()))
    mean, most = float(prices[axis].mean()), float(prices[axis].max())
    said = (
        f" One attempt costs as much as {mean:.3g} of {bare.name!r} in {AXES[axis]}, mean over tasks, and "
        f"{most:.3g} at the dearest task."
    )
    least = math.ceil(most - 1e-9)
    if least <= settings.elicitation:
        return said
    return (
        f"{said} Resampling may spend only {settings.elicitation}: part of what reads as creation may be mere "
        f"spending. Read it with elicitation = {least} or more."
    )
