"""Limits for the mean of figures that have no greatest value, such as nats, over few clusters of tasks.

The bound that intervals of reach use needs a greatest value. Without one no finite upper limit holds for every
distribution (Bahadur & Savage 1956), and the worst that was seen is too little of one at a handful of tasks. Student's
limits assume a shape instead, and err on other data. Derivation and coverage: docs/measurement.md, "Checkpoints".
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
from scipy.special import stdtrit

from testbed.stats.bootstrap import label_codes
from testbed.stats.checks import FloatArray

_GREATEST_FACTOR = 150.0  # of the mean: two clusters alone would ask for hundreds of thousands, which says no more


def student_limits(
    values: FloatArray, weights: FloatArray | None, clusters: Sequence[Hashable], alpha: float
) -> tuple[float, float] | None:
    """Return Student's limits over clusters for Σ values / Σ weights: a lower one, and the greater of two upper ones.

    The upper one is taken on the scale of the mean, and on that of its logarithm by the delta method, as befits figures
    of which a few are much greater than the others.

    Args:
        values: One figure per task, shape (T,); below 0 by noise only.
        weights: Denominators, shape (T,), at least 0; all 1 (a plain mean) where left out.
        clusters: Cluster label of each task.
        alpha: Each limit has level 1 − alpha/2.

    Returns:
        A lower limit, which may lie below 0, and an upper one; None with fewer than two clusters that weigh anything.
    """
    code = label_codes(clusters, values.size)
    sums, sizes = np.bincount(code, values), np.bincount(code, weights).astype(np.float64)
    sums, sizes = sums[sizes > 0], sizes[sizes > 0]
    if sums.size < 2:
        return None
    mean, n = float(sums.sum() / sizes.sum()), sums.size
    error = math.sqrt(n / (n - 1) * float(((sums - mean * sizes) ** 2).sum())) / float(sizes.sum())
    t = float(stdtrit(n - 1, 1 - alpha / 2))
    low, high = mean - t * error, mean + t * error
    if mean > 0:
        # Clusters of one size and none below 0 have an error of at most their mean: more is noise, and no long tail.
        factor = math.exp(min(t * min(error / mean, 1.0), math.log(_GREATEST_FACTOR)))
        high = max(high, mean * factor)
    return low, high
