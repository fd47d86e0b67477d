"""From outcomes to the `Analysis` that every form of the report shows. All estimators are `testbed.stats`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from testbed.allocation import recorded_rules
from testbed.bare import bare_among
from testbed.causes import Causes
from testbed.errors import UsageError
from testbed.experiment import Measure
from testbed.report.arms import Arm, axes_of, curves, summarise
from testbed.report.checkpoints import with_checkpoints
from testbed.report.compare import compare
from testbed.report.design import asked_for, second_bare, unfinished
from testbed.report.groups import by_group, group_of
from testbed.report.ladder import ladder
from testbed.report.leaks import Found, find_leaks, without
from testbed.report.nats import with_nats
from testbed.report.record import Analysis, ArmComparison, ArmSummary, Leaks, WorstLeak
from testbed.report.searches import searches
from testbed.report.subject import subject_of
from testbed.report.words import leaks_told
from testbed.stats import ArmOutcomes
from testbed.stats.bootstrap import shared_weights
from testbed.stats.repeats import Repeats
from testbed.stats.stopping import StoppingRule
from testbed.types import COST_COMPONENTS, Control, Task

if TYPE_CHECKING:
    from testbed.store import ArmRecord, Outcomes, Run, Store

ENOUGH_CLUSTERS = 20  # of equal size; the coverage with fewer stands in docs/measurement.md

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
    chosen = run.experiment.get("measure", {})
    measure = Measure(**chosen)
    outcomes, rules = store.outcomes(name), recorded_rules(run.experiment)
    if not (outcomes.success >= 0).any():
        raise UsageError(f"run {name!r} has {_nothing_scored(store, run)}, so there is nothing to report.")
    found = analyse(
        outcomes,
        name=name,
        bare=bare or measure.bare,
        operating=measure.operating if operating is None else operating,
        elicitation=measure.elicitation if elicitation is None and "elicitation" in chosen else elicitation,
        rho=measure.rho,
        alpha=measure.alpha,
        replicates=measure.replicates,
        seed=measure.seed,
        rules=rules,
    )
    if "imported" in run.experiment and found.comparisons and not any(c.tasks for c in found.comparisons):
        raise UsageError(_nothing_in_common(outcomes, found.comparisons[0]))
    asked = elicitation is not None or "elicitation" in chosen
    leaks = _leaks(find_leaks(store, run, outcomes.tasks), found, outcomes, rules, asked=asked)
    first = (unfinished(run, outcomes, rules), leaks_told(leaks))
    warnings = (*filter(None, first), *found.warnings)
    found = replace(found, leaks=leaks, subject=subject_of(run, outcomes.tasks), warnings=warnings)
    arms = scored_arms(outcomes, rules)
    found = with_checkpoints(store, run, found, arms, outcomes, rules)
    return with_nats(store, run, found, arms, rules) if store.scores.scorers(name) else found


def _nothing_scored(store: Store, run: Run) -> str:
    causes = Causes()
    for arm in run.arms:
        for attempt in store.missing(run.name, arm.name):
            causes.add(attempt)
    told = causes.told()
    return f"no scored attempt yet: {told}" if told else "no attempt yet"


@shared_weights()
def analyse(
    outcomes: Outcomes,
    *,
    name: str = "",
    bare: str = "",
    operating: int = 1,
    elicitation: int | None = None,
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
        elicitation: bare attempts B that resampling may spend, at least b; fewer likewise. Where left out, 16, or half
            of the bare attempts at the median task where that is less.
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
    wanted = Measure.elicitation if elicitation is None else elicitation
    settings = Measure(operating, wanted, rho, alpha, replicates, seed, bare)
    arms = scored_arms(outcomes, rules)
    if not arms:
        raise UsageError(f"run {name!r} has no scored attempt yet, so there is nothing to report.")
    base = bare_arm(outcomes.arms, arms, bare)
    comparisons, copied = _compared(outcomes, arms, base, settings, asked=elicitation is not None)
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
    outcomes: Outcomes, arms: Sequence[Arm], base: Arm | None, settings: Measure, *, asked: bool
) -> tuple[tuple[ArmComparison, ...], str]:
    """Every other arm against the bare one, and a warning where an arm repeats that."""
    second, copied = second_bare(outcomes, arms, base)
    others = [arm for arm in arms if base is not None and arm is not base]
    return tuple(compare(base, arm, settings, second, asked=asked) for arm in others if base is not None), copied


@shared_weights()
def _leaks(
    found: Found, analysis: Analysis, outcomes: Outcomes, rules: Mapping[str, StoppingRule] | None, *, asked: bool
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
        comparisons=_compared(left, arms, base, analysis.settings, asked=asked)[0],
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
        made = outcomes.success[first] >= 0
        recorded = {
            c: np.nan_to_num(values) for c, values in costs.items() if values[made].sum() > 0
        }  # not if any is NaN
        found.append(
            Arm(
                name=record.name,
                control=str(record.spec.get("control", "")),
                tools=_tool_names(record.spec),
                sampled=record.spec.get("sampling", {}).get("temperature", 0) > 0,
                model=record.spec.get("model"),
                offered=record.spec.get("tools") or (),
                outcomes=ArmOutcomes.from_codes(
                    record.name,
                    hashes,
                    outcomes.task[first],
                    outcomes.success[first],
                    costs=recorded,
                    # A search draws from streams of its own, so its attempts have no partners in other arms.
                    samples=None if record.spec.get("lookahead") else outcomes.sample[first],
                ),
                clusters=clusters,
                faults=outcomes.faults[rows][scored],
                ended=_tally(outcomes.ended[rows]),
                fixed=rule.least if rule is not None else 0,
                every=every,
                lookahead=record.spec.get("lookahead", {}),
                unrecorded=frozenset(c for c, values in costs.items() if np.isnan(values[made]).any()),
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


def _alike(repeats: Repeats) -> str:
    signs = []
    if repeats.icc is not None:
        signs.append(f"intraclass correlation {repeats.icc:.2f}, {repeats.mixed_tasks} of {repeats.tasks} tasks mixed")
    if repeats.identical_costs is not None:
        signs.append(f"equal costs in {repeats.identical_costs:.0%} of pairs")
    return "; ".join(signs)


def _few_clusters(tasks: Sequence[Task]) -> Iterable[str]:
    sizes = np.unique([task.cluster or task.hash for task in tasks], return_counts=True)[1]
    equal = sizes.sum() ** 2 / (sizes**2).sum()
    if sizes.min() < sizes.max() and 1 < equal < ENOUGH_CLUSTERS:
        yield (
            f"The {len(tasks)} tasks come in {sizes.size} clusters of unequal size, worth about {equal:.0f} equal "
            "ones. With so few, intervals hold the truth less often than they say if large clusters are harder or "
            "easier than small ones."
        )


def _never_called(outcomes: Outcomes) -> Iterable[str]:
    for position, record in enumerate(outcomes.arms):
        if record.spec.get("control") != Control.LIVE or not _tool_names(record.spec):
            continue
        own = outcomes.cost[(outcomes.arm == position) & (outcomes.success >= 0), COST_COMPONENTS.index("tool_calls")]
        if own.size and not own.any():  # NaN, of calls that were not recorded, counts as some
            yield (
                f"Arm {record.name!r}: its tools were called in none of {own.size:,} attempts; its gain is that of "
                "offering them."
            )


def _partly_recorded(outcomes: Outcomes) -> Iterable[str]:
    for position, record in enumerate(outcomes.arms):
        own = outcomes.cost[(outcomes.arm == position) & (outcomes.success >= 0)]
        absent = np.isnan(own).sum(axis=0)
        for component, count in zip(COST_COMPONENTS, absent.tolist(), strict=True):
            if 0 < count < len(own) and np.nansum(own[:, COST_COMPONENTS.index(component)]) > 0:
                yield (
                    f"Arm {record.name!r}: {component.replace('_', ' ')} are recorded of {len(own) - count:,} of its "
                    f"{len(own):,} attempts only, so that no figure is made of them."
                )


def _tool_names(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of an arm's tools from its identity: schemas, or plain names in imported specs."""
    names = []
    for tool in spec.get("tools") or ():
        if isinstance(tool, Mapping):
            tool = tool.get("schema", {}).get("function", {}).get("name", "")
        names.append(str(tool))
    return tuple(sorted(filter(None, names)))


