"""How many tasks a paired gain needs, how many attempts at each, and what gain a design can detect.

Miller (2024, "Adding Error Bars to Evals", arXiv 2411.00640): n = (z_{α/2} + z_β)² (ω² + σ_A²/K_A + σ_B²/K_B) / δ²
tasks find a mean difference δ with probability 1 − β, where ω² is the variance of the true difference between tasks,
σ² that of one attempt within a task, and K the attempts per task. Clusters of m tasks multiply ω² by 1 + (m − 1)·icc
(Kish 1965). That formula is for the normal interval; the interval that reports print is wider (`bootstrap`), and
`Interval.REPORT` plans for it, and for gains that are skewed against the effect. Derivations and simulations are in
docs/planning.md.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import cache

import numpy as np
from scipy.special import ndtr, ndtri

from testbed.stats.checks import FloatArray, StatsError, positive, probability
from testbed.stats.spread import Spread

MOST = 10**9  # more tasks or attempts than this are "never"


class Interval(StrEnum):
    """Whose lower end must lie above 0 for a gain to count as found."""

    NORMAL = "normal"
    REPORT = "report"


def power_of(
    effect: float,
    tasks: float,
    variance: float,
    *,
    alpha: float = 0.05,
    cluster_size: float = 1.0,
    skewness: float = 0.0,
    interval: Interval = Interval.NORMAL,
) -> float:
    """Return the probability that the interval's end on the side of 0 excludes 0.

    Args:
        effect: True mean gain δ, in (−1, 1), not 0.
        tasks: Number of tasks T.
        variance: T times the variance of the mean gain (`Spread.variance`), 0 or more.
        alpha: Level of the two-sided interval.
        cluster_size: Tasks in the cluster of a random task.
        skewness: Of the estimated gains of clusters, in the direction of the effect; only the report's interval is
            planned for it, and only if it is negative (above 0 the power is higher than planned).
        interval: Whose end counts.
    """
    size = _effect(effect)
    _check(variance, cluster_size, alpha)
    positive(tasks, "tasks")
    if interval == Interval.REPORT and tasks < 2 * cluster_size:
        return 0.0  # fewer than two clusters: no interval
    limit, error = _limit(tasks, variance, alpha, cluster_size, skewness, interval)
    if error == 0:
        return float(size > limit)
    return float(ndtr((size - limit) / error))


def tasks_needed(
    effect: float,
    variance: float,
    *,
    power: float = 0.8,
    alpha: float = 0.05,
    cluster_size: float = 1.0,
    skewness: float = 0.0,
    interval: Interval = Interval.NORMAL,
) -> int:
    """Return the least number of tasks at which a gain is found with probability ``power``, in (α/2, 1).

    The other arguments are those of `power_of`.

    Raises:
        StatsError: A setting out of its range; a variance that values from −1 to 1 with this mean cannot have; more
            than a thousand million tasks.
    """
    size = _effect(effect)
    _check(variance, cluster_size, alpha)
    _check_power(power, alpha)
    if variance / cluster_size > (1 - size**2) * (1 + 1e-9):
        raise StatsError(
            f"gains from -1 to 1 whose mean is {effect:g} cannot have a variance of {variance / cluster_size:.3g}: "
            f"at most {1 - size**2:.3g}"
        )
    # (z + z)² v / δ²; equality must not be rounded up to one task more.
    closed = (ndtri(1 - alpha / 2) + ndtri(power)) ** 2 * variance / size**2
    if closed > MOST:
        raise StatsError(f"a gain of {effect:g} needs more than {MOST:,} tasks")
    if interval == Interval.NORMAL:
        return max(1, int(np.ceil(closed - 1e-9)))
    kind = {"alpha": alpha, "cluster_size": cluster_size, "skewness": skewness}
    return _least(lambda n: power_of(size, n, variance, interval=interval, **kind) >= power, start=int(closed))


def detectable_gain(
    tasks: float,
    variance: float,
    *,
    power: float = 0.8,
    alpha: float = 0.05,
    cluster_size: float = 1.0,
    skewness: float = 0.0,
    interval: Interval = Interval.NORMAL,
) -> float | None:
    """Return the least mean gain that T tasks find with probability ``power``; None where not even a gain of 1 is.

    The other arguments are those of `power_of`.
    """
    _check(variance, cluster_size, alpha)
    _check_power(power, alpha)
    positive(tasks, "tasks")
    if interval == Interval.REPORT and tasks < 2 * cluster_size:
        return None
    limit, error = _limit(tasks, variance, alpha, cluster_size, skewness, interval)
    least = float(limit + ndtri(power) * error)
    return least if least < 1 else None


def attempts_needed(
    effect: float,
    tasks: int,
    spread: Spread,
    *,
    bare_attempts: int | None = None,
    power: float = 0.8,
    alpha: float = 0.05,
    interval: Interval = Interval.NORMAL,
) -> int | None:
    """Return the least attempts per task, the same in both arms, at which T tasks find a gain; None where none do.

    Args:
        effect: True mean gain δ, in (−1, 1), not 0.
        tasks: Number of tasks T.
        spread: What makes the gain vary.
        bare_attempts: Attempts of the bare arm where they are given; then only the tool arm's are sought.
        power: Probability 1 − β, in (α/2, 1).
        alpha: Level of the two-sided interval.
        interval: Whose end counts.
    """
    _check_power(power, alpha)

    def enough(attempts: float) -> bool:
        both = (attempts if bare_attempts is None else bare_attempts, attempts)
        variance, skewness = spread.variance(*both), float(np.sign(effect)) * spread.skewness(*both)
        kind = {"alpha": alpha, "cluster_size": spread.cluster_size, "skewness": skewness}
        return power_of(effect, tasks, variance, interval=interval, **kind) >= power

    if not enough(np.inf):
        return None
    found = _least(enough, start=spread.operating)
    return found if found <= MOST else None


def _limit(
    tasks: float, variance: float, alpha: float, cluster_size: float, skewness: float, interval: Interval
) -> tuple[float, float]:
    """Return the mean gain from which on the interval's lower end lies above 0, and the error of that comparison."""
    error, z = float(np.sqrt(variance / tasks)), float(ndtri(1 - alpha / 2))
    if interval == Interval.NORMAL:
        return z * error, error
    limit = _critical_mean(tasks, variance, alpha, cluster_size)
    # To second order a skew to the left moves the replicates' quantile (their skewness is 2γ/√J), and makes the
    # interval narrow just where the mean is high: the correlation of a mean with its own standard error.
    tilt = -min(skewness, 0.0) / float(np.sqrt(tasks / cluster_size))
    return limit + error * max(z**2 - 1, 0.0) * tilt / 3, error * (1 + z * tilt / 2)


