"""Each arm by itself: its summary and its reach curves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from testbed.experiment import Measure
from testbed.report.copies import Drawn
from testbed.report.curves_missing import curve_if_missing
from testbed.report.record import ArmSummary, Curve, Reach
from testbed.stats import (
    ArmOutcomes,
    Estimate,
    Range,
    cluster_bootstrap,
    near_identical,
    reach_at_k,
    reach_bands,
)
from testbed.types import COST_COMPONENTS, Control

FloatArray = npt.NDArray[np.float64]

# Axes of reach curves besides attempts, where an arm recorded them for every attempt.
CURVE_AXES = ("generated_tokens", "model_calls", "seconds", "usd")
POINTS = 40  # of a curve; a reader sees no more


@dataclass(frozen=True, eq=False)
class Arm:
    """An arm as the analysis needs it.

    Attributes:
        name: its name.
        control: absent, inert, imagined, yoked or live; empty where unknown.
        tools: names of its tools, sorted.
        drawn: whether its attempts were drawn independently, as far as anybody says.
        model: what identifies its model; None where unknown.
        outcomes: its attempts; tasks are named by hash. Of an arm whose sampling stopped early, those that were made
            whatever their outcomes: the number of the others depends on what they showed, which biases every mean.
        clusters: task → cluster label.
        faults: tool faults of each scored attempt.
        ended: how attempts ended → number, the missing included.
        fixed: attempts per task that were made whatever their outcomes; 0 where all were.
        every: all its attempts, where sampling stopped early.
        beyond: how many of these, scored, lie beyond what the stopping rule asks for, as other runs made them.
        unbroken: as `outcomes`, with those missing that an error of the agent's own ended; None without any such.
        every_unbroken: as `every`, likewise.
        lookahead: how its attempts search over the environment; empty where they do not.
        unrecorded: components of cost that are not known of every scored attempt.
        offered: what identifies each of its tools, under its control.
    """

    name: str
    control: str
    tools: tuple[str, ...]
    drawn: Drawn
    model: Any
    outcomes: ArmOutcomes
    clusters: Mapping[str, str]
    faults: npt.NDArray[np.int32]
    ended: Mapping[str, int]
    fixed: int = 0
    every: ArmOutcomes | None = None
    unbroken: ArmOutcomes | None = None
    every_unbroken: ArmOutcomes | None = None
    lookahead: Mapping[str, Any] = field(default_factory=dict)
    unrecorded: frozenset[str] = frozenset()
    offered: Sequence[Any] = ()
    beyond: int = 0

    @property
    def bare(self) -> bool:
        """Whether it has nothing that could add to the model: no tools and no search."""
        return self.control == Control.ABSENT and not self.lookahead

    @property
    def judged(self) -> ArmOutcomes:
        """All its attempts: what verdicts are made from."""
        return self.outcomes if self.every is None else self.every

    @property
    def open(self) -> ArmOutcomes:
        """Its attempts, all of those missing that do not say what it can do: see `testbed.report.broken`."""
        return self.outcomes if self.unbroken is None else self.unbroken

    def open_on(self, tasks: Sequence[str]) -> ArmOutcomes:
        """The same on `tasks`, which all have an attempt."""
        position = {task: i for i, task in enumerate(self.open.tasks)}
        return self.open.take([position[task] for task in tasks])

    def mapped(self, change: Callable[[ArmOutcomes], ArmOutcomes]) -> Arm:
        """The arm with its attempts changed, in every form in which it has them."""

        def of(own: ArmOutcomes | None) -> ArmOutcomes | None:
            return None if own is None else change(own)

        return replace(
            self,
            outcomes=change(self.outcomes),
            every=of(self.every),
            unbroken=of(self.unbroken),
            every_unbroken=of(self.every_unbroken),
        )

    @cached_property
    def scored(self) -> ArmOutcomes:
        """Its attempts on the tasks that have a scored one."""
        return self.outcomes.take(np.flatnonzero(self.outcomes.n > 0))

    def on(self, tasks: Sequence[str], *, unscored: bool = False) -> ArmOutcomes:
        """Its attempts on `tasks`, which all have a scored one, or with `unscored` at least a missing one."""
        chosen = self.outcomes if unscored else self.scored
        position = {task: i for i, task in enumerate(chosen.tasks)}
        return chosen.take([position[task] for task in tasks])

    def judged_on(self, tasks: Sequence[str]) -> ArmOutcomes:
        """All its attempts on `tasks`, as verdicts are made from them."""
        position = {task: i for i, task in enumerate(self.judged.tasks)}
        return self.judged.take([position[task] for task in tasks])

    def on_two(self) -> ArmOutcomes | None:
        """Its attempts on the tasks that have two scored ones: one to choose with, one to measure with."""
        kept = np.flatnonzero(self.outcomes.n >= 2)
        return self.outcomes.take(kept) if kept.size else None

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


def if_missing(arm: ArmOutcomes, k: int) -> Range | None:
    """Least and greatest mean reach at `k` attempts over the ways in which missing attempts could have ended.

    Over all tasks that have `k` attempts, the missing ones included, so also those of which none was scored.
    """
    total = arm.n + arm.missing
    kept = total >= k
    if not arm.missing.any() or not kept.any():
        return None
    ends = (arm.c[kept], (arm.c + arm.missing)[kept])
    low, high = (float(np.mean(reach_at_k(total[kept], c, k))) for c in ends)
    return Range(low, high)


def gain_if_missing(lower: Arm, upper: Arm, tasks: Sequence[str] | None, k: int) -> Range | None:
    """Least and greatest mean difference of reach at `k` attempts over the ways in which missing ones could have ended.

    Those that an error of an agent's own ended count as missing here.

    Args:
        lower: the arm stepped from.
        upper: the arm stepped to.
        tasks: which tasks; all where None. Those count that have `k` attempts in both, the missing ones included.
        k: attempts.
    """
    wanted = None if tasks is None else set(tasks)
    first, second = (
        {o.tasks[i] for i in np.flatnonzero(o.n + o.missing >= k).tolist()} for o in (lower.open, upper.open)
    )
    made = first & second if wanted is None else first & second & wanted
    own = [task for task in lower.outcomes.tasks if task in made]
    if not own:
        return None
    before, after = lower.open_on(own), upper.open_on(own)
    if not before.missing.any() and not after.missing.any():
        return None
    (worst, best), (least, most) = (
        [reach_at_k(arm.n + arm.missing, c, k) for c in (arm.c, arm.c + arm.missing)] for arm in (before, after)
    )
    return Range(float((least - best).mean()), float((most - worst).mean()))


def summarise(arm: Arm, settings: Measure, axes: Sequence[str]) -> ArmSummary:
    """The figures of one arm; `axes` are the components of cost that any arm recorded."""
    scored, everything = arm.scored, arm.judged
    some = everything.n[everything.n > 0]
    operating, elicitation = (min(k, int(scored.n.min())) for k in (settings.operating, settings.elicitation))
    labels = arm.labels(scored.tasks)
    successes = int(scored.c.sum())
    known = [axis for axis in axes if axis not in arm.unrecorded]
    totals = {axis: float(scored.costs[axis].sum()) if axis in scored.costs else 0.0 for axis in known}
    return ArmSummary(
        name=arm.name,
        control=arm.control,
        tools=arm.tools,
        tasks=len(scored.tasks),
        attempts=int(some.sum()),
        fewest=int(some.min()),
        most=int(some.max()),
        fixed=arm.fixed,
        missing=int(everything.missing.sum()),
        successes=successes,
        solved=int(np.count_nonzero(scored.c)),
        pass_1=mean(scored.c / scored.n, labels, settings),
        if_missing=if_missing(arm.outcomes, 1),
        operating=reach(scored, settings.operating, labels, settings),
        elicitation=reach(scored, settings.elicitation, labels, settings),
        operating_if_missing=if_missing(arm.outcomes, operating),
        elicitation_if_missing=if_missing(arm.outcomes, elicitation),
        cost={axis: total / scored.success.size for axis, total in totals.items()},
        cost_per_success={axis: total / successes if successes else None for axis, total in totals.items()},
        faults=int(arm.faults.sum()),
        faulty=int(np.count_nonzero(arm.faults)),
        ended=dict(sorted(arm.ended.items())),
        repeats=near_identical(scored),
        sampled=arm.drawn.known,
        stated=arm.drawn.stated,
        same_answers=arm.drawn.same_answers,
    )


def axes_of(arms: Sequence[Arm]) -> tuple[str, ...]:
    """Components of cost that any arm recorded."""
    return tuple(c for c in COST_COMPONENTS if any(c in arm.outcomes.costs for arm in arms))


def curves(arms: Sequence[Arm], axes: Sequence[str], settings: Measure) -> Iterator[Curve]:
    """Reach curves of every arm against attempts and against the recorded `CURVE_AXES`, with a band per axis."""
    for axis in ("attempts", *(a for a in CURVE_AXES if a in axes)):
        spans = {arm.name: span for arm in arms if (span := _span(arm.scored, axis)) is not None}
        drawn = [arm for arm in arms if arm.name in spans]
        if drawn:
            yield from _curves(drawn, axis, _parts(list(spans.values()), axis), settings)


def _curves(arms: Sequence[Arm], axis: str, grids: Sequence[FloatArray], settings: Measure) -> Iterator[Curve]:
    bands = reach_bands(
        [arm.scored for arm in arms],
        grids,
        axis=axis,
        clusters={task: label for arm in arms for task, label in arm.clusters.items()},
        alpha=settings.alpha,
        replicates=settings.replicates,
        seed=settings.seed,
    )
    for arm, grid, band in zip(arms, grids, bands, strict=True):
        yield Curve(
            arm=arm.name,
            axis=axis,
            spend=tuple(float(x) for x in grid),
            reach=tuple(float(x) for x in band.value),
            low=None if band.low is None else tuple(float(x) for x in band.low),
            high=None if band.high is None else tuple(float(x) for x in band.high),
            if_missing=curve_if_missing(arm.outcomes, axis, grid, settings.seed),
        )


def _span(arm: ArmOutcomes, axis: str) -> tuple[float, float] | None:
    """Spends between the cheapest attempt and what the task that spent least did; None where the axis limits nothing.

    Beyond that, some task's attempts have run out and its reach may be bounded only.
    """
    if axis == "attempts":
        return 1.0, float(arm.n.min())
    if axis not in arm.costs:
        return None
    sums = np.add.reduceat(arm.cost(axis), arm.offsets[:-1])
    least, most = float(arm.cost(axis).min()), float(sums.min())
    return None if least <= 0 else (least, max(most, least))  # an attempt that costs nothing: no spend limits it


def _parts(spans: Sequence[tuple[float, float]], axis: str) -> list[FloatArray]:
    """Each arm's part of one grid for all, evenly spread on a logarithmic axis; its own ends belong to it."""
    least, most = min(low for low, _ in spans), max(high for _, high in spans)
    inner = np.geomspace(least, most, POINTS)
    if least >= 1:
        inner = inner.round()  # whole attempts, tokens and calls, but no fraction of a USD to 0
    grid = np.unique(np.concatenate([inner, np.ravel(spans)]))
    return [grid[(grid >= low) & (grid <= high)] for low, high in spans]
