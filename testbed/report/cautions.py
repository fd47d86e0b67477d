"""What a reader must know before believing a figure: the warnings of a report."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from testbed.report.arms import Arm
from testbed.report.copies import how_to_say, repeats_told
from testbed.report.record import ArmComparison, ArmSummary
from testbed.report.scored import tally, tool_names
from testbed.report.words import attempts, counted, in_shell, joined
from testbed.stats import attempts_still_needed
from testbed.stats.verdicts import Status
from testbed.types import AGENT_ERROR, AGENT_SILENT, CONTEXT_FULL, COST_COMPONENTS, Control

if TYPE_CHECKING:
    from testbed.store import Outcomes

RARE = 0.01  # share of an arm's attempts below which faulty calls move no figure worth a warning
ENOUGH_CLUSTERS = 20  # of equal size; the coverage with fewer stands in docs/measurement.md


def warnings_of(
    outcomes: Outcomes,
    arms: Sequence[Arm],
    bare: Arm | None,
    summaries: Iterable[ArmSummary],
    comparisons: Iterable[ArmComparison],
    name: str = "",
    wanted: Mapping[str, int] | None = None,
) -> Iterable[str]:
    """Every warning there is, in the order in which they matter; `name` is the run's, as commands name it.

    `wanted` has the attempts per task of arms that are still to be made, by name.
    """
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
    again = tally(np.array([outcomes.arms[arm].name for arm in outcomes.arm[outcomes.redrawn]], np.str_))
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
    specs = {record.name: record.spec for record in outcomes.arms}
    for arm in summaries:
        yield from repeats_told(f"Arm {arm.name!r}", arm.drawn, arm.repeats, how_to_say(specs[arm.name]))
    for arm in summaries:
        own = f"arm {arm.name!r}"
        yield from mistaken(own, arm.ended, arm.attempts, listing(name, arm.name))
        yield from _faulty(arm)
    yield from _beyond_the_rule(arms)
    imported = any(record.spec.get("imported") for record in outcomes.arms)  # no experiment can ask for more of them
    yield from too_few_for_verdicts(comparisons, hint=not imported, wanted=wanted)
    yield from _never_called(outcomes)
    yield from _partly_recorded(outcomes)
    yield from few_clusters([task.cluster or task.hash for task in outcomes.tasks])
    for other in arms:
        if bare is not None and other.model is not None and bare.model is not None and other.model != bare.model:
            whose = "not the tools' alone" if other.tools else "the model's"
            yield f"Arm {other.name!r} runs another model than {bare.name!r}: its gain is {whose}."
    for comparison in comparisons:
        yield from (f"{comparison.arm} against {comparison.bare}: {note}" for note in comparison.notes)


def mistaken(whose: str, ended: Mapping[str, int], attempts: int, show: str) -> Iterable[str]:
    """Failures that mostly tell of a mistake in an agent or a limit, and not of what a model can do.

    Args:
        whose: the arm.
        ended: how its attempts ended → number.
        attempts: its scored attempts.
        show: the command that lists its failures.
    """
    whole = f"of {counted(attempts, 'attempt')} of {whose}"
    after = f"They count as failures; what was said in them: {show}."
    if raised := ended.get(AGENT_ERROR, 0):
        yield (
            f"In {raised:,} {whole} the agent's own code raised an error, or returned something else than text, so "
            f"that they do not tell what it can do. {after} Mend the agent and run the experiment under another name."
        )
    if (silent := ended.get(AGENT_SILENT, 0)) > attempts / 2:
        yield (
            f"In {silent:,} {whole} the agent returned without an answer, which is text that it returns or sends by "
            f"env.step. {after}"
        )
    if full := ended.get(CONTEXT_FULL, 0):
        yield f"In {full:,} {whole} the model's context was full. {after}"
    for end, count in ended.items():
        if end.startswith("limit:") and end != CONTEXT_FULL and count > attempts / 2:
            limit = end.removeprefix("limit:").replace("_", " ")
            yield f"{count:,} {whole} were ended by the limit on {limit}, which may be too tight to answer within."


def listing(run: str, arm: str) -> str:
    """The command that lists the failures of an arm, ready for a shell."""
    return f"testbed show {in_shell(run)} --arm {shlex.quote(arm)} --failed"


def _beyond_the_rule(arms: Sequence[Arm]) -> Iterable[str]:
    if more := [f"{arm.name} {arm.beyond:,}" for arm in arms if arm.beyond]:
        yield (
            "Attempts beyond what the stopping rule asks for now, as another run in this store made them or missing "
            f"ones were made up for: {', '.join(more)}. Verdicts use them and keep their level; nothing else does."
        )


def _faulty(arm: ArmSummary) -> Iterable[str]:
    called = arm.cost.get("tool_calls", 0.0) * arm.attempts
    if called and arm.faults > called / 2 and arm.faulty >= arm.attempts * RARE:
        yield f"{arm.faults:,} of about {called:,.0f} calls of tools in arm {arm.name!r} were faulty."


def too_few_for_verdicts(
    comparisons: Iterable[ArmComparison], *, hint: bool = True, wanted: Mapping[str, int] | None = None
) -> Iterable[str]:
    """How many bare attempts it takes for a task that they never solve to be out of reach, where there are fewer.

    Tasks that are known to be in the bare arm's reach, as all may be where its sampling stopped early, want no more.

    Args:
        comparisons: of a run.
        hint: also say how to have as many.
        wanted: by name, the attempts per task of arms that are still to be made.
    """
    judged = [c for c in comparisons if c.full is not None and c.full.figures.tasks]
    lacking: dict[tuple[str, str, int, int], list[ArmComparison]] = {}
    for comparison in judged:
        assert comparison.full is not None
        bare = comparison.full.figures.verdicts.bare
        open_ = bare.status != Status.IN
        none = np.zeros_like(bare.n)
        needed = attempts_still_needed(none, none, bare.p_out, bare.p_in, bare.alpha).if_all_fail
        if open_.any() and (bare.n < needed)[open_].all():
            where = "a task" if open_.all() else "a task that is not known to be in its reach"
            lack = (comparison.bare, where, int(bare.n[open_].max()), int(needed[open_].min()))
            lacking.setdefault(lack, []).append(comparison)
    for (name, where, most, needed_), own in lacking.items():
        by = "" if len(own) == len(judged) else f" by {joined([comparison.arm for comparison in own])}"
        # Where attempts broke, more of them would break, too: what broke them comes first.
        more = (
            f" For such verdicts, give it samples = {needed_} (attempts at each task) or more in an experiment of "
            "another name; what was made is used again. That is the least for any verdict of the kind; how many "
            "attempts would settle all tasks, a report's table of verdicts says as still needed."
        )
        if (planned := (wanted or {}).get(name, 0)) >= needed_:
            more = f" The experiment has {planned:,} of it: go on with the run."
        yield (
            f"No task can count as expanded{by} yet: of {name} there are at most {attempts(most)} at {where}, and it "
            f"takes {needed_:,} without a success to show that a task is out of its reach."
            f"{more if hint and not any(comparison.broken for comparison in own) else ''}"
        )


def few_clusters(labels: Sequence[str]) -> Iterable[str]:
    """Says so where tasks, given by the labels of their clusters, come in few clusters of unequal size."""
    sizes = np.unique(labels, return_counts=True)[1]
    equal = sizes.sum() ** 2 / (sizes**2).sum()
    if sizes.min() < sizes.max() and 1 < equal < ENOUGH_CLUSTERS:
        yield (
            f"The {len(labels):,} tasks come in {sizes.size} clusters of unequal size, worth about {equal:.0f} equal "
            "ones. With so few, intervals hold the truth less often than they say if large clusters are harder or "
            "easier than small ones."
        )


def _never_called(outcomes: Outcomes) -> Iterable[str]:
    for position, record in enumerate(outcomes.arms):
        if record.spec.get("control") not in (Control.LIVE, Control.IMAGINED) or not tool_names(record.spec):
            continue
        own = outcomes.cost[(outcomes.arm == position) & (outcomes.success >= 0), COST_COMPONENTS.index("tool_calls")]
        if own.size and not own.any():  # NaN, of calls that were not recorded, counts as some
            yield (
                f"Arm {record.name!r}: its tools were called in none of {attempts(own.size)}; its gain is that of "
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
