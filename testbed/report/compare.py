"""One arm against the bare one, as far as the attempts allow; what they do not allow is said, not guessed."""

from __future__ import annotations

import numpy as np

from testbed.experiment import Measure
from testbed.report.arms import Arm, gain_if_missing, mean
from testbed.report.record import ArmComparison, Solved
from testbed.stats import ArmOutcomes, Estimate, Repeats, compare_arms, reach_at_k

NO_INTERVAL = Estimate(None, None, None)


def compare(bare: Arm, arm: Arm, settings: Measure, second_bare: Arm | None = None) -> ArmComparison:
    """Compares an arm with the bare one on the tasks that both attempted.

    The gain needs one scored attempt per task and arm. Splitting it needs two: one to choose with, one to measure
    with (see `testbed.stats.crossfit`); so with fewer the comparison has no `full` part.

    Args:
        bare: the bare arm.
        arm: the other.
        settings: how they are read.
        second_bare: another sample of the bare arm's policy, for the null row.
    """
    present = set(arm.scored.tasks)
    common = [task for task in bare.scored.tasks if task in present]
    if not common:
        note = "no task has a scored attempt in both, so nothing is compared."
        empty = Solved(0, 0, 0, 0, int(bare.outcomes.n.max()), int(arm.outcomes.n.max()))
        return ArmComparison(arm.name, bare.name, 0, NO_INTERVAL, settings.operating, None, None, empty, False, (note,))
    notes = _left_out(bare, arm, common)
    left, right = bare.on(common), arm.on(common)
    solved = _solved(left, right)
    enough = np.flatnonzero((left.n >= 2) & (right.n >= 2))
    if not enough.size:
        notes.append(
            "one attempt per task tells the gain, but not whether resampling the bare arm would have reached it too: "
            "no split into elicitation and creation, no null row, no verdicts."
        )
        gain = _gain(bare, left, right, 1, settings)
        bounds = gain_if_missing(bare, arm, None, 1)
        return ArmComparison(arm.name, bare.name, len(common), gain, 1, None, None, solved, False, tuple(notes), bounds)
    if enough.size < len(common):
        dropped = len(common) - enough.size
        notes.append(f"{dropped} of {len(common)} common tasks have one attempt only in an arm and are left out.")
        left, right = left.take(enough), right.take(enough)
    operating, elicitation = _spends(left, right, settings, notes)
    null = second_bare if second_bare is not None and second_bare.on_two() is not None else None
    full = compare_arms(
        *_with_unscored(bare, arm, left, right), operating=operating, elicitation=elicitation, rho=settings.rho,
        alpha=settings.alpha, replicates=settings.replicates, seed=settings.seed, clusters=bare.clusters,
        second_bare=null.on_two() if null is not None else None,
        judged={one.name: one.every for one in (bare, arm, null) if one is not None and one.every is not None},
    )  # fmt: skip
    if full.figures.clusters < 2:
        notes.append(
            ("there is one task only" if len(left.tasks) == 1 else f"all {len(left.tasks)} tasks are in one cluster")
            + ", which does not tell how others would differ: no intervals."
        )
    if full.null is None:
        notes.append(
            "fewer than four bare attempts at some task: no null row, so support figures have nothing to stand beside."
        )
    return ArmComparison(
        arm=arm.name,
        bare=bare.name,
        tasks=len(left.tasks),
        gain=full.figures.gain,
        operating=operating,
        elicitation=elicitation,
        full=full,
        solved=solved,
        claims=not (_copies(bare, full.bare_repeats) or _copies(arm, full.tool_repeats)),
        notes=tuple(notes),
        gain_if_missing=gain_if_missing(bare, arm, None, operating),
    )


def _with_unscored(bare: Arm, arm: Arm, left: ArmOutcomes, right: ArmOutcomes) -> tuple[ArmOutcomes, ArmOutcomes]:
    """Both arms on the tasks compared and on those that an arm only has missing attempts at: they count in bounds."""
    one, other = (
        {task: n for task, n, lost in zip(o.tasks, o.n, o.missing, strict=True) if n + lost >= 2}
        for o in (bare.outcomes, arm.outcomes)
    )
    unscored = [task for task in one if task in other and (one[task] == 0 or other[task] == 0)]
    if not unscored:
        return left, right
    tasks = [*left.tasks, *unscored]
    return bare.on(tasks, unscored=True), arm.on(tasks, unscored=True)


def _spends(bare: ArmOutcomes, arm: ArmOutcomes, settings: Measure, notes: list[str]) -> tuple[int, int]:
    """The spends asked for, or the largest that leave each task one attempt to choose with."""
    fewest_bare, fewest = int(bare.n.min()), int(arm.n.min())
    elicitation = min(settings.elicitation, fewest_bare - 1)
    operating = min(settings.operating, elicitation, fewest - 1)
    if operating < settings.operating:
        notes.append(
            f"read at {operating} instead of {settings.operating} attempts: some task has only "
            f"{min(fewest, fewest_bare)} in an arm, and one is needed to choose with."
        )
    if elicitation < settings.elicitation:
        notes.append(
            f"elicitation up to {elicitation} instead of {settings.elicitation} bare attempts: some task has only "
            f"{fewest_bare}, and one is needed to choose with. More bare attempts would call less of the gain creation."
        )
    return operating, elicitation


def _copies(arm: Arm, repeats: Repeats) -> bool:
    return repeats.flagged and not arm.sampled


def _gain(bare: Arm, left: ArmOutcomes, right: ArmOutcomes, k: int, settings: Measure) -> Estimate:
    difference = reach_at_k(right.n, right.c, k) - reach_at_k(left.n, left.c, k)
    return mean(difference, bare.labels(left.tasks), settings, least=-1, greatest=1)


def _left_out(bare: Arm, arm: Arm, common: list[str]) -> list[str]:
    out = len({*bare.outcomes.tasks, *arm.outcomes.tasks} - set(common))
    return [f"{out} tasks have a scored attempt in one of the two arms only and are left out."] if out else []


def _solved(bare: ArmOutcomes, arm: ArmOutcomes) -> Solved:
    before, after = bare.c > 0, arm.c > 0
    return Solved(
        both=int(np.count_nonzero(before & after)),
        only_bare=int(np.count_nonzero(before & ~after)),
        only_arm=int(np.count_nonzero(after & ~before)),
        neither=int(np.count_nonzero(~before & ~after)),
        bare_attempts=int(bare.n.max()),
        arm_attempts=int(arm.n.max()),
    )