def _critical_mean(tasks: float, variance: float, alpha: float, cluster_size: float) -> float:
    """Return the critical mean of the report's interval where gains are not skewed.

    The interval gives J = T/m clusters Dirichlet weights, and a weight w to a cluster of gain −1 that nobody saw. w is
    Beta(1, J), and independent of it the weighted mean of the seen is nearly normal about the mean seen, with variance
    s²/(J+1). So P(replicate ≤ 0) = E Φ((w/(1−w) − mean) / (s/√(J+1))), which is α/2 at the limit.
    """
    clusters = tasks / cluster_size
    place, share = _nodes()
    odds = np.expm1(-np.log1p(-place) / clusters)
    spread = np.sqrt(variance / cluster_size * (clusters - 1) / clusters / (clusters + 1))
    alone = float((alpha / 2) ** (-1 / clusters) - 1)  # the limit where all gains seen are alike
    if spread == 0:
        return alone

    def above(mean: float) -> bool:
        return bool(share @ ndtr((odds - mean) / spread) <= alpha / 2)

    low, high = 0.0, alone + float(ndtri(1 - alpha / 4) * spread) + 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if above(middle) else (middle, high)
    return high


@cache
def _nodes() -> tuple[FloatArray, FloatArray]:
    """Gauss–Legendre on (0, 1): the integrand is smooth unless the gains hardly vary."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    return (nodes + 1) / 2, weights / 2


def _least(enough: Callable[[int], bool], *, start: int) -> int:
    """Return the least whole number ≥ 1 that is enough; more of it is enough too."""
    low, high = 0, max(1, start)
    while not enough(high):
        low, high = high, 2 * high
        if high > 2 * MOST:
            raise StatsError(f"more than {MOST:,} would be needed")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _effect(effect: float) -> float:
    if not 0 < abs(effect) < 1:
        raise StatsError(f"a gain to plan for lies between -1 and 1 and is not 0, unlike {effect:g}")
    return abs(effect)


def _check(variance: float, cluster_size: float, alpha: float) -> None:
    if not 0 <= variance < np.inf:
        raise StatsError(f"a variance must be a finite number ≥ 0, not {variance:g}")
    if not 1 <= cluster_size < np.inf:
        raise StatsError(f"a cluster has at least one task, not {cluster_size:g}")
    probability(alpha, "alpha", open_ends=True)


def _check_power(power: float, alpha: float) -> None:
    probability(alpha, "alpha", open_ends=True)
    probability(power, "power", open_ends=True)
    if power <= alpha / 2:
        raise StatsError(f"power = {power:g} is what no effect at all reaches: ask for more than {alpha / 2:g}")
