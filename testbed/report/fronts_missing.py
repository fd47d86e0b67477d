"""Fronts of cost and reach over the ways in which missing attempts could have ended.

A missing attempt either fails, at the greatest cost of the scored attempts at its task, or succeeds, at their least.
What it would really have cost is bounded by nothing; these ends say how far the picture rests on its being like others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from testbed.report.arms import Arm
from testbed.stats import ArmOutcomes, Range, reach_at_k
from testbed.stats.pareto import CostFront, pareto_front

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PointIfMissing:
    """Where an arm could lie.

    Attributes:
        arm: its name.
        reach: least and greatest mean reach.
        cost: least and greatest mean cost.
        on_front: whether it is on the front however the missing attempts of all arms had ended; None where that
            depends on them.
    """

    arm: str
    reach: Range
    cost: Range
    on_front: bool | None


@dataclass(frozen=True)
class FrontIfMissing:
    """A front with missing attempts either way, on the tasks at which every arm has enough attempts with them.

    Attributes:
        axis: component of cost.
        attempts: attempts at each task.
        tasks: number of tasks, those without a scored attempt included.
        arms: the arms of the front.
    """

    axis: str
    attempts: int
    tasks: int
    arms: tuple[PointIfMissing, ...]


@dataclass(frozen=True, eq=False)
class _Ends:
    """Arms on the same tasks, had all missing attempts failed dearly, and had all succeeded cheaply."""

    failed: tuple[ArmOutcomes, ...]
    succeeded: tuple[ArmOutcomes, ...]


def fronts_if_missing(fronts: Sequence[CostFront], arms: Sequence[Arm]) -> tuple[FrontIfMissing, ...]:
    """The limits of every front of which an arm has missing attempts.

    Args:
        fronts: as `testbed.report.fronts.cost_fronts` makes them.
        arms: the arms of the run.
    """
    named = {arm.name: arm.outcomes for arm in arms if any(other.outcomes.missing.any() for other in arms)}
    made: dict[tuple[tuple[str, ...], int], _Ends | None] = {}  # most fronts have the same arms
    found = []
    for front in fronts if named else ():
        key = (tuple(point.arm for point in front.arms), front.attempts)
        if key not in made:
            made[key] = _ends([named[name] for name in key[0]], front.attempts)
        ends = made[key]
        if ends is not None:
            found.append(_limits(front, ends))
    return tuple(found)


def _ends(arms: Sequence[ArmOutcomes], attempts: int) -> _Ends | None:
    """Of the tasks with so many attempts in every arm, missing ones included; None where none of these is missing."""
    enough = [{arm.tasks[i]: i for i in np.flatnonzero(arm.n + arm.missing >= attempts).tolist()} for arm in arms]
    tasks = [task for task in enough[0] if all(task in others for others in enough[1:])]
    own = [arm.take([places[task] for task in tasks]) for arm, places in zip(arms, enough, strict=True) if tasks]
    if not any(arm.missing.any() for arm in own):
        return None
    return _Ends(*(tuple(arm.with_missing(succeed=succeed) for arm in own) for succeed in (False, True)))


def _limits(front: CostFront, ends: _Ends) -> FrontIfMissing:
    (most, worst), (least, best) = (_corner(arms, front) for arms in (ends.failed, ends.succeeded))
    points = (
        PointIfMissing(
            point.arm,
            Range(float(worst[i]), float(best[i])),
            Range(float(least[i]), float(most[i])),
            _on_front(i, (most, worst), (least, best)),
        )
        for i, point in enumerate(front.arms)
    )
    return FrontIfMissing(front.axis, front.attempts, len(ends.failed[0].tasks), tuple(points))


def _corner(arms: Sequence[ArmOutcomes], front: CostFront) -> tuple[FloatArray, FloatArray]:
    """Mean cost and mean reach of every arm; an axis that an arm has no costs on cost it nothing."""
    cost = [front.attempts * arm.mean_cost(front.axis).mean() if front.axis in arm.costs else 0.0 for arm in arms]
    reach = [np.mean(reach_at_k(arm.n, arm.c, front.attempts, where=arm.where)) for arm in arms]
    return np.array(cost), np.array(reach)


def _on_front(arm: int, failed: tuple[FloatArray, FloatArray], succeeded: tuple[FloatArray, FloatArray]) -> bool | None:
    """An arm's place at its worst beside the others at their best, and the other way round: nothing lies beyond."""
    found = [
        bool(pareto_front(*(_with(theirs, arm, mine) for mine, theirs in zip(own, others, strict=True)))[arm])
        for own, others in ((failed, succeeded), (succeeded, failed))
    ]
    return found[0] if found[0] == found[1] else None


def _with(values: FloatArray, place: int, other: FloatArray) -> FloatArray:
    changed = values.copy()
    changed[place] = other[place]
    return changed


def spoken(on_front: bool | None) -> str:
    """Whether an arm is on the front, in a word."""
    return "depends" if on_front is None else "yes" if on_front else "no"


def points_of(found: Sequence[FrontIfMissing], axis: str) -> Iterator[PointIfMissing]:
    """The limits of the arms on an axis; none where no attempt is missing."""
    for front in found:
        if front.axis == axis:
            yield from front.arms
