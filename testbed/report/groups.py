"""The same by groups of tasks: what each arm did to products of 4-digit numbers, to document-only facts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from testbed.experiment import Measure
from testbed.report.arms import Arm, FloatArray, gain_if_missing, if_missing, mean, reach
from testbed.report.broken import broken_on
from testbed.report.record import ArmComparison, Effect, Group, GroupArm, GroupEffect
from testbed.report.unseen import visible
from testbed.stats import (
    ArmOutcomes,
    Estimate,
    Figures,
    MissingBounds,
    Verdict,
    cluster_bootstrap,
    e_bh,
    reach_at_k,
)
from testbed.stats.parts import Columns, part_columns, part_estimates
from testbed.types import Task

# A group about which nothing can be claimed counts as "nothing seen" only while every part is as small as this.
SMALL = 0.05
PARTS = ("elicitation", "creation", "loss")
IntArray = npt.NDArray[np.int64]


def group_of(task: Task) -> str:
    """The family or the kind that a task's labels name; empty where they name none."""
    return visible(str(task.meta.get("family") or task.meta.get("kind") or ""))


def environment_name(id_: str) -> str:
    """What the report calls an environment: its id without a version."""
    return re.sub(r"-v\d+$", "", id_.removeprefix("imported:"))


def by_group(
    arms: Sequence[Arm],
    bare: Arm | None,
    comparisons: Iterable[ArmComparison],
    tasks: Sequence[Task],
    label: Callable[[Task], str],
    settings: Measure,
) -> tuple[Group, ...]:
    """Every environment, each followed by its groups if it has several, in the order of the tasks.

    Environments are groups of their own because a small group supports no narrow claim: "adds nothing to
    multiplication" needs all the products.
    """
    named = {arm.name: arm for arm in arms}
    compared = [(comparison, named[comparison.arm]) for comparison in comparisons]
    return tuple(
        Group(
            label=name,
            within=within,
            tasks=len(hashes),
            arms=tuple(own for arm in arms if (own := _arm(arm, hashes, settings)) is not None),
            effects=tuple(
                found
                for comparison, arm in compared
                if bare is not None and (found := _effect(bare, arm, comparison, hashes, settings)) is not None
            ),
        )
        for within, name, hashes in _members(tasks, label)
    )


def _members(tasks: Sequence[Task], label: Callable[[Task], str]) -> Iterator[tuple[str, str, list[str]]]:
    environments: dict[str, dict[str, list[str]]] = {}
    for task in tasks:
        families = environments.setdefault(environment_name(task.environment), {})
        families.setdefault(label(task), []).append(task.hash)
    for environment, families in environments.items():
        yield "", environment, [task for hashes in families.values() for task in hashes]
        if len(families) > 1:
            for name, hashes in families.items():
                yield environment, name or "other", hashes


def _arm(arm: Arm, tasks: Sequence[str], settings: Measure) -> GroupArm | None:
    present = set(arm.scored.tasks)
    own = [task for task in tasks if task in present]
    if not own:
        return None
    outcomes, labels = arm.on(own), arm.labels(own)
    return GroupArm(
        arm=arm.name,
        tasks=len(own),
        attempts=int(arm.judged_on(own).n.sum()),
        pass_1=mean(outcomes.c / outcomes.n, labels, settings),
        operating=reach(outcomes, settings.operating, labels, settings),
        if_missing=if_missing(_all_on(arm, tasks), 1),
    )


def _all_on(arm: Arm, tasks: Sequence[str]) -> ArmOutcomes:
    """Its attempts on those of the tasks that it attempted at all."""
    known = set(arm.outcomes.tasks)
    return arm.on([task for task in tasks if task in known], unscored=True)


def _effect(
    bare: Arm, arm: Arm, comparison: ArmComparison, tasks: Sequence[str], settings: Measure
) -> GroupEffect | None:
    if comparison.full is None:
        return _gain_only(bare, arm, tasks, settings)
    figures = comparison.full.figures
    position = {task: i for i, task in enumerate(figures.tasks)}
    rows = np.array([position[task] for task in tasks if task in position], dtype=np.int64)
    if not rows.size:
        return None
    own = [figures.tasks[i] for i in rows]
    parts = figures.parts.take(rows)
    found = part_estimates(_means(part_columns(parts), bare.labels(own), settings))
    bounds = comparison.full.missing
    worst = None if bounds is None else _Worst.of(bounds, tasks, bare, settings)
    before = bare.judged_on(own)
    effects, open_as_missing = _effects(found, figures, rows, worst)
    verdict = figures.verdicts.verdict[rows]
    counts = {kind: int(np.count_nonzero(verdict == kind)) for kind in Verdict}
    open_tasks = figures.verdicts.needed[rows][verdict == Verdict.UNDETERMINED]
    return GroupEffect(
        arm=arm.name,
        tasks=int(rows.size),
        effects=effects if comparison.claims else (Effect.UNDETERMINED,),
        gain=found["gain"],
        elicitation=found["elicitation_part"],
        creation=found["creation"],
        loss=found["loss"],
        verdicts=counts,
        never_bare=int(np.count_nonzero((verdict == Verdict.EXPANDED) & (before.c == 0))),
        bare_attempts=int(before.n.min()),
        spent=int(figures.verdicts.spent[rows].sum()),
        needed=int(open_tasks.sum()) if np.isfinite(open_tasks).all() else None,
        gain_if_missing=gain_if_missing(bare, arm, tasks, comparison.operating),
        open_as_missing=open_as_missing and comparison.claims,
        broken=int(broken_on(bare, own).sum() + broken_on(arm, own).sum()),
    )


