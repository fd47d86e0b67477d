"""From outcomes to the `Analysis` that every form of the report shows. All estimators are `testbed.stats`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from testbed.errors import UnknownName, UsageError
from testbed.experiment import Measure
from testbed.report.arms import Arm, axes_of, curves, summarise
from testbed.report.compare import compare
from testbed.report.groups import by_group, group_of
from testbed.report.ladder import ladder
from testbed.report.record import Analysis, ArmComparison, ArmSummary
from testbed.stats import ArmOutcomes
from testbed.types import COST_COMPONENTS, Control, Task

if TYPE_CHECKING:
    from testbed.store import ArmRecord, Outcomes, Store

__all__ = ["Analysis", "analyse", "analyse_run"]


def analyse_run(store: Store, name: str, *, bare: str = "") -> Analysis:
    """Analyses a run of a store as its experiment says.

    Args:
        store: an open store.
        name: the run.
        bare: arm that others are compared with; by default the experiment's, else the one without tools.

    Raises:
        UnknownName: there is no such run or arm.
        UsageError: the run has no attempts yet.
    """
    run = store.run(name)
    measure = Measure(**run.experiment.get("measure", {}))
    outcomes = store.outcomes(name)
    found = analyse(
        outcomes,
        name=name,
        bare=bare or measure.bare,
        operating=measure.operating,
        elicitation=measure.elicitation,
        rho=measure.rho,
        alpha=measure.alpha,
        replicates=measure.replicates,
        seed=measure.seed,
    )
    planned = len(outcomes.tasks) * sum(run.samples.get(arm.name, 0) for arm in run.arms)
    made = len(outcomes.task)
    if "imported" not in run.experiment and made < planned:
        unfinished = f"The run is not finished: {made:,} of {planned:,} attempts were made."
        found = replace(found, warnings=(unfinished, *found.warnings))
    return found


def analyse(
    outcomes: Outcomes,
    *,
    name: str = "",
    bare: str = "",
    operating: int = 1,
    elicitation: int = 16,
    rho: float = 0.5,
    alpha: float = 0.05,
    replicates: int = 2000,
    seed: int = 0,
    groups: Callable[[Task], str] = group_of,
) -> Analysis:
    """Analyses the outcomes of a run.

    Args:
        outcomes: the attempts.
        name: what to call the run.
        bare: arm that others are compared with; by default the one whose control is absent, or whose name is "bare".
        operating: attempts b at which arms are compared, at least 1; fewer where an arm has not so many.
        elicitation: bare attempts B that resampling may spend, at least b; fewer likewise.
        rho: reach from which a task counts as accessible, in (0, 1).
        alpha: level of the verdicts; intervals have level 1 − alpha.
        replicates: bootstrap replicates, at least 100.
        seed: seed of the bootstrap and of random splits.
        groups: the label of a task's group.

    Raises:
        UnknownName: no arm has the name `bare`.
        UsageError: no attempt was scored, or a setting is out of its range.
    """
    settings = Measure(operating, elicitation, rho, alpha, replicates, seed, bare)
    arms = _arms(outcomes)
    if not arms:
        raise UsageError(f"run {name!r} has no scored attempt yet, so there is nothing to report.")
    base = _bare(outcomes.arms, arms, bare)
    others = [arm for arm in arms if base is not None and arm is not base]
    comparisons = tuple(compare(base, arm, settings) for arm in others if base is not None)
    axes = axes_of(arms)
    summaries = tuple(summarise(arm, settings, axes) for arm in arms)
    return Analysis(
        name=name,
        settings=settings,
        tasks=len(outcomes.tasks),
        bare=base.name if base else None,
        arms=summaries,
        comparisons=comparisons,
        groups=by_group(arms, base, comparisons, outcomes.tasks, groups, settings),
        ladder=ladder(arms, base, settings),
        curves=tuple(curves(arms, axes, settings)),
        warnings=tuple(_warnings(outcomes, arms, base, summaries, comparisons)),
    )


def _arms(outcomes: Outcomes) -> list[Arm]:
    """Every arm that has a scored attempt."""
    hashes = [task.hash for task in outcomes.tasks]
    clusters = {task.hash: task.cluster or task.hash for task in outcomes.tasks}
    found = []
    for position, record in enumerate(outcomes.arms):
        rows = np.flatnonzero(outcomes.arm == position)
        success = outcomes.success[rows].astype(np.float64)
        if not (success >= 0).any():
            continue
        success[success < 0] = np.nan
        costs = {c: outcomes.cost[rows, i] for i, c in enumerate(COST_COMPONENTS)}
        names = [hashes[t] for t in outcomes.task[rows]]
        recorded = {c: np.nan_to_num(values) for c, values in costs.items() if np.nansum(values) > 0}
        scored = outcomes.success[rows] >= 0
        found.append(
            Arm(
                name=record.name,
                control=str(record.spec.get("control", "")),
                tools=_tool_names(record.spec),
                sampled=record.spec.get("sampling", {}).get("temperature", 0) > 0,
                model=record.spec.get("model"),
                outcomes=ArmOutcomes.from_rows(record.name, names, success, costs=recorded),
                clusters=clusters,
                faults=outcomes.faults[rows][scored],
                ended=tuple(str(code) for code in outcomes.ended[rows]),
            )
        )
    return found


def _tool_names(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of an arm's tools from its identity: schemas, or plain names in imported specs."""
    names = []
    for tool in spec.get("tools") or ():
        if isinstance(tool, Mapping):
            tool = tool.get("schema", {}).get("function", {}).get("name", "")
        names.append(str(tool))
    return tuple(sorted(filter(None, names)))


