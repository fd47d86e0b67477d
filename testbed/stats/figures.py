"""Every figure of one pair of arms: reach, gain and its parts, support metrics, verdicts, with their intervals."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from testbed.stats.bootstrap import cluster_bootstrap, cluster_labels
from testbed.stats.checks import FloatArray, StatsError
from testbed.stats.comparison import Figures, SampleEquivalent, SupportRow
from testbed.stats.crossfit import parts_of
from testbed.stats.crossfit_spend import decompose_cross_fitted_at_spend
from testbed.stats.energy import harmonic, tool_gain_nats
from testbed.stats.gain import Decomposition, decompose, sample_equivalent
from testbed.stats.intervals import Replicates
from testbed.stats.joint import JointSplits, joint_splits
from testbed.stats.kinds import kinds
from testbed.stats.outcomes import ArmOutcomes
from testbed.stats.parts import Columns, part_columns, part_estimates
from testbed.stats.reach import reach_at_k
from testbed.stats.spells import accessibility_at_spend
from testbed.stats.spend import ReachCurve, reach_curve
from testbed.stats.support import empirical_support, harmonic_mean
from testbed.stats.verdicts import Accessibility, Verdicts, accessibility, verdicts

_EQUIVALENT_POINTS = 128


@dataclass(frozen=True)
class Plan:
    """How a pair of arms is read; the fields are the arguments of `testbed.stats.compare_arms`."""

    axis: str
    operating: float
    elicitation: float
    rho: float | tuple[float, float]
    alpha: float
    replicates: int
    seed: int
    clusters: Mapping[str, Hashable] | None
    cross_fit: bool
    accessible: float
    judged: Mapping[str, ArmOutcomes]

    def labels(self, tasks: tuple[str, ...]) -> list[Hashable] | None:
        """Return the tasks' cluster labels; None where every task is its own cluster."""
        return None if self.clusters is None else cluster_labels(tasks, self.clusters)

    def all_attempts(self, arm: ArmOutcomes) -> ArmOutcomes:
        """Return the arm's attempts on the same tasks, those included that were made or not as outcomes came in."""
        every = self.judged.get(arm.arm)
        if every is None:
            return arm
        position = {task: i for i, task in enumerate(every.tasks)}
        lacking = [task for task in arm.tasks if task not in position]
        if lacking:
            raise StatsError(f"arm {arm.arm!r}, task {lacking[0]!r}: not among all attempts, by which it is judged")
        return every.take([position[task] for task in arm.tasks])


def figures_of(bare: ArmOutcomes, tool: ArmOutcomes, plan: Plan) -> Figures:
    """Return every figure of a pair of arms on the same tasks, each with a scored attempt in both."""
    labels, grid = plan.labels(bare.tasks), [plan.operating, plan.elicitation]
    parts = decomposition(bare, tool, plan, splits_of(bare, tool, plan))
    before, after = (reaches(arm, grid, plan) for arm in (bare, tool))
    nats, budget = gain_in_nats(bare, tool)
    ceiling = float(harmonic(budget))
    own: Columns = {
        "bare_pass1": (bare.c / bare.n, 0, 1),
        "tool_pass1": (tool.c / tool.n, 0, 1),
        "bare_operating": (before.lower[:, 0], 0, 1),
        "tool_operating": (after.lower[:, 0], 0, 1),
        "bare_elicitation": (before.lower[:, 1], 0, 1),
        "tool_elicitation": (after.lower[:, 1], 0, 1),
        "bare_elicitation_upper": (before.upper[:, 1], 0, 1),
        "tool_elicitation_upper": (after.upper[:, 1], 0, 1),
        "nats": (nats, -ceiling, ceiling),
    }
    columns = own | part_columns(parts)
    table, least, greatest = (np.stack(part, axis=-1) for part in zip(*columns.values(), strict=True))
    found = cluster_bootstrap(
        table, least=least, greatest=greatest, clusters=labels, replicates=plan.replicates, seed=plan.seed
    ).intervals(plan.alpha)
    named = {name: found[i] for i, name in enumerate(columns)}
    unsettled = ~parts.settled | (before.lower != before.upper).any(axis=1) | (after.lower != after.upper).any(axis=1)
    return Figures(
        bare=bare.arm,
        tool=tool.arm,
        tasks=bare.tasks,
        clusters=found.clusters,
        operating=plan.operating,
        elicitation=plan.elicitation,
        **{name: named[name] for name in own},
        **part_estimates(named),
        nats_budget=budget,
        support=support_row(bare, tool, plan),
        verdicts=verdicts_of(bare, tool, plan),
        log_e_created=created_evidence(bare, tool, plan),
        equivalent=_equivalent(bare, after.lower[:, 0], labels, plan),
        parts=parts,
        unsettled=int(np.count_nonzero(unsettled)),
    )


