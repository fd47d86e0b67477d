"""Any two arms of any two runs on their common tasks, paired. All estimators are `testbed.stats`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from testbed.errors import UsageError
from testbed.experiment import Measure
from testbed.report.arms import Arm, gain_if_missing, if_missing, mean
from testbed.report.common_tasks import CommonTasks, common_tasks, joined_clusters, refuse_without
from testbed.report.compare import compare
from testbed.report.compare_record import RunComparison, Shared, SideSummary
from testbed.report.divergence import divergence
from testbed.report.pair_cautions import cautions
from testbed.report.record import ArmComparison
from testbed.report.sides import Side, without_samples
from testbed.report.spec_differences import Difference, same_topics, spec_differences
from testbed.stats import ArmOutcomes, Estimate, Verdict, cluster_bootstrap, reach_at_k
from testbed.stats.bootstrap import shared_weights
from testbed.stats.stopping import StoppingRule
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
    clusters = joined_clusters(left.arm.clusters, right.arm.clusters, common.hashes)
    left, right = (replace(side, arm=_on(side.arm, common, clusters)) for side in (left, right))
    scored = _scored_in_both(left.arm, right.arm, common)
    labels = left.arm.labels(scored)
    ours, theirs = left.arm.on(scored), right.arm.on(scored)
    k = min(settings.operating, int(ours.n.min()), int(theirs.n.min()))
    reference = against or _bare_side(left, right)
    bare, other = (right, left) if reference == "B" else (left, right)
    differs = _differences(left, right)
    compared = compare(bare.arm, other.arm, settings, asked=asked)
    axes = [axis for axis in COST_COMPONENTS if axis in ours.costs or axis in theirs.costs]
    found = RunComparison(
        left=_summary(left, ours, k, settings, axes),
        right=_summary(right, theirs, k, settings, axes),
        settings=settings,
        reference=reference,
        tasks=len(scored),
        common=len(common.hashes),
        only_left=common.only_left,
        only_right=common.only_right,
        alike=common.alike,
        differs=differs,
        same=() if _imported(left, right) else same_topics(differs),
        warnings=(),
        shared=_shared(left, right, common),
        pass_1=_difference(ours, theirs, 1, labels, settings),
        pass_1_if_missing=gain_if_missing(left.arm, right.arm, None, 1),
        operating=k,
        reach=_difference(ours, theirs, k, labels, settings),
        verdicts=compared,
        within_reach=_within_reach(compared, turned=reference == "B"),
        ratios=dict(_ratios(ours, theirs, left.arm, right.arm, labels, settings)),
        divergence=divergence(left, right, reference, scored, settings),
    )
    told = cautions(found, left, right, labels, joined=clusters is not None, same_store=same_store)
    return replace(found, warnings=tuple(told))


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


def _on(arm: Arm, common: CommonTasks, clusters: Mapping[str, str] | None) -> Arm:
    """An arm without the tasks that the other run does not have, which are no matter of this comparison.

    Args:
        arm: the arm.
        common: the tasks of both.
        clusters: of these; None where the arm's own ones serve.
    """
    wanted = set(common.hashes)

    def of(outcomes: ArmOutcomes) -> ArmOutcomes:
        return outcomes.take([n for n, task in enumerate(outcomes.tasks) if task in wanted])

    return replace(arm.mapped(of), clusters=arm.clusters if clusters is None else clusters)


def _bare_side(left: Side, right: Side) -> str:
    """The side that is bare, where the other one is not."""
    bare = {side.letter for side in (left, right) if side.bare}
    return bare.pop() if len(bare) == 1 else ""


def _summary(side: Side, on: ArmOutcomes, k: int, settings: Measure, axes: Sequence[str]) -> SideSummary:
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
        missing=int(side.arm.outcomes.missing.sum()),
        fixed=side.arm.fixed,
        pass_1=mean(on.c / on.n, labels, settings),
        pass_1_if_missing=if_missing(side.arm.outcomes, 1),
        reach=mean(reach_at_k(on.n, on.c, k), labels, settings),
        cost={axis: _mean_cost(on, axis) for axis in axes if _is_known(side, axis)},
    )


def _is_known(side: Side, axis: str) -> bool:
    """Whether a component of cost was recorded of every attempt; imported ones have those that the import named."""
    spec = side.record.spec
    return axis not in side.arm.unrecorded and (not spec.get("imported") or axis in spec.get("costs", ()))


def _mean_cost(on: ArmOutcomes, axis: str) -> float:
    return float(on.mean_cost(axis).mean()) if axis in on.costs else 0.0  # what costs nothing has no column


def _axes(arm: Arm, on: ArmOutcomes) -> list[str]:
    return [axis for axis in COST_COMPONENTS if axis in on.costs and axis not in arm.unrecorded]


def _difference(left: ArmOutcomes, right: ArmOutcomes, k: int, labels: Sequence[str], settings: Measure) -> Estimate:
    difference = reach_at_k(right.n, right.c, k) - reach_at_k(left.n, left.c, k)
    return mean(difference, labels, settings, least=-1, greatest=1)


def _within_reach(compared: ArmComparison, *, turned: bool) -> dict[str, int]:
    """Tasks by which side has them within reach; `turned` where B was taken as the bare arm."""
    if compared.full is None or not compared.claims:
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
    if left.record.hash != right.record.hash and _imported(left, right):
        names = f"{left.record.name} → {right.record.name}"
        found = [Difference("else", (f"imported arms, of which only the names are known: {names}",))]
    elif left.record.hash != right.record.hash and not found:
        found.append(Difference("else", ("the arms' hashes, though all that the store tells of them is the same",)))
    if left.run.seed != right.run.seed:
        found.append(Difference("seed", (f"{left.run.seed} → {right.run.seed}",)))
    ours, theirs = (side.run.samples.get(side.record.name, 0) for side in (left, right))
    if left.rule != right.rule:
        lines = f"{_attempts(ours, left.rule)} → {_attempts(theirs, right.rule)}"
        found.append(Difference("attempts", (lines,)))
    elif ours != theirs:
        found.append(Difference("attempts", (f"{ours:,} → {theirs:,} per task",)))
    return tuple(found)


def _imported(left: Side, right: Side) -> bool:
    return any(side.record.spec.get("imported") for side in (left, right))


def _attempts(n: int, rule: StoppingRule | None) -> str:
    if rule is None:
        return f"{n:,} per task"
    level = f"at level {rule.alpha:g} on reach {rule.rho} within {rule.k:g}"
    return f"{rule.least:,} to {rule.most:,} per task, until a verdict {level}"


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
