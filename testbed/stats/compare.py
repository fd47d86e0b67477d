"""One bare arm against one tool arm: every figure of the measurement, with intervals, bounds and the null row."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from testbed.stats.bootstrap import cluster_bootstrap
from testbed.stats.checks import FloatArray, StatsError, level
from testbed.stats.comparison import Comparison, CreationBySpend, Figures, MissingBounds, Range, SupportRow
from testbed.stats.figures import (
    Plan,
    created_evidence,
    decomposition,
    figures_of,
    gain_in_nats,
    reaches,
    splits_of,
    support_row,
    verdicts_of,
)
from testbed.stats.outcomes import ArmOutcomes
from testbed.stats.pairing import align
from testbed.stats.parts import between
from testbed.stats.repeats import near_identical
from testbed.stats.support import empirical_support, support_metrics

_SPENDS = 10  # points of creation against the elicitation spend, at most: each costs a decomposition


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
    accessible: float | None = None,
    everything: tuple[ArmOutcomes, ArmOutcomes] | None = None,
    second_bare: ArmOutcomes | None = None,
    judged: Mapping[str, ArmOutcomes] | None = None,
) -> Comparison:
    """Compare a tool arm with a bare arm on the tasks they share.

    Args:
        bare: The bare arm.
        tool: The tool arm.
        operating: Spend b at which the arms are compared: whole attempts, or a spend on the cost ``axis``.
        elicitation: Spend B ≥ b up to which resampling the bare arm counts as elicitation. In attempts it must leave
            each bare task one attempt more, and better as many again (see `balanced_elicitation`).
        axis: "attempts", or a cost axis that both arms recorded.
        rho: Reach that counts as accessible; or a pair (ρ_out, ρ_in).
        alpha: Level.
        replicates: Bootstrap replicates.
        seed: Seed of bootstrap, orderings and splits.
        clusters: Task → cluster label; every task its own cluster where left out.
        cross_fit: Whether creation and loss are cross-fitted. Without it they are the plug-in's, biased upward: for
            logs with too few attempts per task, such as one (``figures.parts.cross_fitted`` keeps record of it).
        accessible: Spend of the verdicts, which need no folds; B where left out.
        everything: Both arms with the tasks included that have too few scored attempts to be read at these spends, for
            the bounds over missing attempts; the arms as given where left out.
        second_bare: Another sample of the bare policy, for the null row; random halves of the bare arm where left out.
        judged: By arm name, all attempts of arms whose sampling stopped early. Verdicts are made from them, since
            they hold wherever one stops; every other figure from the arms given, whose numbers of attempts must not
            depend on outcomes.

    Raises:
        StatsError: No common task, no task scored in both arms, spends that the attempts do not allow, an unknown
            axis or task label.
    """
    level(alpha)
    _check_spends(axis, operating, elicitation, accessible)
    plan = Plan(
        axis, operating, elicitation, rho, alpha, replicates, seed, clusters, cross_fit,
        accessible=elicitation if accessible is None else accessible, judged=judged or {},
    )  # fmt: skip
    both = align(bare, tool)
    scored = np.flatnonzero((both[0].n > 0) & (both[1].n > 0))
    if not scored.size:
        raise StatsError(f"arms {bare.arm!r} and {tool.arm!r} share no task with a scored attempt in both")
    before, after = (arm.take(scored) for arm in both)
    common = set(both[0].tasks)
    null, figures = _null_row(before, second_bare, plan), figures_of(before, after, plan)
    return Comparison(
        axis=axis,
        rho=rho,
        alpha=alpha,
        figures=figures,
        null=null,
        at_null=_at_null(before, after, null, figures, plan),
        creation_by_spend=_creation_by_spend(before, after, plan),
        missing=_missing_bounds(*(both if everything is None else align(*everything)), plan),
        only_bare=tuple(task for task in bare.tasks if task not in common),
        only_tool=tuple(task for task in tool.tasks if task not in common),
        unscored=tuple(sorted(common - set(before.tasks), key=both[0].tasks.index)),
        bare_repeats=near_identical(before),
        tool_repeats=near_identical(after),
    )


def _check_spends(axis: str, operating: float, elicitation: float, accessible: float | None) -> None:
    if not 0 < operating <= elicitation < np.inf:
        raise StatsError(f"spends must satisfy 0 < operating ≤ elicitation, not {operating} and {elicitation}")
    if accessible is not None and not 0 < accessible < np.inf:
        raise StatsError(f"the spend of the verdicts must be positive, not {accessible}")
    if axis == "attempts" and (operating != int(operating) or elicitation != int(elicitation)):
        raise StatsError(f"spends in attempts must be whole, not {operating} and {elicitation}")


def _null_row(bare: ArmOutcomes, second: ArmOutcomes | None, plan: Plan) -> Figures | None:
    """Compare two samples of the bare policy: what the same figures look like when nothing differs."""
    if second is not None:
        one, other = align(bare, second)
        scored = np.flatnonzero((one.n > 0) & (other.n > 0))
        if not scored.size:
            return None
        one, other = one.take(scored), other.take(scored)
    else:
        one, other = bare.halves(plan.seed)
        if bare.arm in plan.judged:
            halves = plan.all_attempts(bare).halves(plan.seed)
            plan = replace(plan, judged={half.arm: half for half in halves})
    spare = int(plan.cross_fit)
    if plan.axis != "attempts":
        return figures_of(one, other, plan) if min(int(one.n.min()), int(other.n.min())) > spare else None
    # By the median task, so that one task short of attempts does not change what the others are read at.
    most, most_operating = (int(np.quantile(arm.n, 0.5, method="lower")) - spare for arm in (one, other))
    if min(most, most_operating) < 1:
        return None
    elicitation = int(min(plan.elicitation, most))
    plan = replace(plan, operating=min(plan.operating, elicitation, most_operating), elicitation=elicitation)
    kept = np.flatnonzero((one.n >= elicitation + spare) & (other.n >= plan.operating + spare))
    return figures_of(one.take(kept), other.take(kept), plan) if kept.size else None


def _at_null(
    bare: ArmOutcomes, tool: ArmOutcomes, null: Figures | None, figures: Figures, plan: Plan
) -> SupportRow | None:
    if null is None or null.support.spend >= figures.support.spend:
        return None
    own = set(null.tasks)
    rows = np.array([i for i, task in enumerate(bare.tasks) if task in own], dtype=np.int64)
    if not rows.size:
        return None
    bare, tool = bare.take(rows), tool.take(rows)
    return support_row(bare, tool, replace(plan, elicitation=null.support.spend))


def _creation_by_spend(bare: ArmOutcomes, tool: ArmOutcomes, plan: Plan) -> CreationBySpend | None:
    """Creation at doubling elicitation spends: up to half of the bare attempts, or the spend asked for if that is more.

    On a cost axis, up to what half of the bare attempts at the cheapest task cost.
    """
    if not plan.cross_fit:
        return None
    if plan.axis == "attempts":
        most = max(plan.elicitation, int(bare.n.min()) // 2)
    else:
        most = max(plan.elicitation, float((bare.mean_cost(plan.axis) * bare.n).min()) / 2)
    times = int(np.floor(np.log2(most / plan.operating) + 1e-9))
    doubling = plan.operating * 2.0 ** np.arange(max(0, times - _SPENDS + 1), times + 1)
    spends = np.unique(np.append(doubling, plan.elicitation))
    splits = splits_of(bare, tool, plan)
    parts = [decomposition(bare, tool, replace(plan, elicitation=spend), splits) for spend in spends.tolist()]
    found = cluster_bootstrap(
        np.stack([column for p in parts for column in (p.creation, p.creation_most)], axis=1), least=-1, greatest=1,
        clusters=plan.labels(bare.tasks), replicates=plan.replicates, seed=plan.seed,
    ).intervals(plan.alpha)  # fmt: skip
    return CreationBySpend(
        tuple(spends.tolist()),
        tuple(between(found[2 * i], found[2 * i], found[2 * i + 1]) for i in range(spends.size)),
    )


def _missing_bounds(bare: ArmOutcomes, tool: ArmOutcomes, plan: Plan) -> MissingBounds | None:
    every = [plan.all_attempts(arm) for arm in (bare, tool)]
    lost = [bool(arm.missing.any() or own.missing.any()) for arm, own in zip((bare, tool), every, strict=True)]
    if not any(lost):
        return None
    kept = np.flatnonzero(
        (bare.n + bare.missing >= _fewest(plan, plan.elicitation))
        & (tool.n + tool.missing >= _fewest(plan, plan.operating))
    )
    bare, tool = bare.take(kept), tool.take(kept)
    corners = [
        _point_figures(bare, tool, (first, second), plan)
        for first in ((False, True) if lost[0] else (False,))
        for second in ((False, True) if lost[1] else (False,))
    ]
    return MissingBounds(
        bare_missing=int(every[0].missing.sum()),
        tool_missing=int(every[1].missing.sum()),
        tasks=len(bare.tasks),
        figures={
            name: _range(values)
            for name in corners[0].figures
            if not np.isnan(values := [corner.figures[name] for corner in corners]).any()
        },
        counts={name: _range([corner.counts[name] for corner in corners]) for name in corners[0].counts},
        names=bare.tasks,
        least={name: np.min([corner.least[name] for corner in corners], axis=0) for name in corners[0].least},
        most={name: np.max([corner.most[name] for corner in corners], axis=0) for name in corners[0].most},
    )


def _fewest(plan: Plan, spend: float) -> int:
    """Attempts, missing ones included, that a task needs to be read at a spend."""
    if not plan.cross_fit:
        return 1
    return int(spend) + 1 if plan.axis == "attempts" else 2


def _range(values: list[float]) -> Range:
    return Range(min(values), max(values))


@dataclass(frozen=True, eq=False)
class _Corner:
    """One way in which missing attempts could have ended; `least` and `most` as in `MissingBounds`, per task."""

    figures: dict[str, float]
    counts: dict[str, float]
    least: dict[str, FloatArray]
    most: dict[str, FloatArray]


def _point_figures(bare: ArmOutcomes, tool: ArmOutcomes, succeed: tuple[bool, bool], plan: Plan) -> _Corner:
    """Return every figure, and what claims rest on, if missing attempts of each arm ended as said."""
    judged = {
        arm.arm: plan.all_attempts(arm).with_missing(succeed=end)
        for arm, end in zip((bare, tool), succeed, strict=True)
        if arm.arm in plan.judged
    }
    plan = replace(plan, judged=judged)
    bare, tool = (arm.with_missing(succeed=end) for arm, end in zip((bare, tool), succeed, strict=True))
    parts = decomposition(bare, tool, plan, splits_of(bare, tool, plan))
    before, after = (reaches(arm, [plan.operating, plan.elicitation], plan) for arm in (bare, tool))
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
        "nats": gain_in_nats(bare, tool)[0],
    }
    share = empirical_support(before.lower[:, 1], after.lower[:, 1])
    ratios = support_metrics(float(share.preserved.sum()), float(share.expanded.sum()), float(share.shrunk.sum()))
    support = {name: np.nan if (v := getattr(ratios, name)) is None else v for name in ("srr", "ndr", "sds", "nscr")}
    judged_so = verdicts_of(bare, tool, plan)
    return _Corner(
        figures={name: float(column.mean()) for name, column in columns.items()} | support,
        counts={name: float(count) for name, count in judged_so.counts.items()},
        least={
            "elicitation": parts.elicitation_least,
            "creation": parts.creation,
            "loss": parts.loss,
            "created": created_evidence(bare, tool, plan),
            "expanded": judged_so.log_e_expanded,
            "lost": judged_so.log_e_lost,
        },
        most={"elicitation": parts.elicitation, "creation": parts.creation, "loss": parts.loss},
    )
