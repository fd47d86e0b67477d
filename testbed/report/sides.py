"""One arm of one run, as a side of a comparison; and which arm is meant where none is named."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from testbed.allocation import recorded_rules
from testbed.bare import bare_among
from testbed.errors import UnknownName, UsageError
from testbed.experiment import Measure
from testbed.report.arms import Arm
from testbed.report.copies import drawn_arms
from testbed.report.design import unfinished
from testbed.report.divergence import Reading, readings
from testbed.report.scored import scored_arms
from testbed.stats import ArmOutcomes
from testbed.stats.stopping import StoppingRule

if TYPE_CHECKING:
    from testbed.store import ArmRecord, Outcomes, Run, Store
    from testbed.types import Task


@dataclass(frozen=True)
class Named:
    """A run and an arm as somebody names them: "demo:python", or "demo" alone.

    Attributes:
        run: the run.
        arm: the arm's name; empty where it was left out.
    """

    run: Run
    arm: str


@dataclass(frozen=True, eq=False)
class Side:
    """One arm of one run.

    Attributes:
        letter: "A" or "B".
        run: the run.
        record: the arm as the store keeps it.
        arm: its outcomes, for analysis; its name is the letter.
        tasks: of the run.
        outcomes: of the run, its attempts alone.
        unfinished: a warning where attempts of the run are still wanted; else empty.
        measure: how the run's experiment reads it.
        rule: by which its sampling stops early; None where all attempts are made.
        bare: whether it has no tools and no search, or is the arm that its run's report calls bare.
        readings: what models of other weights give its attempts.
    """

    letter: str
    run: Run
    record: ArmRecord
    arm: Arm
    tasks: tuple[Task, ...]
    outcomes: Outcomes
    unfinished: str
    measure: Measure
    rule: StoppingRule | None
    bare: bool
    readings: tuple[Reading, ...] = ()


def named(store: Store, text: str) -> Named:
    """The run and the arm that a text names. A run's name may hold a colon itself.

    Raises:
        UnknownName: there is no such run, or no such arm in it.
    """
    try:
        return Named(store.run(text), "")
    except UnknownName:
        name, colon, arm = text.rpartition(":")
        if not colon:
            raise
    run = store.run(name)
    names = [record.name for record in run.arms]
    if arm not in names:
        raise UnknownName("arm", arm, names, hint=f"Of run {name!r}.")
    return Named(run, arm)


def choose(left: Named, right: Named, *, same_store: bool) -> tuple[str, str]:
    """The arms to compare, where one or both are left out.

    A run's only arm; else the one that has the other side's name; of one run, its bare arm and its only other.

    Raises:
        UsageError: more than one choice makes sense; the message lists the arms.
    """
    one_run = same_store and left.run.name == right.run.name
    ours, theirs = ([record.name for record in side.run.arms] for side in (left, right))
    if not left.arm and not right.arm:
        if one_run:
            if len(ours) == 2:
                bare = _bare(left.run) or ours[0]
                return bare, next(name for name in ours if name != bare)
        elif len(ours) == len(theirs) == 1:
            return ours[0], theirs[0]
        elif len(shared := [name for name in ours if name in theirs]) == 1:
            return shared[0], shared[0]
    if left.arm and right.arm:
        return left.arm, right.arm
    first = left.arm or (_beside(left.run, right.arm, one_run) if right.arm else "")
    second = right.arm or (_beside(right.run, left.arm, one_run) if left.arm else "")
    if first and second:
        return first, second
    raise UsageError(
        f"say which arms: {left.run.name!r} has {', '.join(ours)}"
        + ("" if one_run else f"; {right.run.name!r} has {', '.join(theirs)}")
        + f". For example: testbed compare {shlex.quote(f'{left.run.name}:{ours[0]}')} "
        + shlex.quote(f"{right.run.name}:{theirs[-1]}")
    )


def _beside(run: Run, other: str, one_run: bool) -> str:
    """The arm of a run that goes with another side's; empty where that is not clear."""
    names = [record.name for record in run.arms]
    if one_run:
        bare = _bare(run)
        return bare if bare != other else ""
    if other in names:
        return other
    return names[0] if len(names) == 1 else ""


@dataclass(frozen=True)
class _Candidate:
    name: str
    bare: bool


def _bare(run: Run) -> str:
    """The arm that the run's report calls bare; empty where there is none."""
    wanted = _measure(run).bare
    candidates = [_Candidate(r.name, is_bare(r)) for r in run.arms]
    found = bare_among(candidates, wanted if any(c.name == wanted for c in candidates) else "")
    return found.name if found is not None else ""


def _measure(run: Run) -> Measure:
    return Measure(**run.experiment.get("measure", {}))


def is_bare(record: ArmRecord) -> bool:
    """Whether an arm has nothing that could add to the model: no tools and no search."""
    return record.spec.get("control") == "absent" and not record.spec.get("lookahead")


def read_side(store: Store, run: Run, arm: str, letter: str) -> Side:
    """Reads an arm's attempts.

    Args:
        store: where the run is.
        run: the run.
        arm: the arm's name in it.
        letter: "A" or "B".

    Raises:
        UsageError: it has no scored attempt.
    """
    outcomes, rules = store.outcomes(run.name), recorded_rules(run.experiment)
    position = [record.name for record in run.arms].index(arm)
    found = next((made for made in scored_arms(outcomes, rules, drawn_arms(store, run)) if made.name == arm), None)
    if found is None:
        raise UsageError(f"arm {arm!r} of run {run.name!r} has no scored attempt yet, so there is nothing to compare.")
    rule, record = rules.get(arm), run.arms[position]
    return Side(
        letter=letter,
        run=run,
        record=record,
        arm=_renamed(found, letter),
        tasks=outcomes.tasks,
        outcomes=_of_arm(outcomes, position),
        unfinished=unfinished(run, outcomes, rules),
        measure=_measure(run),
        rule=rule,
        bare=is_bare(record) or arm == _bare(run),
        readings=tuple(readings(store, run, record, [t.hash for t in outcomes.tasks], rule.least if rule else None)),
    )


def _of_arm(outcomes: Outcomes, position: int) -> Outcomes:
    rows = outcomes.arm == position
    columns = ("task", "arm", "sample", "success", "cost", "ended", "faults", "redrawn")
    return replace(outcomes, **{name: getattr(outcomes, name)[rows] for name in columns})


def _renamed(arm: Arm, name: str) -> Arm:
    """Two runs may name their arms alike, and a comparison tells them apart by their names."""

    def of(outcomes: ArmOutcomes) -> ArmOutcomes:
        return replace(outcomes, arm=name)

    return replace(arm.mapped(of), name=name)


def without_samples(arm: Arm) -> Arm:
    """An arm whose attempts have no partners in the other: their random streams differ."""
    return arm.mapped(lambda outcomes: replace(outcomes, samples=None, missing_samples=None))
