"""From outcomes to the `Analysis` that every form of the report shows. All estimators are `testbed.stats`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from testbed.allocation import recorded_rules
from testbed.causes import Causes
from testbed.errors import UsageError
from testbed.experiment import Measure
from testbed.report.arms import Arm, axes_of, curves, summarise
from testbed.report.cautions import warnings_of
from testbed.report.checkpoints import with_checkpoints
from testbed.report.compare import compare
from testbed.report.copies import Drawn, drawn_arms
from testbed.report.design import second_bare, unfinished
from testbed.report.fronts import cost_fronts, elicitation_frontier
from testbed.report.fronts_missing import fronts_if_missing
from testbed.report.groups import by_group, group_of
from testbed.report.ladder import ladder
from testbed.report.leaks import Found, find_leaks, without
from testbed.report.nats import with_nats
from testbed.report.record import Analysis, ArmComparison, Leaks, WorstLeak
from testbed.report.scored import bare_arm, scored_arms
from testbed.report.searches import searches
from testbed.report.subject import subject_of
from testbed.report.unanswered import unanswered
from testbed.report.uncalled import uncalled
from testbed.report.verdict_map import verdict_map
from testbed.report.words import leaks_told
from testbed.stats.bootstrap import shared_weights
from testbed.stats.stopping import StoppingRule
from testbed.types import Task

if TYPE_CHECKING:
    from testbed.store import Outcomes, Run, Store

__all__ = ["Analysis", "analyse", "analyse_run", "bare_arm", "scored_arms"]


def analyse_run(
    store: Store,
    name: str,
    *,
    bare: str = "",
    operating: int | None = None,
    elicitation: int | None = None,
    option: str = "",
) -> Analysis:
    """Analyses a run of a store as its experiment says.

    Args:
        store: an open store.
        name: the run.
        bare: arm that others are compared with; by default the experiment's, else the one without tools.
        operating: attempts at which arms are read; by default the experiment's.
        elicitation: bare attempts that resampling may spend; by default the experiment's.
        option: of commands that are told, such as " --store results.sqlite".

    Raises:
        UnknownName: there is no such run or arm.
        UsageError: the run has no attempts yet, or none of its arms shares a task with the bare one.
    """
    run = store.run(name)
    chosen = run.experiment.get("measure", {})
    measure = Measure(**chosen)
    outcomes, rules = store.outcomes(name), recorded_rules(run.experiment)
    drawn = drawn_arms(store, run)
    if not (outcomes.success >= 0).any():
        raise UsageError(f"run {name!r} has {_nothing_scored(store, run, option)}, so there is nothing to report.")
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
        wanted=run.samples if (waiting := unfinished(run, outcomes, rules)) else None,
        drawn=drawn,
    )
    if "imported" in run.experiment and found.comparisons and not any(c.tasks for c in found.comparisons):
        raise UsageError(_nothing_in_common(outcomes, found.comparisons[0]))
    asked = elicitation is not None or "elicitation" in chosen
    leaks = _leaks(find_leaks(store, run, outcomes.tasks), found, outcomes, rules, drawn, asked=asked)
    first = (waiting, leaks_told(leaks))
    read = (unanswered(store, run.name, found.arms), uncalled(store, run.name, found.arms))
    warnings = (*filter(None, first), *found.warnings, *chain.from_iterable(read))
    found = replace(found, leaks=leaks, subject=subject_of(run, outcomes.tasks), warnings=warnings)
    arms = scored_arms(outcomes, rules, drawn)
    found = with_checkpoints(store, run, found, arms, outcomes, rules, option)
    return with_nats(store, run, found, arms, rules) if store.scores.scorers(name) else found


def _nothing_scored(store: Store, run: Run, option: str) -> str:
    causes = Causes()
    for arm in run.arms:
        for attempt in store.missing(run.name, arm.name):
            causes.add(attempt)
    told = causes.told(option)
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
    wanted: Mapping[str, int] | None = None,
    drawn: Mapping[str, Drawn] | None = None,
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
        wanted: by name, the attempts per task of arms that are still to be made.
        drawn: by name, how the attempts of arms were drawn; as far as the arms tell where left out.

    Raises:
        UnknownName: no arm has the name `bare`.
        UsageError: no attempt was scored, or a setting is out of its range.
    """
    spend = Measure.elicitation if elicitation is None else elicitation
    settings = Measure(operating, spend, rho, alpha, replicates, seed, bare)
    arms = scored_arms(outcomes, rules, drawn)
    if not arms:
        raise UsageError(f"run {name!r} has no scored attempt yet, so there is nothing to report.")
    base = bare_arm(outcomes.arms, arms, bare)
    comparisons, copied = _compared(outcomes, arms, base, settings, asked=elicitation is not None)
    axes = axes_of(arms)
    summaries = tuple(summarise(arm, settings, axes) for arm in arms)
    fronts = cost_fronts(arms, settings)
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
            *warnings_of(outcomes, arms, base, summaries, comparisons, name, wanted),
            *searches(arms, base, settings),
            *([copied] if copied else []),
        ),
        fronts=fronts,
        fronts_if_missing=fronts_if_missing(fronts, arms),
        frontier=elicitation_frontier(base, arms, settings),
        map=verdict_map(outcomes, arms, comparisons, groups),
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
    found: Found,
    analysis: Analysis,
    outcomes: Outcomes,
    rules: Mapping[str, StoppingRule] | None,
    drawn: Mapping[str, Drawn],
    *,
    asked: bool,
) -> Leaks | None:
    """What the guard found, with the headline figures of the tasks that it did not flag; None where it flagged none."""
    if not found.tasks:
        return None
    left = without(outcomes, found.tasks)
    arms = scored_arms(left, rules, drawn)
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
