"""One arm against the bare one, as far as the attempts allow; what they do not allow is said, not guessed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from testbed.experiment import Measure
from testbed.report.arms import Arm, gain_if_missing, mean
from testbed.report.broken import broken_of, judged, left_open, verdicts_left_open
from testbed.report.record import ArmComparison, Solved
from testbed.stats import ArmOutcomes, Estimate, compare_arms, reach_at_k

IntArray = npt.NDArray[np.int64]
NO_INTERVAL = Estimate(None, None, None)
_MORE = " More bare attempts would call less of the gain creation."


def compare(
    bare: Arm, arm: Arm, settings: Measure, second_bare: Arm | None = None, *, asked: bool = False
) -> ArmComparison:
    """Compares an arm with the bare one on the tasks that both attempted.

    The gain needs one scored attempt per task and arm. Splitting it needs two: one to choose with, one to measure
    with (see `testbed.stats.crossfit`); so with fewer the comparison has no `full` part.

    Args:
        bare: the bare arm.
        arm: the other.
        settings: how they are read.
        second_bare: another sample of the bare arm's policy, for the null row.
        asked: whether the elicitation spend was asked for, or is the default, which yields to balanced folds.
    """
    present = set(arm.scored.tasks)
    common = [task for task in bare.scored.tasks if task in present]
    if not common:
        note = "no task has a scored attempt in both, so nothing is compared."
        empty = Solved(0, 0, 0, 0, int(bare.outcomes.n.max()), int(arm.outcomes.n.max()))
        return ArmComparison(arm.name, bare.name, 0, NO_INTERVAL, settings.operating, None, None, empty, False, (note,))
    notes, broken = _left_out(bare, arm, common), broken_of(bare, arm)
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
        return ArmComparison(
            arm.name, bare.name, len(common), gain, 1, None, None, solved, False, tuple(notes), bounds, broken
        )
    operating, elicitation = spends_of(left.take(enough), right.take(enough), settings, asked, notes)
    if broken:
        notes = [note.removesuffix(_MORE) for note in notes]  # the attempts there are come first
    enough = readable(left, right, operating, elicitation)
    if enough.size < len(common):
        notes.append(
            f"{len(common) - enough.size} of {len(common)} common tasks are left out: it takes {elicitation + 1} "
            f"scored attempts of the bare arm and {operating + 1} of the other to read a task at these spends."
        )
        left, right = left.take(enough), right.take(enough)
    null = second_bare if second_bare is not None and second_bare.on_two() is not None else None
    full = compare_arms(
        left, right, operating=operating, elicitation=elicitation, accessible=settings.elicitation, rho=settings.rho,
        alpha=settings.alpha, replicates=settings.replicates, seed=settings.seed, clusters=bare.clusters,
        everything=_everything(bare, arm),
        second_bare=null.on_two() if null is not None else None,
        judged=judged([one for one in (bare, arm, null) if one is not None]),
    )  # fmt: skip
    if broken:
        held = verdicts_left_open(full.figures.verdicts, full.figures.tasks, bare, arm, settings)
        full = replace(full, figures=replace(full.figures, verdicts=held))
    if full.figures.clusters < 2:
        notes.append(
            ("there is one task only" if len(left.tasks) == 1 else f"all {len(left.tasks)} tasks are in one cluster")
            + ", which does not tell how others would differ: no intervals."
        )
    if full.null is None:
        notes.append(
            "fewer than four bare attempts at most tasks: no null row, so support figures have nothing to stand beside."
        )
    elif full.figures.support.spend < full.null.support.spend:
        notes.append(
            f"its support figures (SRR, NDR, SDS, NSCR) are of {full.figures.support.spend:g} attempts, as it has no "
            f"more, and the null row's of {full.null.support.spend:g}, so that the two are not comparable."
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
        claims=not (bare.drawn.look_like_copies(full.bare_repeats) or arm.drawn.look_like_copies(full.tool_repeats)),
        notes=tuple(notes),
        gain_if_missing=gain_if_missing(bare, arm, None, operating),
        broken=broken,
    )


def _everything(bare: Arm, arm: Arm) -> tuple[ArmOutcomes, ArmOutcomes]:
    """Both arms on all tasks they share, those included that only have missing attempts: they count in bounds.

    So do attempts that an error of an agent's own ended, as if they were missing.
    """
    known = set(arm.outcomes.tasks)
    tasks = [task for task in bare.outcomes.tasks if task in known]
    return left_open(bare, tasks), left_open(arm, tasks)


def readable(bare: ArmOutcomes, arm: ArmOutcomes, operating: int, elicitation: int) -> IntArray:
    """Tasks of which an attempt is left to choose with, in either arm."""
    return np.flatnonzero((bare.n > elicitation) & (arm.n > operating))


def spends_of(bare: ArmOutcomes, arm: ArmOutcomes, settings: Measure, asked: bool, notes: list[str]) -> tuple[int, int]:
    """The spends asked for, as far as the median task allows them; see docs/measurement.md, "Which B".

    An elicitation spend that nobody asked for is at most half of the bare attempts, so that the folds balance. It goes
    by the attempts made, missing ones included, and by the scored ones only where most tasks could not be read.
    """
    made = [o.n + o.missing for o in (bare, arm)]
    operating = elicitation = typical = 1
    for share, (first, second) in ((0.5, made), (0.5, (bare.n, arm.n)), (0.0, (bare.n, arm.n))):
        typical, other = (int(np.quantile(n, share, method="lower")) for n in (first, second))
        operating = min(settings.operating, typical - 1, other - 1)
        half = max(1, typical // 2)
        wanted = settings.elicitation if asked and settings.elicitation < typical else min(settings.elicitation, half)
        elicitation = max(operating, wanted)
        if 2 * readable(bare, arm, operating, elicitation).size >= len(bare.tasks):
            break
    if operating < settings.operating:
        notes.append(
            f"read at {operating} instead of {settings.operating} attempts: most tasks have no more that leave one to "
            "choose with."
        )
    if elicitation < settings.elicitation:
        notes.append(
            f"elicitation up to {elicitation} instead of {settings.elicitation} bare attempts: most tasks have "
            f"{typical}, and half of them choose what the others measure.{_MORE}"
        )
    elif 2 * elicitation > typical > 2:
        notes.append(
            f"elicitation up to {elicitation} of {typical} bare attempts leaves {typical - elicitation} to choose "
            "with: creation is estimated too low and elicitation too high. Their limits hold all the same."
        )
    return operating, elicitation


def _gain(bare: Arm, left: ArmOutcomes, right: ArmOutcomes, k: int, settings: Measure) -> Estimate:
    difference = reach_at_k(right.n, right.c, k) - reach_at_k(left.n, left.c, k)
    return mean(difference, bare.labels(left.tasks), settings, least=-1, greatest=1)


def _left_out(bare: Arm, arm: Arm, common: list[str]) -> list[str]:
    out = len({*bare.outcomes.tasks, *arm.outcomes.tasks} - set(common))
    if out == 1:
        return ["1 task has a scored attempt in one of the two arms only and is left out."]
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
