"""Any two arms of any two runs on their common tasks, paired. All estimators are `testbed.stats`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from testbed.errors import UsageError
from testbed.experiment import Measure
from testbed.report.arms import Arm, if_missing, mean
from testbed.report.common_tasks import CommonTasks, common_tasks, refuse_without
from testbed.report.compare import compare
from testbed.report.compare_record import RunComparison, Shared, SideSummary
from testbed.report.pair_cautions import cautions
from testbed.report.record import ArmComparison
from testbed.report.sides import Side, is_bare, without_samples
from testbed.report.spec_differences import Difference, same_topics, spec_differences
from testbed.stats import ArmOutcomes, Estimate, Verdict, cluster_bootstrap, reach_at_k
from testbed.stats.bootstrap import shared_weights
from testbed.types import COST_COMPONENTS

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@shared_weights()
def compare_sides(
    left: Side,
    right: Side,
    *,
    against: str = "",
    operating: int | None = None,
    elicitation: int | None = None,
    same_store: bool = True,
) -> RunComparison:
    """Compares two arms of any runs on the tasks that both have.

    Args:
        left: side A.
        right: side B.
        against: "A" or "B": the side over which the other's gain is split; by default the bare one, where one is.
        operating: attempts at which reach is compared; by default as A's experiment says.
        elicitation: attempts of the reference that resampling may spend; by default as A's experiment says.
        same_store: whether both runs are in one store, where attempts of one id are one attempt.

    Raises:
        UsageError: the runs have no task in common, or no common task has a scored attempt on both sides.
        StatsError: a figure cannot be made from these attempts.
    """
    common = common_tasks(left.tasks, right.tasks)
    refuse_without(common, left.tasks, right.tasks, (f"run {left.run.name!r}", f"run {right.run.name!r}"))
    settings, asked = _settings(left, operating, elicitation)
    if left.run.seed != right.run.seed:
        left, right = (replace(side, arm=without_samples(side.arm)) for side in (left, right))
    scored = _scored_in_both(left.arm, right.arm, common)
    labels = left.arm.labels(scored)
    ours, theirs = left.arm.on(scored), right.arm.on(scored)
    k = min(settings.operating, int(ours.n.min()), int(theirs.n.min()))
    reference = against or _bare_side(left, right)
    bare, other = (right, left) if reference == "B" else (left, right)
    differs = _differences(left, right)
    compared = compare(_on(bare.arm, common), _on(other.arm, common), settings, asked=asked)
    found = RunComparison(
        left=_summary(left, ours, k, settings),
        right=_summary(right, theirs, k, settings),
        settings=settings,
        reference=reference,
        tasks=len(scored),
        common=len(common.hashes),
        only_left=common.only_left,
        only_right=common.only_right,
        alike=common.alike,
        differs=differs,
        same=same_topics(differs),
        warnings=(),
        shared=_shared(left, right, common),
        pass_1=_difference(ours, theirs, 1, labels, settings),
        operating=k,
        reach=_difference(ours, theirs, k, labels, settings),
        verdicts=compared,
        within_reach=_within_reach(compared, turned=reference == "B"),
        ratios=dict(_ratios(ours, theirs, left.arm, right.arm, labels, settings)),
    )
    return replace(found, warnings=tuple(cautions(found, left, right, len(set(labels)), same_store=same_store)))


def _settings(side: Side, operating: int | None, elicitation: int | None) -> tuple[Measure, bool]:
    """How the sides are read, and whether the elicitation spend was asked for."""
    chosen = side.run.experiment.get("measure", {})
    operating = side.measure.operating if operating is None else operating
    asked = elicitation is not None or "elicitation" in chosen
    spend = max(operating, side.measure.elicitation) if elicitation is None else elicitation
    return replace(side.measure, operating=operating, elicitation=spend, bare=""), asked


def _scored_in_both(left: Arm, right: Arm, common: CommonTasks) -> list[str]:
    ours, theirs = set(left.scored.tasks), set(right.scored.tasks)
    scored = [task for task in common.hashes if task in ours and task in theirs]
    if not scored:
        raise UsageError(
            f"none of the {len(common.hashes):,} common tasks has a scored attempt on both sides, so that there is "
            "nothing to compare."
        )
    return scored


def _on(arm: Arm, common: CommonTasks) -> Arm:
    """An arm without the tasks that the other run does not have: they are no matter of this comparison."""
    wanted = set(common.hashes)

    def of(outcomes: ArmOutcomes) -> ArmOutcomes:
        return outcomes.take([n for n, task in enumerate(outcomes.tasks) if task in wanted])

    return replace(arm, outcomes=of(arm.outcomes), every=None if arm.every is None else of(arm.every))


def _bare_side(left: Side, right: Side) -> str:
    """The side that is bare, where the other one is not."""
    bare = {side.letter for side in (left, right) if is_bare(side.record)}
    return bare.pop() if len(bare) == 1 else ""


def _summary(side: Side, on: ArmOutcomes, k: int, settings: Measure) -> SideSummary:
    labels = side.arm.labels(on.tasks)
    return SideSummary(
        letter=side.letter,
        run=side.run.name,
        arm=side.record.name,
        hash=side.record.hash,
        seed=side.run.seed,
        created=side.run.created,
        attempts=int(on.n.sum()),
        fewest=int(on.n.min()),
        most=int(on.n.max()),
        missing=int(on.missing.sum()),
        pass_1=mean(on.c / on.n, labels, settings),
        pass_1_if_missing=if_missing(on, 1),
        reach=mean(reach_at_k(on.n, on.c, k), labels, settings),
        cost={axis: float(on.mean_cost(axis).mean()) for axis in _axes(side.arm, on)},
    )


def _axes(arm: Arm, on: ArmOutcomes) -> list[str]:
    return [axis for axis in COST_COMPONENTS if axis in on.costs and axis not in arm.unrecorded]


def _difference(left: ArmOutcomes, right: ArmOutcomes, k: int, labels: Sequence[str], settings: Measure) -> Estimate:
    difference = reach_at_k(right.n, right.c, k) - reach_at_k(left.n, left.c, k)
    return mean(difference, labels, settings, least=-1, greatest=1)


def _within_reach(compared: ArmComparison, *, turned: bool) -> dict[str, int]:
    """Tasks by which side has them within reach; `turned` where B was taken as the bare arm."""
    if compared.full is None:
        return {}
    counts = compared.full.figures.verdicts.counts
    new, lost = counts[Verdict.EXPANDED.value], counts[Verdict.LOST.value]
    return {
        "both": counts[Verdict.PRESERVED.value],
        "only A": new if turned else lost,
        "only B": lost if turned else new,
        "neither": counts[Verdict.OUT_OF_REACH.value],
        "undetermined": counts[Verdict.UNDETERMINED.value],
    }


def cost_ratio(below: FloatArray, above: FloatArray, labels: Sequence[str], settings: Measure) -> Estimate | None:
    """One side's mean cost of an attempt over the other's, each a mean over tasks.

    The interval resamples clusters of tasks, as every other does. A cost has no greatest value, so that the cluster
    that nobody saw is taken to lie within the ratios of the tasks seen: approximate where these are few.

    Args:
        below: mean cost by task of the side that is divided by.
        above: mean cost by task of the other.
        labels: the tasks' clusters.
        settings: level, replicates and seed.

    Returns:
        The ratio; None where a task costs nothing on the side that is divided by.
    """
    if (below <= 0).any():
        return None
    seen = above / below
    drawn = cluster_bootstrap(
        above,
        below,
        least=float(seen.min()),
        greatest=float(seen.max()),
        clusters=labels,
        replicates=settings.replicates,
        seed=settings.seed,
    )
    return drawn.intervals(settings.alpha)[0]


def _ratios(
    ours: ArmOutcomes, theirs: ArmOutcomes, left: Arm, right: Arm, labels: Sequence[str], settings: Measure
) -> Iterator[tuple[str, Estimate]]:
    for axis in (axis for axis in _axes(left, ours) if axis in _axes(right, theirs)):
        found = cost_ratio(ours.mean_cost(axis), theirs.mean_cost(axis), labels, settings)
        if found is not None:
            yield axis, found


def _differences(left: Side, right: Side) -> tuple[Difference, ...]:
    found = list(spec_differences(left.record.spec, right.record.spec))
    if left.record.hash != right.record.hash and not found:
        found.append(Difference("else", ("the arms have other hashes, though nothing that the store tells differs",)))
    if left.run.seed != right.run.seed:
        found.append(Difference("seed", (f"{left.run.seed} → {right.run.seed}",)))
    ours, theirs = (side.run.samples.get(side.record.name, 0) for side in (left, right))
    if ours != theirs:
        found.append(Difference("attempts", (f"{ours:,} → {theirs:,} per task",)))
    return tuple(found)


def _shared(left: Side, right: Side, common: CommonTasks) -> Shared | None:
    """Attempts of one arm, seed, task and sample index on both sides; None where no two can be alike."""
    if left.record.hash != right.record.hash or left.run.seed != right.run.seed:
        return None
    number = {task: n for n, task in enumerate(common.hashes)}
    (ours, mine), (theirs, others) = (_codes(side, number) for side in (left, right))
    both, i, j = np.intersect1d(ours, theirs, return_indices=True)
    return Shared(int(both.size), int(np.count_nonzero(mine[i] != others[j])))


def _codes(side: Side, number: dict[str, int]) -> tuple[IntArray, npt.NDArray[np.int8]]:
    """A number for each of a side's attempts at a common task, and its outcome."""
    of_task = np.array([number.get(task.hash, -1) for task in side.tasks], np.int64)
    task = of_task[side.outcomes.task]
    kept = task >= 0
    return (task[kept] << 32) + side.outcomes.sample[kept], side.outcomes.success[kept]
