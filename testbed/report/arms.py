"""Each arm by itself: its summary and its reach curves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from testbed.experiment import Measure
from testbed.report.record import ArmSummary, Curve, Reach
from testbed.stats import (
    ArmOutcomes,
    Estimate,
    Range,
    cluster_bootstrap,
    near_identical,
    reach_at_k,
    reach_curve,
)
from testbed.types import COST_COMPONENTS

FloatArray = npt.NDArray[np.float64]

# Axes of reach curves besides attempts, where an arm recorded them for every attempt.
CURVE_AXES = ("generated_tokens", "model_calls")
POINTS = 40  # of a curve; a reader sees no more


@dataclass(frozen=True, eq=False)
class Arm:
    """An arm as the analysis needs it.

    Attributes:
        name: its name.
        control: absent, inert, yoked or live; empty where unknown.
        tools: names of its tools, sorted.
        sampled: whether its attempts are known to be drawn independently.
        model: what identifies its model; None where unknown.
        outcomes: its attempts; tasks are named by hash.
        clusters: task → cluster label.
        faults: tool faults of each scored attempt.
        ended: how each attempt ended, the missing included.
    """

    name: str
    control: str
    tools: tuple[str, ...]
    sampled: bool
    model: Any
    outcomes: ArmOutcomes
    clusters: Mapping[str, str]
    faults: npt.NDArray[np.int32]
    ended: tuple[str, ...]

    @cached_property
    def scored(self) -> ArmOutcomes:
        """Its attempts on the tasks that have a scored one."""
        return self.outcomes.take(np.flatnonzero(self.outcomes.n > 0))

    def on(self, tasks: Sequence[str]) -> ArmOutcomes:
        """Its attempts on `tasks`, which all have a scored one."""
        position = {task: i for i, task in enumerate(self.scored.tasks)}
        return self.scored.take([position[task] for task in tasks])

    def labels(self, tasks: Sequence[str]) -> list[str]:
        """Cluster labels of `tasks`."""
        return [self.clusters[task] for task in tasks]


def mean(
    values: FloatArray, labels: Sequence[str], settings: Measure, *, least: float = 0.0, greatest: float = 1.0
) -> Estimate:
    """Mean over tasks of `values`, shape (T,), each in [least, greatest], with its interval."""
    found = cluster_bootstrap(
        values,
        least=least,
        greatest=greatest,
        clusters=labels,
        replicates=settings.replicates,
        seed=settings.seed,
    )
    return found.intervals(settings.alpha)[0]


def reach(arm: ArmOutcomes, k: int, labels: Sequence[str], settings: Measure) -> Reach:
    """Mean reach at `k` attempts, or at as many as every task has."""
    k = min(k, int(arm.n.min()))
    return Reach(k, mean(reach_at_k(arm.n, arm.c, k), labels, settings))


def summarise(arm: Arm, settings: Measure, axes: Sequence[str]) -> ArmSummary:
    """The figures of one arm; `axes` are the components of cost that any arm recorded."""
    scored, everything = arm.scored, arm.outcomes
    labels = arm.labels(scored.tasks)
    successes = int(scored.c.sum())
    totals = {axis: float(scored.costs[axis].sum()) if axis in scored.costs else 0.0 for axis in axes}
    return ArmSummary(
        name=arm.name,
        control=arm.control,
        tools=arm.tools,
        tasks=len(scored.tasks),
        attempts=int(scored.n.sum()),
        fewest=int(scored.n.min()),
        most=int(scored.n.max()),
        missing=int(everything.missing.sum()),
        successes=successes,
        solved=int(np.count_nonzero(scored.c)),
        pass_1=mean(scored.c / scored.n, labels, settings),
        if_missing=_if_missing(everything),
        operating=reach(scored, settings.operating, labels, settings),
        elicitation=reach(scored, settings.elicitation, labels, settings),
        cost={axis: total / scored.success.size for axis, total in totals.items()},
        cost_per_success={axis: total / successes if successes else None for axis, total in totals.items()},
        faults=int(arm.faults.sum()),
        faulty=int(np.count_nonzero(arm.faults)),
        ended=dict(sorted(Counter(arm.ended).items())),
        repeats=near_identical(scored),
        sampled=arm.sampled,
    )


def axes_of(arms: Sequence[Arm]) -> tuple[str, ...]:
    """Components of cost that any arm recorded."""
    return tuple(c for c in COST_COMPONENTS if any(c in arm.outcomes.costs for arm in arms))


def curves(arms: Sequence[Arm], axes: Sequence[str], settings: Measure) -> Iterator[Curve]:
    """Reach curves of every arm against attempts and against the recorded `CURVE_AXES`."""
    for axis in ("attempts", *(a for a in CURVE_AXES if a in axes)):
        for arm in arms:
            grid = _grid(arm.scored, axis)
            if grid.size:
                yield _curve(arm, axis, grid, settings)


def _curve(arm: Arm, axis: str, grid: FloatArray, settings: Measure) -> Curve:
    found = reach_curve(arm.scored, grid, axis=axis, seed=settings.seed)
    band = cluster_bootstrap(
        found.lower,
        clusters=arm.labels(arm.scored.tasks),
        replicates=settings.replicates,
        seed=settings.seed,
    ).intervals(settings.alpha)
    return Curve(
        arm=arm.name,
        axis=axis,
        spend=tuple(float(x) for x in grid),
        reach=tuple(float(x) for x in band.value),
        low=None if band.low is None else tuple(float(x) for x in band.low),
        high=None if band.high is None else tuple(float(x) for x in band.high),
    )


def _grid(arm: ArmOutcomes, axis: str) -> FloatArray:
    """Spends, evenly spread on a logarithmic axis, up to what the task that spent least did.

    Beyond that, some task's attempts have run out and its reach may be bounded only.
    """
    if axis == "attempts":
        return np.unique(np.geomspace(1, int(arm.n.min()), POINTS).round())
    if axis not in arm.costs:
        return np.empty(0)
    sums = np.add.reduceat(arm.cost(axis), arm.offsets[:-1])
    least, most = float(arm.cost(axis).min()), float(sums.min())
    if least <= 0:  # an attempt that costs nothing: no spend on this axis limits it
        return np.empty(0)
    grid = np.geomspace(least, max(most, least), POINTS)
    return np.unique(grid.round() if least >= 1 else grid)  # whole tokens and calls, but no fraction of a USD to 0


def _if_missing(arm: ArmOutcomes) -> Range | None:
    if not arm.missing.any():
        return None
    total = arm.n + arm.missing
    return Range(float(np.mean(arm.c / total)), float(np.mean((arm.c + arm.missing) / total)))