def gain_in_nats(bare: ArmOutcomes, tool: ArmOutcomes) -> tuple[FloatArray, int]:
    """Return Φ_B(bare) − Φ_B(tool) per task and B: the attempts that both arms have at the median task.

    A task with fewer is read at as many as it has: its difference is then too small in size, never of the wrong sign.
    """
    least = np.minimum(bare.n, tool.n)
    budget = int(np.quantile(least, 0.5, method="lower"))
    return tool_gain_nats(bare.n, bare.c, tool.n, tool.c, np.minimum(least, budget)), budget


def splits_of(bare: ArmOutcomes, tool: ArmOutcomes, plan: Plan) -> JointSplits | None:
    """Return the splits by sample index; None where no attempts share one, or the axis or the plan needs none."""
    if not plan.cross_fit or plan.axis != "attempts":
        return None
    return joint_splits(bare, tool, seed=plan.seed)


def decomposition(bare: ArmOutcomes, tool: ArmOutcomes, plan: Plan, splits: JointSplits | None) -> Decomposition:
    """Return gain = elicitation + creation − loss per task; ``splits`` are `splits_of` the arms, at any spends."""
    if not plan.cross_fit:
        return _plug_in(*(reaches(arm, [plan.operating, plan.elicitation], plan) for arm in (bare, tool)))
    if plan.axis != "attempts":
        return decompose_cross_fitted_at_spend(
            bare, tool, axis=plan.axis, operating=plan.operating, elicitation=plan.elicitation, seed=plan.seed
        )
    spends = {"operating": int(plan.operating), "elicitation": int(plan.elicitation)}
    return parts_of(bare, tool, **spends, seed=plan.seed, splits=splits)


def _plug_in(bare: ReachCurve, tool: ReachCurve) -> Decomposition:
    """Decompose estimates as they are: bare at its upper and tool at its lower bound, but for the greatest creation."""
    settled = (bare.lower == bare.upper).all(axis=1) & (tool.lower == tool.upper)[:, 0]
    upper = np.maximum(0.0, tool.upper[:, 0] - bare.lower[:, 1])
    found = decompose(bare.upper[:, 0], bare.upper[:, 1], tool.lower[:, 0])
    most = tool.upper[:, 0] - bare.lower[:, 0] + found.loss
    return replace(
        found, elicitation_least=found.gain - upper, elicitation_most=most,
        creation_most=upper, creation_upper=upper, settled=settled,
    )  # fmt: skip


def reaches(arm: ArmOutcomes, grid: list[float], plan: Plan) -> ReachCurve:
    """Reach at both spends. In attempts, a task with fewer than the spend is read at its own n and left open above."""
    if plan.axis != "attempts":
        return reach_curve(arm, grid, axis=plan.axis, seed=plan.seed)
    lower = np.column_stack([reach_at_k(arm.n, arm.c, np.minimum(int(k), arm.n)) for k in grid])
    short = arm.n[:, None] < np.array(grid)
    return ReachCurve("attempts", np.array(grid), lower, np.where(short, 1.0, lower), np.zeros_like(lower))


def verdicts_of(bare: ArmOutcomes, tool: ArmOutcomes, plan: Plan) -> Verdicts:
    """Return the verdicts at the spend of accessibility, from all attempts there are."""
    return verdicts(_judged(bare, plan.accessible, plan), _judged(tool, plan.accessible, plan))


def created_evidence(bare: ArmOutcomes, tool: ArmOutcomes, plan: Plan) -> FloatArray:
    """Return per task the log e-value against "not R_T(b) ≥ ρ > R_0(B)", which says that there is creation at it.

    *Expanded* compares both arms at one spend, and so does not say it: R_T(b) may be below R_0(B) all the same.
    """
    before, after = _judged(bare, plan.elicitation, plan), _judged(tool, plan.operating, plan)
    return np.minimum(before.log_e_out, after.log_e_in)


