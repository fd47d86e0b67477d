"""Reach of a whole suite at more attempts than were made, and a refusal where the data cannot say.

The value is that of a zero-inflated beta-binomial (`zero_inflated`) fitted by maximum likelihood. A model cannot vouch
for itself beyond its data, so the limits do not come from it: they hold for *every* distribution of p over tasks. With
m_j the mean of (1−p)^j, reach does not fall, and j ↦ ln m_j is convex (Hölder); so for k > n

    1 − m_n  ≤  R(k)  ≤  1 − m_n (m_n/m_{n−1})^(k−n),

and m_n and m_{n−1} are estimated without bias from n attempts: at equal n by the shares of tasks without a success and
with exactly one. An answer is given where these limits are narrow enough to be one (derived here; docs/measurement.md).

Never for a single task: its n attempts say next to nothing about p below 1/n.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from testbed.stats.bootstrap import check_replicates, cluster_codes
from testbed.stats.checks import FloatArray, IntArray, StatsError, probability, whole_numbers
from testbed.stats.intervals import Estimate
from testbed.stats.outcomes import ArmOutcomes
from testbed.stats.reach import reach_at_k
from testbed.stats.spend import every_task_attempted
from testbed.stats.zero_inflated import Groups, at_the_edge, best_fit, fit

# A fit of three numbers wants so many clusters, and so many tasks that tell more than "never" or "always".
_CLUSTERS = 10
_INFORMATIVE = 10
_MOST_TIMES = 10
_LIMIT_REPLICATES = 2000
# Weights held at a time, in numbers (32 MiB).
_WEIGHTS_AT_A_TIME = 4_000_000


@dataclass(frozen=True, eq=False)
class Extrapolation:
    """Mean reach over tasks of one arm at K numbers of attempts beyond those made.

    Attributes:
        arm: Name of the arm.
        k: Numbers of attempts, shape (K,).
        attempts: Attempts of the task that has the fewest: what is extrapolated from.
        value: Reach at k by the fitted model, shape (K,).
        low: Lower confidence limits, shape (K,); valid whatever the distribution of p over tasks.
        high: Upper ones, shape (K,).
        model_low: Lower ends of the bootstrap intervals of ``value``, shape (K,); they trust the model's form and miss
            the truth where it is wrong.
        model_high: Upper ends, shape (K,).
        zero: Fitted share of tasks that are never solved, with its bootstrap interval. Of tasks with small p it
            cannot be told apart from them.
        a: First shape parameter of p over the other tasks.
        b: Second one.
        edge: At which end of what is searched the fit stopped, in words; "" where at none.
        without_zeros: Reach at k by the plain beta-binomial, which takes every task for solvable, shape (K,).
        tasks: Number of tasks.
        clusters: Number of clusters resampled.
        alpha: Level of the limits and intervals.
    """

    arm: str
    k: IntArray
    attempts: int
    value: FloatArray
    low: FloatArray
    high: FloatArray
    model_low: FloatArray
    model_high: FloatArray
    zero: Estimate
    a: float
    b: float
    edge: str
    without_zeros: FloatArray
    tasks: int
    clusters: int
    alpha: float


def extrapolate_reach(
    arm: ArmOutcomes,
    k: ArrayLike,
    *,
    clusters: Mapping[str, Hashable] | None = None,
    alpha: float = 0.05,
    widest: float = 0.3,
    replicates: int = 200,
    seed: int = 0,
) -> Extrapolation:
    """Extrapolate the mean reach of a suite to k attempts, more than its tasks had.

    Args:
        arm: Its outcomes; n fixed in advance.
        k: Numbers of attempts, more than the least n.
        clusters: Task → cluster label; every task its own cluster where left out.
        alpha: Level.
        widest: An answer whose limits lie further apart is refused: then what the model says is its own invention.
        replicates: Times the model is fitted to reweighted clusters.
        seed: Seed of the weights.

    Raises:
        StatsError: The data cannot support one of the k: no success at all, fewer than 10 clusters, fewer than 10 tasks
            with 0 < c < n, k beyond 10 times the least n, limits further apart than ``widest``, or a model outside
            them. k within the least n needs no extrapolation and is refused too.
    """
    probability(alpha, "alpha", open_ends=True)
    probability(widest, "widest")
    check_replicates(replicates)
    asked = np.atleast_1d(whole_numbers(k, "k"))
    every_task_attempted(arm)
    code = cluster_codes(arm.tasks, clusters, arm.where)
    _supported(arm, asked, code)
    limits = _Limits(arm, code, alpha, seed)
    low, high = limits.at(asked)
    _narrow_enough(arm, asked, low, high, limits, widest)
    model = _Model(arm, code, asked.astype(np.float64), replicates, seed)
    _within(arm, asked, model.value, low, high)
    ends = [alpha / 2, 1 - alpha / 2]
    zero = np.quantile(model.zeros, ends)
    return Extrapolation(
        arm=arm.arm,
        k=asked,
        attempts=limits.least,
        value=model.value,
        low=low,
        high=high,
        model_low=np.minimum(np.quantile(model.worst, ends[0], axis=0), model.value),
        model_high=np.maximum(np.quantile(model.best, ends[1], axis=0), model.value),
        zero=Estimate(model.zero, min(float(zero[0]), model.zero), max(float(zero[1]), model.zero)),
        a=model.a,
        b=model.b,
        edge=model.edge,
        without_zeros=model.without_zeros,
        tasks=len(arm.tasks),
        clusters=int(code.max()) + 1,
        alpha=alpha,
    )


class _Model:
    """The fit to all tasks and its replicates on reweighted clusters, with an unseen one never or always solved."""

    def __init__(self, arm: ArmOutcomes, code: IntArray, k: FloatArray, replicates: int, seed: int) -> None:
        groups = Groups.of(arm.n, arm.c)
        found, best = best_fit(groups)
        plain, plainest = best_fit(groups, zero=False)
        self.value, self.without_zeros = found.reach(k)[best], plain.reach(k)[plainest]
        self.zero, self.a, self.b = (float(x[best]) for x in (found.zero, found.a, found.b))
        self.edge = at_the_edge(found, best)
        weights = np.random.default_rng([seed, 7]).standard_exponential((replicates, int(code.max()) + 2))
        point = np.array([[self.zero, np.log(self.a), np.log(self.b)]])
        again = fit(groups, groups.weights(weights[:, :-1][:, code]), np.repeat(point, replicates, axis=0))
        unseen = weights[:, -1:] / weights.sum(axis=1, keepdims=True)
        self.zeros, self.worst = again.zero, again.reach(k) * (1 - unseen)
        self.best = self.worst + unseen


class _Limits:
    """Replicates of m_n and m_{n−1}, n the least number of attempts, and the limits on reach that follow from them."""

    def __init__(
        self, arm: ArmOutcomes, code: IntArray, alpha: float, seed: int, replicates: int = _LIMIT_REPLICATES
    ) -> None:
        self.least, self._alpha = int(arm.n.min()), alpha
        last = 1 - reach_at_k(arm.n, arm.c, self.least)
        before = 1 - reach_at_k(arm.n, arm.c, self.least - 1) if self.least > 1 else np.ones(len(arm.tasks))
        sums = np.column_stack([np.bincount(code, weights=v) for v in (last, before, np.ones(last.size))])
        size = sums[:, 2]
        # The unseen cluster is the worst for each limit: never solved for the lower one, and for the upper one solved
        # exactly once per task, which makes reach rise fastest.
        alike = float((size**2).sum() / size.sum())
        rng, parts = np.random.default_rng([seed, 6]), []
        block = max(1, _WEIGHTS_AT_A_TIME // (size.size + 1))
        for start in range(0, replicates, block):
            weights = rng.standard_exponential((min(block, replicates - start), size.size + 1))
            parts.append(np.column_stack([weights[:, :-1] @ sums, weights[:, -1] * alike]))
        missed, missed_before, tasks, unseen = np.concatenate(parts).T
        total = tasks + unseen
        self._missed = (missed + unseen) / total
        self._last = missed / total
        self._before = (missed_before + unseen / self.least) / total

    def at(self, k: IntArray) -> tuple[FloatArray, FloatArray]:
        """Return lower and upper limits of reach at each k."""
        low = np.quantile(1 - self._missed, self._alpha / 2)
        high = np.array([np.quantile(self._upper(int(each)), 1 - self._alpha / 2) for each in k])
        return np.full(k.size, low), high

    def _upper(self, k: int) -> FloatArray:
        ratio = self._last / np.maximum(self._before, 1e-300)
        return np.asarray(1 - self._last * ratio ** (k - self.least), dtype=np.float64)


def _supported(arm: ArmOutcomes, k: IntArray, code: IntArray) -> None:
    least, groups = int(arm.n.min()), int(code.max()) + 1
    telling = int(np.count_nonzero((arm.c > 0) & (arm.c < arm.n)))
    name = f"{arm.where()}reach@{int(k.max())} cannot be extrapolated"
    if (k <= least).any():
        raise StatsError(f"{arm.where()}every task has {least} attempts: reach@{int(k.min())} needs no extrapolation")
    if not arm.c.any():
        raise StatsError(
            f"{name}: no attempt succeeded, so nothing tells tasks that are never solved from tasks solved rarely"
        )
    if groups < _CLUSTERS:
        raise StatsError(f"{name} from {groups} clusters of tasks; it takes {_CLUSTERS} or more")
    if telling < _INFORMATIVE:
        raise StatsError(
            f"{name}: only {telling} tasks were solved sometimes but not always, and the model's shape rests on them; "
            f"it takes {_INFORMATIVE} or more"
        )
    if int(k.max()) > _MOST_TIMES * least:
        raise StatsError(
            f"{name} from {least} attempts per task: that is more than {_MOST_TIMES} times as many; ask for "
            f"k ≤ {_MOST_TIMES * least} or sample more"
        )


def _narrow_enough(
    arm: ArmOutcomes, k: IntArray, low: FloatArray, high: FloatArray, limits: _Limits, widest: float
) -> None:
    worst = int(np.argmax(high - low))
    if high[worst] - low[worst] <= widest:
        return
    further = np.unique(np.geomspace(limits.least + 1, _MOST_TIMES * limits.least, 64).astype(np.int64))
    lower, upper = limits.at(further)
    good = further[upper - lower <= widest]
    advice = f"ask for k ≤ {good[-1]}" if good.size else "more tasks are needed for any k"
    raise StatsError(
        f"{arm.where()}reach@{k[worst]} cannot be extrapolated from {limits.least} attempts at {len(arm.tasks)} tasks: "
        f"whatever the distribution of p, they allow {low[worst]:.2f} to {high[worst]:.2f}, further apart than "
        f"{widest:g}; a model would only invent the answer. Sample more, or {advice}"
    )


def _within(arm: ArmOutcomes, k: IntArray, value: FloatArray, low: FloatArray, high: FloatArray) -> None:
    outside = np.flatnonzero((value < low) | (value > high))
    if outside.size:
        wrong = int(outside[0])
        raise StatsError(
            f"{arm.where()}the zero-inflated beta-binomial does not fit: it says {value[wrong]:.3f} for "
            f"reach@{k[wrong]}, where these attempts allow {low[wrong]:.3f} to {high[wrong]:.3f} whatever the "
            "distribution of p"
        )
