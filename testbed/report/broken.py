"""Attempts that an error of the agent's own ended: failures by contract, and no evidence of what the agent can do.

They count as failures in every figure. A claim must hold however they would have ended, like one with missing attempts:
a bare arm that stops at a NameError would else make any tool look as if it created what the arm never tried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from testbed.experiment import Measure
from testbed.report.arms import Arm
from testbed.stats import Accessibility, ArmOutcomes, Status, Verdicts, accessibility, verdicts
from testbed.stats.verdicts import statuses

IntArray = npt.NDArray[np.int64]
OPEN = ", errors left open"  # after the name of an arm whose attempts stand beside its own as they were counted


def broken_of(*arms: Arm) -> dict[str, tuple[int, int]]:
    """Attempts of each arm that an error of its agent's own ended, and of how many; arms without any are left out."""
    counts = {arm.name: (int(broken_on(arm, arm.judged.tasks).sum()), int(arm.judged.n.sum())) for arm in arms}
    return {name: found for name, found in counts.items() if found[0]}


def left_open(arm: Arm, tasks: Sequence[str]) -> ArmOutcomes:
    """Its attempts on `tasks` with the broken ones missing, under a name of their own where there are such."""
    found = arm.open_on(tasks)
    return found if arm.unbroken is None else replace(found, arm=f"{arm.name}{OPEN}")


def judged(arms: Sequence[Arm]) -> Mapping[str, ArmOutcomes]:
    """All attempts of the arms whose sampling stopped early by name, also as `left_open` names them."""
    every = {arm.name: arm.every for arm in arms if arm.every is not None}
    unbroken = {f"{arm.name}{OPEN}": arm.every_unbroken for arm in arms if arm.every_unbroken is not None}
    return {**every, **unbroken}


def verdicts_left_open(found: Verdicts, tasks: Sequence[str], bare: Arm, arm: Arm, settings: Measure) -> Verdicts:
    """The verdicts that hold however broken attempts would have ended; the others are undetermined.

    Args:
        found: verdicts that count them as failures.
        tasks: the tasks that these are about.
        bare: the bare arm.
        arm: the other.
        settings: spend, rho and level of the verdicts.
    """
    return verdicts(_left_open(found.bare, tasks, bare, settings), _left_open(found.tool, tasks, arm, settings))


def _left_open(found: Accessibility, tasks: Sequence[str], arm: Arm, settings: Measure) -> Accessibility:
    """What is within reach with the broken attempts failing, and out of reach with all of them succeeding."""
    every, broken = arm.judged_on(tasks), broken_on(arm, tasks)
    if not broken.any():
        return found
    best = accessibility(
        every.n, every.c + broken, settings.elicitation, rho=settings.rho, alpha=settings.alpha, where=every.where
    )
    log_e_out = np.minimum(found.log_e_out, best.log_e_out)
    status = statuses(found.log_e_in, log_e_out, found.alpha)
    # What broken attempts alone leave open, no number of further ones like them would settle.
    unsettled = (status != found.status) | ((status == Status.UNDETERMINED) & (broken == every.n))
    needed = np.where(unsettled, np.inf, found.needed.at_this_rate)
    return replace(found, status=status, log_e_out=log_e_out, needed=replace(found.needed, at_this_rate=needed))


def broken_on(arm: Arm, tasks: Sequence[str]) -> IntArray:
    """Broken attempts at each of `tasks`."""
    every, unbroken = arm.judged, arm.unbroken if arm.every is None else arm.every_unbroken
    if unbroken is None:
        return np.zeros(len(tasks), np.int64)
    scored = [dict(zip(form.tasks, form.n.tolist(), strict=True)) for form in (every, unbroken)]
    return np.array([scored[0][task] - scored[1][task] for task in tasks], np.int64)
