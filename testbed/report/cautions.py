"""What a reader must know before believing a figure: the warnings of a report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from testbed.report.arms import Arm
from testbed.report.record import ArmComparison, ArmSummary
from testbed.report.scored import tally, tool_names
from testbed.stats import attempts_still_needed
from testbed.stats.repeats import Repeats
from testbed.types import AGENT_ERROR, CONTEXT_FULL, COST_COMPONENTS, Control, Task

if TYPE_CHECKING:
    from testbed.store import Outcomes

ENOUGH_CLUSTERS = 20  # of equal size; the coverage with fewer stands in docs/measurement.md


def warnings_of(
    outcomes: Outcomes,
    arms: Sequence[Arm],
    bare: Arm | None,
    summaries: Iterable[ArmSummary],
    comparisons: Iterable[ArmComparison],
) -> Iterable[str]:
    """Every warning there is, in the order in which they matter."""
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
    for arm in summaries:
        if arm.repeats.flagged and not arm.sampled:
            yield (
                f"Arm {arm.name!r}: repeated attempts at a task are nearly identical ({_alike(arm.repeats)}). If they "
                "were not sampled independently, its verdicts and its reach at several attempts claim too much."
            )
    for arm in summaries:
        yield from _broken(arm)
    yield from _too_few_for_verdicts(comparisons)
    yield from _never_called(outcomes)
    yield from _partly_recorded(outcomes)
    yield from _few_clusters(outcomes.tasks)
    for other in arms:
        if bare is not None and other.model is not None and bare.model is not None and other.model != bare.model:
            whose = "not the tools' alone" if other.tools else "the model's"
            yield f"Arm {other.name!r} runs another model than {bare.name!r}: its gain is {whose}."
    for comparison in comparisons:
        yield from (f"{comparison.arm} against {comparison.bare}: {note}" for note in comparison.notes)


def _broken(arm: ArmSummary) -> Iterable[str]:
    """Failures that mostly tell of a mistake in an agent, a tool or a limit, and not of what a model can do."""
    whole = f"of {arm.attempts:,} attempts of arm {arm.name!r}"
    after = f"They count as failures; what was said in them: testbed show RUN --arm {arm.name!r} --failed."
    if raised := arm.ended.get(AGENT_ERROR, 0):
        yield f"In {raised:,} {whole} the agent's own code raised an error. {after}"
    if full := arm.ended.get(CONTEXT_FULL, 0):
        yield f"In {full:,} {whole} the model's context was full. {after}"
    for end, count in arm.ended.items():
        if end.startswith("limit:") and end != CONTEXT_FULL and count > arm.attempts / 2:
            limit = end.removeprefix("limit:").replace("_", " ")
            yield f"{count:,} {whole} were ended by the limit on {limit}, which may be too tight to answer within."
    called = arm.cost.get("tool_calls", 0.0) * arm.attempts
    if called and arm.faults > called / 2:
        yield f"{arm.faults:,} of about {called:,.0f} calls of tools in arm {arm.name!r} were faulty."


def _too_few_for_verdicts(comparisons: Iterable[ArmComparison]) -> Iterable[str]:
    """How many bare attempts it takes for a task that they never solve to be out of reach, where there are fewer."""
    for comparison in comparisons:
        if comparison.full is None or not comparison.full.figures.tasks:
            continue
        bare = comparison.full.figures.verdicts.bare
        none = np.zeros_like(bare.n)
        needed = attempts_still_needed(none, none, bare.p_out, bare.p_in, bare.alpha).if_all_fail
        if (bare.n < needed).all():
            yield (
                f"No task can count as expanded yet: of {comparison.bare} there are at most {bare.n.max():,} attempts "
                f"at a task, and it takes {needed.min():,.0f} without a success to show that a task is out of its "
                f"reach. For such verdicts, give it samples = {needed.min():.0f} in an experiment of another name; "
                "what was made is used again."
            )
            return


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
        if record.spec.get("control") != Control.LIVE or not tool_names(record.spec):
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
