"""The same by groups of tasks: what each arm did to products of 4-digit numbers, to document-only facts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from testbed.experiment import Measure
from testbed.report.arms import Arm, FloatArray, gain_if_missing, if_missing, mean, reach
from testbed.report.record import ArmComparison, Effect, Group, GroupArm, GroupEffect
from testbed.stats import ArmOutcomes, Estimate, Figures, Verdict, cluster_bootstrap, e_bh, reach_at_k
from testbed.types import Task

# A group about which nothing can be claimed counts as "nothing seen" only while every part is as small as this.
SMALL = 0.05


def group_of(task: Task) -> str:
    """The family or the kind that a task's labels name; empty where they name none."""
    return str(task.meta.get("family") or task.meta.get("kind") or "")


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
        families = environments.setdefault(re.sub(r"-v\d+$", "", task.environment), {})
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
    parts = figures.parts
    columns = np.column_stack([parts.gain, parts.elicitation, parts.creation, parts.loss])[rows]
    gain, elicitation, creation, loss = _means(columns, bare.labels(own), settings)
    verdict = figures.verdicts.verdict[rows]
    counts = {kind: int(np.count_nonzero(verdict == kind)) for kind in Verdict}
    before = bare.judged_on(own)
    open_tasks = figures.verdicts.needed[rows][verdict == Verdict.UNDETERMINED]
    return GroupEffect(
        arm=arm.name,
        tasks=int(rows.size),
        effects=(_effects(elicitation, creation, loss, figures, rows) if comparison.claims else (Effect.UNDETERMINED,)),
        gain=gain,
        elicitation=elicitation,
        creation=creation,
        loss=loss,
        verdicts=counts,
        never_bare=int(np.count_nonzero((verdict == Verdict.EXPANDED) & (before.c == 0))),
        bare_attempts=int(before.n.min()),
        spent=int(figures.verdicts.spent[rows].sum()),
        needed=int(open_tasks.sum()) if np.isfinite(open_tasks).all() else None,
        gain_if_missing=gain_if_missing(bare, arm, tasks, comparison.operating),
    )


def _means(columns: FloatArray, labels: Sequence[str], settings: Measure) -> list[Estimate]:
    # Elicitation may pass ±1 by Monte-Carlo noise; see `compare_arms`.
    least, greatest = np.minimum(-1, columns.min(axis=0)), np.maximum(1, columns.max(axis=0))
    found = cluster_bootstrap(
        columns, least=least, greatest=greatest, clusters=labels, replicates=settings.replicates, seed=settings.seed
    ).intervals(settings.alpha)
    return [found[i] for i in range(columns.shape[1])]


def _effects(
    elicitation: Estimate,
    creation: Estimate,
    loss: Estimate,
    figures: Figures,
    rows: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> tuple[Effect, ...]:
    """What the intervals support, or the e-values of the group's tasks taken together (level alpha for the group)."""
    verdicts = figures.verdicts
    expanded, lost = (
        e_bh(log_e[rows], verdicts.alpha).any() for log_e in (verdicts.log_e_expanded, verdicts.log_e_lost)
    )
    claims = {
        Effect.CREATED: _above(creation) or bool(expanded),
        Effect.ELICITED: _above(elicitation),
        Effect.LOST: _above(loss) or bool(lost),
    }
    claimed = tuple(effect for effect, holds in claims.items() if holds)
    if claimed:
        return claimed
    # Below 0 a part is noise of the cross-fitting, which is never biased upward: only what stands above counts.
    small = all((part.value or 0.0) <= SMALL for part in (elicitation, creation, loss))
    return (Effect.NOTHING if small else Effect.UNDETERMINED,)


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


def _above(part: Estimate) -> bool:
    return part.low is not None and part.low > 0
