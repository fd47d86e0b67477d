"""From outcomes to the `Analysis` that every form of the report shows. All estimators are `testbed.stats`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from testbed.allocation import recorded_rules
from testbed.errors import UnknownName, UsageError
from testbed.experiment import Measure
from testbed.report.arms import Arm, axes_of, curves, summarise
from testbed.report.compare import compare
from testbed.report.design import asked_for, second_bare, unfinished
from testbed.report.groups import by_group, group_of
from testbed.report.ladder import ladder
from testbed.report.leaks import Found, find_leaks, without
from testbed.report.record import Analysis, ArmComparison, ArmSummary, Leaks, WorstLeak
from testbed.report.searches import searches
from testbed.report.words import leaks_told
from testbed.stats import ArmOutcomes
from testbed.stats.bootstrap import shared_weights
from testbed.stats.stopping import StoppingRule
from testbed.types import COST_COMPONENTS, Task

if TYPE_CHECKING:
    from testbed.store import ArmRecord, Outcomes, Store

__all__ = ["Analysis", "analyse", "analyse_run"]


def analyse_run(
    store: Store, name: str, *, bare: str = "", operating: int | None = None, elicitation: int | None = None
) -> Analysis:
    """Analyses a run of a store as its experiment says.

    Args:
        store: an open store.
        name: the run.
        bare: arm that others are compared with; by default the experiment's, else the one without tools.
        operating: attempts at which arms are read; by default the experiment's.
        elicitation: bare attempts that resampling may spend; by default the experiment's.

    Raises:
        UnknownName: there is no such run or arm.
        UsageError: the run has no attempts yet, or none of its arms shares a task with the bare one.
    """
    run = store.run(name)
    measure = Measure(**run.experiment.get("measure", {}))
    outcomes, rules = store.outcomes(name), recorded_rules(run.experiment)
    found = analyse(
        outcomes,
        name=name,
        bare=bare or measure.bare,
        operating=measure.operating if operating is None else operating,
        elicitation=measure.elicitation if elicitation is None else elicitation,
        rho=measure.rho,
        alpha=measure.alpha,
        replicates=measure.replicates,
        seed=measure.seed,
        rules=rules,
    )
    if "imported" in run.experiment and found.comparisons and not any(c.tasks for c in found.comparisons):
        raise UsageError(_nothing_in_common(outcomes, found.comparisons[0]))
    leaks = _leaks(find_leaks(store, run, outcomes.tasks), found, outcomes, rules)
    first = (unfinished(run, outcomes, rules), leaks_told(leaks))
    return replace(found, leaks=leaks, warnings=(*filter(None, first), *found.warnings))


@shared_weights()
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
    rules: Mapping[str, StoppingRule] | None = None,
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
        rules: by name, the rules of arms whose sampling stopped early. Verdicts are then made from all attempts, every
            other figure from those that were fixed in advance.

    Raises:
        UnknownName: no arm has the name `bare`.
        UsageError: no attempt was scored, or a setting is out of its range.
    """
    settings = Measure(operating, elicitation, rho, alpha, replicates, seed, bare)
    arms = scored_arms(outcomes, rules)
    if not arms:
        raise UsageError(f"run {name!r} has no scored attempt yet, so there is nothing to report.")
    base = bare_arm(outcomes.arms, arms, bare)
    comparisons, copied = _compared(outcomes, arms, base, settings)
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
        warnings=(
            *_warnings(outcomes, arms, base, summaries, comparisons),
            *searches(arms, base, settings),
            *([copied] if copied else []),
        ),
    )


def _compared(
    outcomes: Outcomes, arms: Sequence[Arm], base: Arm | None, settings: Measure
) -> tuple[tuple[ArmComparison, ...], str]:
    """Every other arm against the bare one, and a warning where an arm repeats that."""
    second, copied = second_bare(outcomes, arms, base)
    others = [arm for arm in arms if base is not None and arm is not base]
    return tuple(compare(base, arm, settings, second) for arm in others if base is not None), copied


@shared_weights()
def _leaks(
    found: Found, analysis: Analysis, outcomes: Outcomes, rules: Mapping[str, StoppingRule] | None
) -> Leaks | None:
    """What the guard found, with the headline figures of the tasks that it did not flag; None where it flagged none."""
    if not found.tasks:
        return None
    left = without(outcomes, found.tasks)
    arms = scored_arms(left, rules)
    base = next((arm for arm in arms if arm.name == analysis.bare), None)
    prompts = {task.hash: task.prompt for task in outcomes.tasks}
    return Leaks(
        tasks=len(found.tasks),
        attempts=found.by_arm.total(),
        read=found.read,
        by_arm=dict(found.by_arm),
        worst=WorstLeak(found.attempt, found.arm, prompts[found.task], found.overlap),
        left=len(left.tasks),
        arms=tuple(summarise(arm, analysis.settings, axes_of(arms)) for arm in arms),
        comparisons=_compared(left, arms, base, analysis.settings)[0],
    )