def _bare(records: Sequence[ArmRecord], arms: Sequence[Arm], wanted: str) -> Arm | None:
    named = {arm.name: arm for arm in arms}
    if wanted:
        if wanted not in named:
            without = " It has no scored attempt yet." if wanted in [r.name for r in records] else ""
            raise UnknownName("arm", wanted, named, hint=f"Give the name of the bare arm.{without}")
        return named[wanted]
    absent = [arm for arm in arms if arm.control == Control.ABSENT]
    return absent[0] if absent else named.get("bare")


def _warnings(
    outcomes: Outcomes,
    arms: Sequence[Arm],
    bare: Arm | None,
    summaries: Iterable[ArmSummary],
    comparisons: Iterable[ArmComparison],
) -> Iterable[str]:
    present = {arm.name for arm in arms}
    for record in outcomes.arms:
        if record.name not in present:
            yield f"Arm {record.name!r} has no scored attempt and is left out."
    if len(arms) == 1:
        yield f"There is only one arm, {arms[0].name!r}: nothing to compare it with."
    elif bare is None:
        names = ", ".join(repr(arm.name) for arm in arms)
        yield f"No arm is known to be bare, so arms are not compared. Name one with --bare: {names}."
    missing = [f"{arm.name} {arm.missing:,} of {arm.missing + arm.attempts:,}" for arm in summaries if arm.missing]
    if missing:
        yield (
            f"The infrastructure ended attempts of {', '.join(missing)}. They are left out of every figure; bounds "
            "stand beside pass@1."
        )
    for arm in summaries:
        if arm.repeats.flagged and not arm.sampled:
            yield (
                f"Arm {arm.name!r}: repeated attempts at a task are nearly identical (intraclass correlation "
                f"{arm.repeats.icc:.2f}, {arm.repeats.mixed_tasks} of {arm.repeats.tasks} tasks mixed). If they were "
                "not sampled independently, its verdicts and its reach at several attempts claim too much."
            )
    for other in arms:
        if bare is not None and other.model is not None and bare.model is not None and other.model != bare.model:
            yield f"Arm {other.name!r} runs another model than {bare.name!r}: its gain is not the tools' alone."
    for comparison in comparisons:
        yield from (f"{comparison.arm} against {comparison.bare}: {note}" for note in comparison.notes)
