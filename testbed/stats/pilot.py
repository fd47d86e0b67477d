"""What an earlier run says about the next one: how much the gain varies between tasks, within them and by cluster."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np

from testbed.stats.bootstrap import cluster_codes
from testbed.stats.checks import FloatArray, IntArray, StatsError
from testbed.stats.outcomes import ArmOutcomes
from testbed.stats.pairing import align
from testbed.stats.reach import reach_at_k
from testbed.stats.repeats import Repeats, near_identical
from testbed.stats.spread import Spread, shared_by


@dataclass(frozen=True)
class Figure:
    """How a figure per task varies in a run, its noise included.

    Attributes:
        mean: Its mean over tasks.
        variance: T times the variance of that mean, clusters heeded; None with fewer than two clusters.
        error: Relative standard error of ``variance``; None with it, and where it is 0.
        skewness: Of the sums over clusters of the deviations from the mean; 0 where they do not vary.
    """

    mean: float
    variance: float | None
    error: float | None
    skewness: float = 0.0


@dataclass(frozen=True)
class Pilot:
    """What two arms of an earlier run say about the gain's variation.

    Attributes:
        tasks: Names of the tasks used, scored in both arms.
        clusters: Clusters that they form.
        bare_attempts: Least scored attempts of such a task in the bare arm.
        tool_attempts: Least in the tool arm.
        gain: The gain seen, and how its estimates vary at this run's attempts.
        spread: Estimated variances, for other numbers of attempts.
        separated: Whether noise and variation between tasks could be told apart. If not, all of it is counted as
            variation between tasks: plans with more attempts then ask for too many tasks, never too few.
        bare_repeats: How alike the bare arm's repeated attempts are.
        tool_repeats: How alike the tool arm's are.
    """

    tasks: tuple[str, ...]
    clusters: int
    bare_attempts: int
    tool_attempts: int
    gain: Figure
    spread: Spread
    separated: bool
    bare_repeats: Repeats
    tool_repeats: Repeats


def estimate_spread(
    bare: ArmOutcomes,
    tool: ArmOutcomes,
    *,
    operating: int = 1,
    clusters: Mapping[str, Hashable] | None = None,
) -> Pilot:
    """Estimate from an earlier run what makes the gain at ``operating`` attempts vary.

    The variance over tasks of the estimated differences is ω² plus the mean noise of the attempts. A task's noise has
    an unbiased estimate from 2b attempts; ω² is what is left, or 0. The correlation within clusters is that of a
    one-way analysis of variance, as a share of ω², from 0 to 1.

    Args:
        bare: The bare arm.
        tool: The tool arm.
        operating: Attempts b at which the arms are read, at least 1.
        clusters: Task → cluster label; every task its own cluster where left out.

    Raises:
        StatsError: No common task; fewer than two tasks with b scored attempts in both arms.
    """
    before, after = align(bare, tool)
    fewest = np.minimum(before.n, after.n)
    separated = np.count_nonzero(fewest >= 2 * operating) >= 2
    kept = np.flatnonzero(fewest >= (2 * operating if separated else operating))
    if kept.size < 2:
        raise StatsError(
            f"arms {bare.arm!r} and {tool.arm!r} share {kept.size} tasks with {operating} scored attempts in both, "
            "and a variance needs two"
        )
    before, after = before.take(kept), after.take(kept)
    gain = reach_at_k(after.n, after.c, operating) - reach_at_k(before.n, before.c, operating)
    code = cluster_codes(before.tasks, clusters)
    between, total = _components(gain, code)
    noises = [_kernel(arm, operating) if separated else np.zeros((kept.size, operating)) for arm in (before, after)]
    seen = sum(_noise_of(arm, noise) for arm, noise in zip((before, after), noises, strict=True))
    omega = min(1.0, max(0.0, total - seen))
    found, size = figure(gain, code), cluster_size(code)
    left, right = (tuple(float(x) for x in np.clip(noise.mean(axis=0), 0, 0.25)) for noise in noises)
    return Pilot(
        tasks=before.tasks,
        clusters=int(code.max()) + 1,
        bare_attempts=int(before.n.min()),
        tool_attempts=int(after.n.min()),
        gain=found,
        spread=Spread(
            omega,
            left,
            right,
            size,
            float(np.clip(between / omega, 0, 1)) if omega else 0.0,
            found.skewness * ((found.variance or 0.0) / size) ** 1.5,
        ),
        separated=bool(separated),
        bare_repeats=near_identical(before),
        tool_repeats=near_identical(after),
    )


def figure(values: FloatArray, code: IntArray) -> Figure:
    """Return how a figure per task varies.

    The variance is the sum over clusters of the squared sum of deviations, the usual sandwich, times J/(J−1).

    Args:
        values: The figure, shape (T,).
        code: Cluster number of each task (`cluster_codes`), shape (T,).
    """
    sums = np.bincount(code, weights=values - values.mean())
    clusters, mean = sums.size, float(values.mean())
    if clusters < 2:
        return Figure(mean, None, None)
    squares = sums**2 * clusters**2 / (clusters - 1) / values.size  # their mean is the variance
    variance = float(squares.mean())
    error = float(squares.std(ddof=1) / np.sqrt(clusters) / variance) if variance > 0 else None
    skewness = float((sums**3).mean() / (sums**2).mean() ** 1.5) if variance > 0 else 0.0
    return Figure(mean, variance, error, skewness)


def cluster_size(code: IntArray) -> float:
    """Return Σm²/Σm: the mean number of tasks in the cluster of a random task."""
    size = np.bincount(code).astype(np.float64)
    return float((size**2).sum() / size.sum())


def _components(values: FloatArray, code: IntArray) -> tuple[float, float]:
    """Return the variance between clusters and the whole variance (one-way analysis of variance)."""
    size = np.bincount(code).astype(np.float64)
    tasks, clusters = values.size, size.size
    plain = float(values.var(ddof=1))
    if clusters in (1, tasks):
        return 0.0, plain
    means = np.bincount(code, weights=values) / size
    across = float((size * (means - values.mean()) ** 2).sum() / (clusters - 1))
    within = float(((values - means[code]) ** 2).sum() / (tasks - clusters))
    between = (across - within) / float((tasks - (size**2).sum() / tasks) / (clusters - 1))
    return (between, between + within) if between > 0 else (0.0, plain)


def _kernel(arm: ArmOutcomes, b: int) -> FloatArray:
    """Return unbiased estimates of the covariances of `Spread`, per task: (1−p)^(2b−j) − (1−p)^(2b), shape (T, b)."""
    misses = [1 - reach_at_k(arm.n, arm.c, 2 * b - j) for j in range(1, b + 1)]
    return np.column_stack(misses) - (1 - reach_at_k(arm.n, arm.c, 2 * b))[:, None]


def _noise_of(arm: ArmOutcomes, kernel: FloatArray) -> float:
    """Return the mean over tasks of the noise of their estimates, each at its own number of attempts."""
    made, which = np.unique(arm.n, return_inverse=True)
    share = np.array([shared_by(kernel.shape[1], int(n)) for n in made])[which.ravel()]
    return float((share * kernel).sum(axis=1).mean())