def _nothing_in_common(outcomes: Outcomes, comparison: ArmComparison) -> str:
    names = [arm.name for arm in outcomes.arms]
    examples = []
    for name in (comparison.bare, comparison.arm):
        rows = np.flatnonzero((outcomes.arm == names.index(name)) & (outcomes.success >= 0))
        examples.append(repr(str(outcomes.tasks[int(outcomes.task[rows[0]])].prompt)[:60]))
    return (
        f"arms {comparison.bare!r} and {comparison.arm!r} have no task in common (such as {' and '.join(examples)}): a "
        "comparison is paired and needs the same tasks in both. Import both with a --task column that names them alike."
    )


def scored_arms(outcomes: Outcomes, rules: Mapping[str, StoppingRule] | None = None) -> list[Arm]:
    """Every arm that has a scored attempt; `rules` are those of arms whose sampling stopped early, by name."""
    rules = rules or {}
    asked = asked_for(outcomes, rules)
    hashes = [task.hash for task in outcomes.tasks]
    clusters = {task.hash: task.cluster or task.hash for task in outcomes.tasks}
    found = []
    for position, record in enumerate(outcomes.arms):
        rows = np.flatnonzero(outcomes.arm == position)
        rule, every = rules.get(record.name), None
        if rule is not None:  # missing attempts that the rule no longer asks for are nobody's loss
            task, sample = outcomes.task[rows], outcomes.sample[rows]
            rows = rows[(outcomes.success[rows] >= 0) | (sample < asked[record.name][task])]
        success = outcomes.success[rows]
        scored = success >= 0
        if not scored.any():
            continue
        first = rows
        if rule is not None:
            every = ArmOutcomes.from_codes(record.name, hashes, outcomes.task[rows], success)
            first = rows[outcomes.sample[rows] < rule.least]
            if not (outcomes.success[first] >= 0).any():
                continue
        costs = {c: outcomes.cost[first, i] for i, c in enumerate(COST_COMPONENTS)}
        recorded = {c: np.nan_to_num(values) for c, values in costs.items() if np.nansum(values) > 0}
        found.append(
            Arm(
                name=record.name,
                control=str(record.spec.get("control", "")),
                tools=_tool_names(record.spec),
                sampled=record.spec.get("sampling", {}).get("temperature", 0) > 0,
                model=record.spec.get("model"),
                outcomes=ArmOutcomes.from_codes(
                    record.name, hashes, outcomes.task[first], outcomes.success[first], costs=recorded
                ),
                clusters=clusters,
                faults=outcomes.faults[rows][scored],
                ended=_tally(outcomes.ended[rows]),
                fixed=rule.least if rule is not None else 0,
                every=every,
                lookahead=record.spec.get("lookahead", {}),
            )
        )
    return found


def _tally(codes: npt.NDArray[np.str_]) -> dict[str, int]:
    """How often each of a few codes occurs; a pass for each of them is quicker than sorting texts."""
    found: dict[str, int] = {}
    while codes.size:
        same = codes == codes[0]
        found[str(codes[0])] = int(np.count_nonzero(same))
        codes = codes[~same]
    return found


def _tool_names(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of an arm's tools from its identity: schemas, or plain names in imported specs."""
    names = []
    for tool in spec.get("tools") or ():
        if isinstance(tool, Mapping):
            tool = tool.get("schema", {}).get("function", {}).get("name", "")
        names.append(str(tool))
    return tuple(sorted(filter(None, names)))


def bare_arm(records: Sequence[ArmRecord], arms: Sequence[Arm], wanted: str) -> Arm | None:
    """The arm of that name, else the one without tools, else the one named "bare"; None if there is none."""
    named = {arm.name: arm for arm in arms}
    if wanted:
        if wanted not in named:
            without = " It has no scored attempt yet." if wanted in [r.name for r in records] else ""
            raise UnknownName("arm", wanted, named, hint=f"Give the name of the bare arm.{without}")
        return named[wanted]
    absent = [arm for arm in arms if arm.bare]
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
    for record in outcomes.arms:
        if record.name in present and (replays := record.spec.get("replays")):
            yield (
                f"Arm {record.name!r} was given the recorded results of arm {replays['arm']!r} of run "
                f"{replays['run']!r}, not live ones; its seconds are those of the replay."
            )
    if len(arms) == 1:
        yield f"There is only one arm, {arms[0].name!r}: nothing to compare it with."
    elif bare is None:
        names = ", ".join(repr(arm.name) for arm in arms)
        yield f"No arm is known to be bare, so arms are not compared. Name one with --bare: {names}."
    missing = [f"{arm.name} {arm.missing:,} of {arm.missing + arm.attempts:,}" for arm in summaries if arm.missing]
    if missing:
        yield (
            f"The infrastructure ended attempts of {', '.join(missing)}. They are left out of every figure; how far "
            "they could move it is told beside it."
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
