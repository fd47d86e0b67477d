"""Are repeated attempts at a task independent, or near-identical copies of one another?

Logs sampled at temperature 0, and trials that carry a solved task over, look like n attempts but hold the information
of about one: binomial bounds for such tasks are far too narrow. Outcomes alone cannot tell copies from independent
attempts of a policy that is nearly certain, one way or the other, on every task. So the flag says "do not treat these
as independent unless you know that they were sampled independently".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from testbed.stats.checks import FloatArray
from testbed.stats.outcomes import ArmOutcomes

# Flagged from here: each attempt after the first adds at most a tenth of an attempt's information.
_ICC_LIMIT = 0.9
_MIN_TASKS = 4
# Flagged from here too: sampled texts are rarely of one length.
_COST_LIMIT = 0.95
# Steele, Lea & Flood 2014 (SplitMix): after these steps each bit of a number depends on all of its bits.
_MIX = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
    (np.uint64(31), np.uint64(1)),
)


@dataclass(frozen=True)
class Repeats:
    """How alike a task's attempts are.

    Attributes:
        flagged: Whether the attempts look like copies: intraclass correlation ≥ .9 on 4 or more tasks, or costs that
            differ between tasks and are equal in ≥ 95 % of the pairs of attempts at one task.
        icc: Intraclass correlation of the outcomes (analysis of variance); None where every outcome is the same or no
            task has two attempts.
        disagreement: Chance that two attempts at one task differ; None as above.
        disagreement_if_alike: What that chance would be, were all tasks equally hard: 2 p (1 − p).
        mixed_tasks: Tasks with both a success and a failure.
        tasks: Tasks with two attempts or more.
        effective_attempts: Mean n / (1 + (n−1)·max(icc, 0)): what a task's attempts are worth to the mean over tasks.
            Tasks of different difficulty lower it too; a sign of copies only where ``flagged``.
        identical_costs: Share of pairs of attempts at one task whose recorded costs are all equal; None without
            costs. Near 1, it says that transcripts repeat too.
        outcomes_repeat: Whether the outcomes flag them, whatever the costs.
        costs_repeat: Whether the costs flag them, whatever the outcomes.
    """

    flagged: bool
    icc: float | None
    disagreement: float | None
    disagreement_if_alike: float | None
    mixed_tasks: int
    tasks: int
    effective_attempts: float | None
    identical_costs: float | None
    outcomes_repeat: bool
    costs_repeat: bool


def near_identical(arm: ArmOutcomes) -> Repeats:
    """Say whether an arm's repeated attempts vary far less within tasks than independent ones would.

    Args:
        arm: Its outcomes. Tasks with fewer than two attempts say nothing and are left out.
    """
    kept = np.flatnonzero(arm.n >= 2)
    n, c = arm.n[kept].astype(np.float64), arm.c[kept].astype(np.float64)
    mixed = int(np.count_nonzero((c > 0) & (c < n)))
    alike = _identical_cost_share(arm) if arm.costs else None
    copied = alike is not None and alike >= _COST_LIMIT and any(np.ptp(arm.costs[axis]) > 0 for axis in arm.costs)
    if kept.size < 2 or c.sum() in (0, n.sum()):
        return Repeats(
            copied, None, None, None, mixed, int(kept.size), None, alike, outcomes_repeat=False, costs_repeat=copied
        )
    icc = _intraclass_correlation(n, c)
    repeated = bool(icc >= _ICC_LIMIT and kept.size >= _MIN_TASKS)
    pooled = c.sum() / n.sum()
    return Repeats(
        flagged=copied or repeated,
        icc=icc,
        disagreement=float(np.mean(2 * c * (n - c) / (n * (n - 1)))),
        disagreement_if_alike=float(2 * pooled * (1 - pooled)),
        mixed_tasks=mixed,
        tasks=int(kept.size),
        effective_attempts=float(np.mean(n / (1 + (n - 1) * max(icc, 0.0)))),
        identical_costs=alike,
        outcomes_repeat=repeated,
        costs_repeat=copied,
    )


def _intraclass_correlation(n: FloatArray, c: FloatArray) -> float:
    """One-way analysis of variance for 0/1 outcomes in groups of size n."""
    groups, total = n.size, n.sum()
    pooled = c.sum() / total
    between = float((n * (c / n - pooled) ** 2).sum() / (groups - 1))
    within = float((c * (n - c) / n).sum() / (total - groups))
    size = float((total - (n**2).sum() / total) / (groups - 1))
    return (between - within) / (between + (size - 1) * within)


def _identical_cost_share(arm: ArmOutcomes) -> float | None:
    """Share of pairs of attempts at one task that agree on every cost axis; None without any pair."""
    # Sorting one 64-bit digest of task and costs is twenty times as fast as sorting by each column. Two different
    # attempts among 10^6 have the same one with a chance of 3 in 10^8, which would add one pair to the share.
    digest = np.repeat(np.arange(len(arm.tasks), dtype=np.uint64), arm.n)
    for axis in sorted(arm.costs):
        digest ^= (arm.costs[axis] + 0.0).view(np.uint64)  # + 0.0: −0 and 0 are the same cost
        for shift, factor in _MIX:
            digest ^= digest >> shift
            digest *= factor
    digest.sort()
    times = np.diff(np.flatnonzero(np.concatenate([[True], digest[1:] != digest[:-1], [True]])))
    pairs = float((arm.n * (arm.n - 1)).sum())
    return float((times * (times - 1)).sum() / pairs) if pairs else None
