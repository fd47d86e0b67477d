"""One bare arm against one tool arm: every figure of the measurement, with intervals, bounds and the null row."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from testbed.stats.bootstrap import Replicates, cluster_bootstrap
from testbed.stats.checks import FloatArray, StatsError, probability
from testbed.stats.comparison import Comparison, Figures, MissingBounds, Range, SampleEquivalent, SupportRow
from testbed.stats.crossfit import decompose_cross_fitted, decompose_cross_fitted_at_spend
from testbed.stats.energy import harmonic, tool_gain_nats
from testbed.stats.gain import Decomposition, decompose, sample_equivalent
from testbed.stats.outcomes import ArmOutcomes, align
from testbed.stats.reach import reach_at_k
from testbed.stats.repeats import near_identical
from testbed.stats.spend import ReachCurve, reach_curve
from testbed.stats.support import empirical_support, harmonic_mean
from testbed.stats.verdicts import Verdicts, accessibility, verdicts

_EQUIVALENT_POINTS = 128


@dataclass(frozen=True)
class _Plan:
    axis: str
    operating: float
    elicitation: float
    rho: float | tuple[float, float]
    alpha: float
    replicates: int
    seed: int
    clusters: Mapping[str, Hashable] | None
    cross_fit: bool

    def labels(self, tasks: tuple[str, ...]) -> list[Hashable] | None:
        if self.clusters is None:
            return None
        unknown = [task for task in tasks if task not in self.clusters]
        if unknown:
            raise StatsError(f"task {unknown[0]!r} has no cluster label")
        return [self.clusters[task] for task in tasks]


def balanced_elicitation(bare: ArmOutcomes) -> int:
    """Return the largest elicitation spend, in attempts, with balanced folds: half the least n of the bare arm, ≥ 1."""
    scored = bare.n[bare.n > 0]
    return max(1, int(scored.min()) // 2) if scored.size else 1


def compare_arms(
    bare: ArmOutcomes,
    tool: ArmOutcomes,
    *,
    operating: float = 1,
    elicitation: float,
    axis: str = "attempts",
    rho: float | tuple[float, float] = 0.5,
    alpha: float = 0.05,
    replicates: int = 2000,
    seed: int = 0,
    clusters: Mapping[str, Hashable] | None = None,
    cross_fit: bool = True,
) -> Comparison:
    """Compare a tool arm with a bare arm on the tasks they share.

    Args:
        bare: The bare arm.
        tool: The tool arm.
        operating: Spend b at which the arms are compared: whole attempts, or a spend on the cost ``axis``.
        elicitation: Spend B ≥ b up to which resampling the bare arm counts as elicitation; also the spend of the
            verdicts. In attempts it must leave each bare task one attempt more (see `balanced_elicitation`).
        axis: "attempts", or a cost axis that both arms recorded.
        rho: Reach that counts as accessible; or a pair (ρ_out, ρ_in).
        alpha: Level.
        replicates: Bootstrap replicates.
        seed: Seed of bootstrap, orderings and splits.
        clusters: Task → cluster label; every task its own cluster where left out.
        cross_fit: Whether creation and loss are cross-fitted. Without it they are the plug-in's, biased upward: for
            logs with too few attempts per task, such as one (``figures.parts.cross_fitted`` keeps record of it).

    Raises:
        StatsError: No common task, no task scored in both arms, spends that the attempts do not allow, an unknown
            axis or task label.
    """
    probability(alpha, "alpha", open_ends=True)
    _check_spends(axis, operating, elicitation)
    plan = _Plan(axis, operating, elicitation, rho, alpha, replicates, seed, clusters, cross_fit)
    both = align(bare, tool)
    scored = np.flatnonzero((both[0].n > 0) & (both[1].n > 0))
    if not scored.size:
        raise StatsError(f"arms {bare.arm!r} and {tool.arm!r} share no task with a scored attempt in both")
    before, after = (arm.take(scored) for arm in both)
    common = set(both[0].tasks)
    return Comparison(
        axis=axis,
        rho=rho,
        alpha=alpha,
        figures=_figures(before, after, plan),
        null=_null_row(before, plan),
        missing=_missing_bounds(*both, plan),
        only_bare=tuple(task for task in bare.tasks if task not in common),
        only_tool=tuple(task for task in tool.tasks if task not in common),
        unscored=tuple(sorted(common - set(before.tasks), key=both[0].tasks.index)),
        bare_repeats=near_identical(before),
        tool_repeats=near_identical(after),
    )


def _check_spends(axis: str, operating: float, elicitation: float) -> None:
    if not 0 < operating <= elicitation < np.inf:
        raise StatsError(f"spends must satisfy 0 < operating ≤ elicitation, not {operating} and {elicitation}")
    if axis == "attempts" and (operating != int(operating) or elicitation != int(elicitation)):
        raise StatsError(f"spends in attempts must be whole, not {operating} and {elicitation}")


def _figures(bare: ArmOutcomes, tool: ArmOutcomes, plan: _Plan) -> Figures:
    labels, grid = plan.labels(bare.tasks), [plan.operating, plan.elicitation]
    parts = _decomposition(bare, tool, plan)
    before, after = (_reaches(arm, grid, plan) for arm in (bare, tool))
    budget = int(min(bare.n.min(), tool.n.min()))
    ceiling = float(harmonic(budget))
    columns: dict[str, tuple[FloatArray, float, float]] = {
        "bare_pass1": (bare.c / bare.n, 0, 1),
        "tool_pass1": (tool.c / tool.n, 0, 1),
        "bare_operating": (before.lower[:, 0], 0, 1),
        "tool_operating": (after.lower[:, 0], 0, 1),
        "bare_elicitation": (before.lower[:, 1], 0, 1),
        "tool_elicitation": (after.lower[:, 1], 0, 1),
        "bare_elicitation_upper": (before.upper[:, 1], 0, 1),
        "tool_elicitation_upper": (after.upper[:, 1], 0, 1),
        "gain": (parts.gain, -1, 1),
        # A single task's cross-fitted part may be negative: on every split it is a difference of reaches. On a cost
        # axis the gain is measured apart from the splits, so elicitation may leave [−1, 1] by Monte-Carlo noise.
        "elicitation_part": (parts.elicitation, min(-1.0, parts.elicitation.min()), max(1.0, parts.elicitation.max())),
        "creation": (parts.creation, -1, 1),
        "creation_upper": (parts.creation_upper, -1, 1),
        "loss": (parts.loss, -1, 1),
        "nats": (tool_gain_nats(bare.n, bare.c, tool.n, tool.c, budget), -ceiling, ceiling),
    }
    table, least, greatest = (np.stack(part, axis=-1) for part in zip(*columns.values(), strict=True))
    found = cluster_bootstrap(
        table, least=least, greatest=greatest, clusters=labels, replicates=plan.replicates, seed=plan.seed
    ).intervals(plan.alpha)
    unsettled = ~parts.settled | (before.lower != before.upper).any(axis=1) | (after.lower != after.upper).any(axis=1)
    return Figures(
        bare=bare.arm,
        tool=tool.arm,
        tasks=bare.tasks,
        clusters=found.clusters,
        operating=plan.operating,
        elicitation=plan.elicitation,
        **{name: found[i] for i, name in enumerate(columns)},
        nats_budget=budget,
        support=_support(before.lower[:, 1], after.lower[:, 1], labels, plan),
        verdicts=_verdicts(bare, tool, plan),
        equivalent=_equivalent(bare, after.lower[:, 0], labels, plan),
        parts=parts,
        unsettled=int(np.count_nonzero(unsettled)),
    )


def _decomposition(bare: ArmOutcomes, tool: ArmOutcomes, plan: _Plan) -> Decomposition:
    if not plan.cross_fit:
        return _plug_in(*(_reaches(arm, [plan.operating, plan.elicitation], plan) for arm in (bare, tool)))
    if plan.axis != "attempts":
        return decompose_cross_fitted_at_spend(
            bare, tool, axis=plan.axis, operating=plan.operating, elicitation=plan.elicitation, seed=plan.seed
        )
    return decompose_cross_fitted(
        bare.n, bare.c, tool.n, tool.c, operating=int(plan.operating), elicitation=int(plan.elicitation),
        bare=bare.where, tool=tool.where,
    )  # fmt: skip


def _plug_in(bare: ReachCurve, tool: ReachCurve) -> Decomposition:
    """Decompose estimates as they are: bare at its upper and tool at its lower bound, but for the greatest creation."""
    settled = (bare.lower == bare.upper).all(axis=1) & (tool.lower == tool.upper)[:, 0]
    upper = np.maximum(0.0, tool.upper[:, 0] - bare.lower[:, 1])
    return replace(
        decompose(bare.upper[:, 0], bare.upper[:, 1], tool.lower[:, 0]), creation_upper=upper, settled=settled
    )


def _reaches(arm: ArmOutcomes, grid: list[float], plan: _Plan) -> ReachCurve:
    """Reach at both spends. In attempts, a task with fewer than the spend is read at its own n and left open above."""
    if plan.axis != "attempts":
        return reach_curve(arm, grid, axis=plan.axis, seed=plan.seed)
    lower = np.column_stack([reach_at_k(arm.n, arm.c, np.minimum(int(k), arm.n)) for k in grid])
    short = arm.n[:, None] < np.array(grid)
    return ReachCurve("attempts", np.array(grid), lower, np.where(short, 1.0, lower), np.zeros_like(lower))


def _verdicts(bare: ArmOutcomes, tool: ArmOutcomes, plan: _Plan) -> Verdicts:
    judged = [
        accessibility(arm.n, arm.c, _affordable(arm, plan), rho=plan.rho, alpha=plan.alpha, where=arm.where)
        for arm in (bare, tool)
    ]
    return verdicts(judged[0], judged[1])


def _affordable(arm: ArmOutcomes, plan: _Plan) -> FloatArray:
    """Attempts K that the elicitation spend buys, per task."""
    if plan.axis == "attempts":
        return np.full(len(arm.tasks), float(plan.elicitation))
    mean = arm.mean_cost(plan.axis)
    if (mean <= 0).any():
        raise StatsError(
            f"{arm.where(int(np.argmin(mean)))}attempts cost nothing on axis {plan.axis!r}: "
            "no spend on it limits them; choose another axis"
        )
    return np.asarray(plan.elicitation / mean, dtype=np.float64)


def _support(before: FloatArray, after: FloatArray, labels: list[Hashable] | None, plan: _Plan) -> SupportRow:
    share = empirical_support(before, after)
    p, e, s = share.preserved, share.expanded, share.shrunk
    replicas = cluster_bootstrap(
        np.column_stack([p, e, e - s]), np.column_stack([p + s, p + e, p + e + s]),
        least=[0, 0, -1], greatest=[1, 1, 1], clusters=labels, replicates=plan.replicates, seed=plan.seed,
    )  # fmt: skip
    rates = replicas.intervals(plan.alpha)
    # SDS rises with both SRR and NDR, so it may be taken inside each set of replicates.
    both = [None if r is None else harmonic_mean(r[:, :1], r[:, 1:2]) for r in (replicas.low, replicas.high)]
    middle = harmonic_mean(replicas.value[:1], replicas.value[1:2])
    undefined = np.isnan(replicas.value[:2]).any()
    sds = Replicates(np.where(undefined, np.nan, middle), both[0], both[1], replicas.clusters).intervals(plan.alpha)
    return SupportRow(float(p.sum()), float(e.sum()), float(s.sum()), rates[0], rates[1], sds[0], rates[2])


def _equivalent(bare: ArmOutcomes, target: FloatArray, labels: list[Hashable] | None, plan: _Plan) -> SampleEquivalent:
    most = int(bare.n.min())
    points = np.unique(np.geomspace(1, most, _EQUIVALENT_POINTS).round().astype(np.int64))
    grid = np.arange(1, most + 1) if most <= _EQUIVALENT_POINTS else points
    curve = reach_curve(bare, grid).lower
    # k* > k exactly if R_0(k) < R_T(b): the interval inverts the pointwise intervals of the paired difference.
    difference = cluster_bootstrap(
        curve - target[:, None], least=-1, greatest=1, clusters=labels, replicates=plan.replicates, seed=plan.seed
    ).intervals(plan.alpha)
    k = sample_equivalent(difference.value, 0.0, grid)
    if difference.low is None or difference.high is None:
        return SampleEquivalent(k, None, None, most, False)
    return SampleEquivalent(
        k, sample_equivalent(difference.high, 0.0, grid), sample_equivalent(difference.low, 0.0, grid), most, True
    )


def _null_row(bare: ArmOutcomes, plan: _Plan) -> Figures | None:
    """Compare two halves of the bare arm: what the same figures look like when nothing differs."""
    most = int(bare.n.min()) // 2 - int(plan.cross_fit)
    if most < 1:
        return None
    if plan.axis == "attempts":
        plan = replace(plan, operating=min(plan.operating, most), elicitation=min(plan.elicitation, most))
    return _figures(*bare.halves(plan.seed), plan)


def _missing_bounds(bare: ArmOutcomes, tool: ArmOutcomes, plan: _Plan) -> MissingBounds | None:
    if not bare.missing.any() and not tool.missing.any():
        return None
    kept = np.flatnonzero((bare.n + bare.missing > 0) & (tool.n + tool.missing > 0))
    bare, tool = bare.take(kept), tool.take(kept)
    names = ("bare_pass1", "tool_pass1", "bare_operating", "tool_operating", "bare_elicitation", "tool_elicitation",
             "gain", "elicitation_part", "creation", "loss")  # fmt: skip
    corners = [
        _point_figures(bare.with_missing(succeed=first), tool.with_missing(succeed=second), plan)
        for first in ((False, True) if bare.missing.any() else (False,))
        for second in ((False, True) if tool.missing.any() else (False,))
    ]
    return MissingBounds(
        bare_missing=int(bare.missing.sum()),
        tool_missing=int(tool.missing.sum()),
        tasks=len(bare.tasks),
        figures={
            name: Range(min(point[name] for point, _ in corners), max(point[name] for point, _ in corners))
            for name in names
        },
        counts={
            name: Range(min(count[name] for _, count in corners), max(count[name] for _, count in corners))
            for name in corners[0][1]
        },
    )


def _point_figures(bare: ArmOutcomes, tool: ArmOutcomes, plan: _Plan) -> tuple[dict[str, float], dict[str, int]]:
    parts = _decomposition(bare, tool, plan)
    before, after = (_reaches(arm, [plan.operating, plan.elicitation], plan) for arm in (bare, tool))
    columns = {
        "bare_pass1": bare.c / bare.n,
        "tool_pass1": tool.c / tool.n,
        "bare_operating": before.lower[:, 0],
        "tool_operating": after.lower[:, 0],
        "bare_elicitation": before.lower[:, 1],
        "tool_elicitation": after.lower[:, 1],
        "gain": parts.gain,
        "elicitation_part": parts.elicitation,
        "creation": parts.creation,
        "loss": parts.loss,
    }
    return {name: float(column.mean()) for name, column in columns.items()}, _verdicts(bare, tool, plan).counts