def _judged(arm: ArmOutcomes, spend: float, plan: Plan) -> Accessibility:
    """Return whether each task is accessible to the arm within a spend, from all attempts there are."""
    arm = plan.all_attempts(arm)
    if plan.axis == "attempts":
        return accessibility(arm.n, arm.c, spend, rho=plan.rho, alpha=plan.alpha, where=arm.where)
    return accessibility_at_spend(arm, plan.axis, spend, rho=plan.rho, alpha=plan.alpha)


def support_row(bare: ArmOutcomes, tool: ArmOutcomes, plan: Plan) -> SupportRow:
    """Return the support metrics at the elicitation spend, or at the most that both arms spent on every task.

    An arm that was read further than the other would seem to support more.
    """
    spend = min(plan.elicitation, *(_spent(arm, plan.axis) for arm in (bare, tool)))
    before, after = (reaches(arm, [spend], plan).lower[:, 0] for arm in (bare, tool))
    labels, share = plan.labels(bare.tasks), empirical_support(before, after)
    p, e, s = share.preserved, share.expanded, share.shrunk
    replicas = cluster_bootstrap(
        np.column_stack([p, e, e - s]), np.column_stack([p + s, p + e, p + e + s]),
        least=[0, 0, -1], greatest=[1, 1, 1], largest=1, clusters=labels, replicates=plan.replicates, seed=plan.seed,
    )  # fmt: skip
    rates = replicas.intervals(plan.alpha)
    # SDS rises with both SRR and NDR, so it may be taken inside each set of replicates.
    both = [None if r is None else harmonic_mean(r[:, :1], r[:, 1:2]) for r in (replicas.low, replicas.high)]
    middle = harmonic_mean(replicas.value[:1], replicas.value[1:2])
    undefined = np.isnan(replicas.value[:2]).any()
    sds = Replicates(np.where(undefined, np.nan, middle), both[0], both[1], replicas.clusters).intervals(plan.alpha)
    return SupportRow(spend, float(p.sum()), float(e.sum()), float(s.sum()), rates[0], rates[1], sds[0], rates[2])


def _spent(arm: ArmOutcomes, axis: str) -> float:
    """What the arm spent on the task on which it spent least."""
    if axis == "attempts":
        return float(arm.n.min())
    totals = np.add.reduceat(arm.cost(axis), arm.offsets[:-1])
    if not totals.all():
        raise StatsError(
            f"{arm.where(int(np.argmin(totals)))}attempts cost nothing on axis {axis!r}: "
            "no spend on it limits them; choose another axis"
        )
    return float(totals.min())


def _equivalent(bare: ArmOutcomes, target: FloatArray, labels: list[Hashable] | None, plan: Plan) -> SampleEquivalent:
    most = int(np.quantile(bare.n, 0.5, method="lower"))
    points = np.unique(np.geomspace(1, most, _EQUIVALENT_POINTS).round().astype(np.int64))
    grid = np.arange(1, most + 1) if most <= _EQUIVALENT_POINTS else points
    first, kind = kinds(bare.n, bare.c)
    n = bare.n[first, None]
    lower = reach_at_k(n, bare.c[first, None], np.minimum(grid, n))[kind]
    short = bare.n[:, None] < grid
    # k* > k exactly if R_0(k) < R_T(b): the interval inverts the pointwise intervals of the paired difference. A task
    # whose attempts ran out before k has a reach between that of its own n and 1.
    ends = [lower, np.where(short, 1.0, lower)] if short.any() else [lower]
    found = [
        cluster_bootstrap(
            curve - target[:, None], least=-1, greatest=1, clusters=labels, replicates=plan.replicates, seed=plan.seed
        ).intervals(plan.alpha)
        for curve in ends
    ]
    least, greatest = found[0], found[-1]
    k = sample_equivalent(least.value, 0.0, grid)
    if least.low is None or greatest.high is None:
        return SampleEquivalent(k, None, None, most, False)
    return SampleEquivalent(
        k, sample_equivalent(greatest.high, 0.0, grid), sample_equivalent(least.low, 0.0, grid), most, True
    )
