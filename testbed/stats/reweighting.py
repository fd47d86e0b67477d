"""How much divergence re-weighting would have to spend to do what the tools do: kl(p_T ‖ p_0), between limits.

Where the bare arm never succeeded its p may be as small as one likes, so there is no upper limit: the record says None,
not infinity. A lower limit there always is.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from testbed.stats.bands import simultaneous_band
from testbed.stats.bootstrap import cluster_bootstrap, cluster_labels
from testbed.stats.checks import FloatArray, probability
from testbed.stats.energy import bernoulli_kl
from testbed.stats.outcomes import ArmOutcomes
from testbed.stats.pairing import align
from testbed.stats.sequences import confidence_sequence
from testbed.stats.spend import every_task_attempted

_BEYOND = 8  # replicates beyond a joint limit, at least: fewer leave it to chance, or give none


@dataclass(frozen=True, eq=False)
class Reweighting:
    """The least nats that re-weighting the bare arm must spend to succeed as often as the tool arm, or more often.

    kl(p_T ‖ p_0) where p_T > p_0, else 0.

    Attributes:
        tasks: The T tasks.
        low: Lower limit per task, shape (T,), finite.
        value: At the smoothed rates (c + ½)/(n + 1), shape (T,). Finite also without a bare success, but then it is the
            smoothing that speaks: it grows like p_T·ln n. Compare it at equal n only.
        high: Upper limit per task; None where none follows: the bare arm had no success, and its p may be as small as
            one likes.
        mean: Mean of ``value``.
        mean_low: Lower limit of the true mean over tasks; None with fewer than two clusters. No upper limit exists.
        alpha: Each task's limits hold with probability 1 − alpha at any stopping time; so does ``mean_low``, for n
            fixed in advance.
    """

    tasks: tuple[str, ...]
    low: FloatArray
    value: FloatArray
    high: tuple[float | None, ...]
    mean: float
    mean_low: float | None
    alpha: float


def least_reweighting(
    bare: ArmOutcomes,
    tool: ArmOutcomes,
    *,
    clusters: Mapping[str, Hashable] | None = None,
    alpha: float = 0.05,
    replicates: int = 2000,
    seed: int = 0,
) -> Reweighting:
    """Return the least nats that re-weighting the bare arm would have to spend to do as well as the tool arm.

    Per task between confidence limits (α/2 in each arm); for the suite a lower limit: the divergence is jointly convex,
    so its mean over tasks is at least that of the mean success probabilities, which the bootstrap bounds.

    Args:
        bare: The bare arm.
        tool: The tool arm; compared on the common tasks.
        clusters: Task → cluster label; every task its own cluster where left out.
        alpha: Level.
        replicates: Bootstrap replicates; more are drawn where so few would not settle the limit.
        seed: Their seed.

    Raises:
        StatsError: No common task, or one without attempts or label.
    """
    probability(alpha, "alpha", open_ends=True)
    before, after = align(bare, tool)
    for arm in (before, after):
        every_task_attempted(arm)
    (low_0, high_0), (low_t, high_t) = (
        confidence_sequence(arm.n, arm.c, alpha / 2, where=arm.where) for arm in (before, after)
    )
    smooth_0, smooth_t = ((arm.c + 0.5) / (arm.n + 1) for arm in (before, after))
    value, most = _needed(smooth_t, smooth_0), _needed(high_t, low_0)
    rates = np.column_stack([before.c / before.n, after.c / after.n])
    labels = cluster_labels(before.tasks, clusters, before.where)
    drawn = max(replicates, math.ceil(_BEYOND / alpha))
    band = simultaneous_band(cluster_bootstrap(rates, clusters=labels, replicates=drawn, seed=seed), alpha)
    mean_low = None
    if band.low is not None and band.high is not None:
        mean_low = float(_needed(band.low[1], band.high[0]))
    return Reweighting(
        tasks=before.tasks,
        low=_needed(low_t, high_0),
        value=value,
        high=tuple(float(m) if np.isfinite(m) else None for m in most),
        mean=float(value.mean()),
        mean_low=mean_low,
        alpha=alpha,
    )


def _needed(q: ArrayLike, p: ArrayLike) -> FloatArray:
    """Return the least nats to reach success q or more from p."""
    target, chance = np.minimum(q, 1.0), np.minimum(p, 1.0)
    return np.where(target > chance, bernoulli_kl(np.maximum(target, chance), chance), 0.0)