def _means(columns: Columns, labels: Sequence[str], settings: Measure) -> dict[str, Estimate]:
    table, least, greatest = (np.stack(part, axis=-1) for part in zip(*columns.values(), strict=True))
    found = cluster_bootstrap(
        table, least=least, greatest=greatest, clusters=labels, replicates=settings.replicates, seed=settings.seed
    ).intervals(settings.alpha)
    return {name: found[i] for i, name in enumerate(columns)}


@dataclass(frozen=True)
class _Worst:
    """What a group's claims would rest on had its missing attempts ended in the way that is worst for each task.

    Attributes:
        low: lower limits of elicitation, creation and loss.
        log_e: log e-values of the tasks, by claim.
        most: the greatest mean that any part could have.
    """

    low: Mapping[str, float | None]
    log_e: Mapping[str, FloatArray]
    most: float

    @classmethod
    def of(cls, bounds: MissingBounds, tasks: Sequence[str], bare: Arm, settings: Measure) -> _Worst | None:
        """Of the tasks among these that have the attempts, missing ones included; None where none has."""
        wanted = set(tasks)
        rows = np.array([i for i, name in enumerate(bounds.names) if name in wanted], dtype=np.int64)
        if not rows.size:
            return None
        columns: Columns = {part: (bounds.least[part][rows], -1.0, 1.0) for part in PARTS}
        found = _means(columns, bare.labels([bounds.names[i] for i in rows]), settings)
        return cls(
            low={part: found[part].low for part in PARTS},
            log_e={claim: bounds.least[claim][rows] for claim in ("created", "expanded", "lost")},
            most=max(float(bounds.most[part][rows].mean()) for part in PARTS),
        )


def _effects(
    found: Mapping[str, Estimate], figures: Figures, rows: IntArray, worst: _Worst | None
) -> tuple[tuple[Effect, ...], bool]:
    """What holds of the group, and whether missing attempts leave open what the scored ones alone would say."""
    alpha = figures.verdicts.alpha
    log_e = {
        "created": figures.log_e_created[rows],
        "expanded": figures.verdicts.log_e_expanded[rows],
        "lost": figures.verdicts.log_e_lost[rows],
    }
    low = {"elicitation": found["elicitation_part"].low, "creation": found["creation"].low, "loss": found["loss"].low}
    claimed = held = _claims(low, log_e, alpha)
    if worst is not None:
        still = _claims(worst.low, worst.log_e, alpha)
        held = tuple(effect for effect in claimed if effect in still)
    if Effect.CREATED in held:  # which says more: the tasks expanded are told with it
        held = tuple(effect for effect in held if effect is not Effect.EXPANDED)
    if held:
        return held, False
    if claimed:
        return (Effect.UNDETERMINED,), True
    gain = found["gain"]
    # Below 0 a part is noise of the cross-fitting, which is never biased upward: only what stands above counts.
    small = all((found[part].value or 0.0) <= SMALL for part in ("elicitation_part", "creation", "loss"))
    level = gain.low is not None and gain.high is not None and gain.low <= 0 <= gain.high
    if small and level and worst is not None and worst.most > SMALL:
        return (Effect.UNDETERMINED,), True
    return (Effect.NOTHING if small and level else Effect.UNDETERMINED,), False


def _claims(low: Mapping[str, float | None], log_e: Mapping[str, FloatArray], alpha: float) -> tuple[Effect, ...]:
    """Claims about the group, each wrong with probability alpha at most.

    A claim that may rest on an interval's end (alpha / 2) or on the e-values of the group's tasks taken together gives
    those the other half of its level.
    """
    claims = {
        Effect.CREATED: _above(low["creation"]) or bool(e_bh(log_e["created"], alpha / 2).any()),
        Effect.EXPANDED: bool(e_bh(log_e["expanded"], alpha).any()),
        Effect.ELICITED: _above(low["elicitation"]),
        Effect.LOST: _above(low["loss"]) or bool(e_bh(log_e["lost"], alpha / 2).any()),
    }
    return tuple(effect for effect, holds in claims.items() if holds)


def _gain_only(bare: Arm, arm: Arm, tasks: Sequence[str], settings: Measure) -> GroupEffect | None:
    """A gain that cannot be split: no claim is made on where it comes from."""
    present = set(bare.scored.tasks) & set(arm.scored.tasks)
    own = [task for task in tasks if task in present]
    if not own:
        return None
    before, after = bare.on(own), arm.on(own)
    difference = reach_at_k(after.n, after.c, 1) - reach_at_k(before.n, before.c, 1)
    return GroupEffect(
        arm=arm.name,
        tasks=len(own),
        effects=(Effect.UNDETERMINED,),
        gain=mean(difference, bare.labels(own), settings, least=-1, greatest=1),
        elicitation=None,
        creation=None,
        loss=None,
        verdicts={},
        never_bare=0,
        bare_attempts=int(before.n.min()),
        spent=int(before.n.sum() + after.n.sum()),
        needed=None,
        gain_if_missing=gain_if_missing(bare, arm, tasks, 1),
    )


def _above(low: float | None) -> bool:
    return low is not None and low > 0