def bare_arm(records: Sequence[ArmRecord], arms: Sequence[Arm], wanted: str) -> Arm | None:
    """The arm that others are compared with, among those with a scored attempt; None if there is none."""
    return bare_among(arms, wanted, " It has no scored attempt yet." if wanted in [r.name for r in records] else "")


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
    again = _tally(np.array([outcomes.arms[arm].name for arm in outcomes.arm[outcomes.redrawn]], np.str_))
    missing = [f"{arm.name} {arm.missing:,} of {arm.missing + arm.attempts:,}" for arm in summaries if arm.missing]
    if missing:
        yield (
            f"The infrastructure ended attempts of {', '.join(missing)}. They are left out of every figure; how far "
            "they could move it is told beside it."
        )
    if again:
        yield (
            f"Of these, {', '.join(f'{name} {count:,}' for name, count in again.items())} were made in a further try, "
            "after a fault had ended one in which the model had been at work. It would not write the same again, and "
            "what broke may have chosen what is left: they count as missing."
        )
    if sent := [f"{arm.name} {n:,}" for arm, n in zip(outcomes.arms, outcomes.resent, strict=False) if n]:
        yield (
            f"Requests of {', '.join(sent)} were refused by the server before the model began (too many requests, "
            "overload) and sent again. That cost no reply, and the waits are in no attempt's seconds."
        )
    for arm in summaries:
        if arm.repeats.flagged and not arm.sampled:
            yield (
                f"Arm {arm.name!r}: repeated attempts at a task are nearly identical ({_alike(arm.repeats)}). If they "
                "were not sampled independently, its verdicts and its reach at several attempts claim too much."
            )
    yield from _never_called(outcomes)
    yield from _partly_recorded(outcomes)
    yield from _few_clusters(outcomes.tasks)
    for other in arms:
        if bare is not None and other.model is not None and bare.model is not None and other.model != bare.model:
            whose = "not the tools' alone" if other.tools else "the model's"
            yield f"Arm {other.name!r} runs another model than {bare.name!r}: its gain is {whose}."
    for comparison in comparisons:
        yield from (f"{comparison.arm} against {comparison.bare}: {note}" for note in comparison.notes)
