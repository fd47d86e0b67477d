"""Interaction nats: what it would take to guess what a tool said, −ln π(o_1, …, o_T) under the model that read it.

Derivations: docs/measurement.md, "Interaction nats".
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from testbed.stats.bootstrap import cluster_bootstrap, cluster_labels
from testbed.stats.checks import StatsError, level, numbers
from testbed.stats.intervals import Estimate
from testbed.stats.sequence_limits import student_limits


@dataclass(frozen=True)
class InteractionNats:
    """What an arm's tools said, in nats of the model that read it.

    Attributes:
        attempts: Successful attempts that it is about.
        mean: Mean over these. Nats have no upper end: the upper limit takes the greatest task that was seen for one, or
            is Student's where that is greater; a task in twenty that lies far beyond the others is not foreseen. The
            lower limit needs no such thing. No upper one where successes are of a single cluster.
        median: Median over these; None without any.
        guessed: E[1{success}·e^−I], mean over tasks: an attempt that writes its tools' results itself succeeds at least
            so often, by guessing the very words of a successful attempt. Its limits need no such condition.
    """

    attempts: int
    mean: Estimate
    median: float | None
    guessed: Estimate


def interaction_nats(
    tasks: Sequence[str],
    success: ArrayLike,
    nats: ArrayLike,
    *,
    clusters: Mapping[str, Hashable] | None = None,
    alpha: float = 0.05,
    replicates: int = 2000,
    seed: int = 0,
) -> InteractionNats:
    """Return the interaction nats of an arm's successful attempts.

    Args:
        tasks: Task of each of n attempts.
        success: Whether each succeeded.
        nats: Of all that its tools said in each, ≥ 0 up to rounding.
        clusters: Task → cluster label; every task its own cluster where left out.
        alpha: Intervals have level 1 − alpha.
        replicates: Bootstrap replicates.
        seed: Their seed.

    Raises:
        StatsError: No attempt, arrays that do not fit together, or nats that are not finite or far below 0.
    """
    level(alpha)
    won, told = np.asarray(success, dtype=bool), numbers(nats, "nats")
    if not len(tasks) or won.shape != (len(tasks),) or told.shape != (len(tasks),):
        raise StatsError(f"{len(tasks)} tasks, {won.size} outcomes and {told.size} nats do not make attempts")
    if not np.isfinite(told).all() or (told < -1e-3).any():
        raise StatsError("nats must be finite and at least 0: they are −ln of a probability")
    told = np.maximum(told, 0.0)
    names = tuple(dict.fromkeys(tasks))
    index = {name: n for n, name in enumerate(names)}
    code = np.array([index[task] for task in tasks])
    sums = {
        "attempts": np.bincount(code, minlength=len(names)).astype(float),
        "wins": np.bincount(code[won], minlength=len(names)).astype(float),
        "nats": np.bincount(code[won], told[won], minlength=len(names)),
        "guessed": np.bincount(code[won], np.exp(-told[won]), minlength=len(names)),
    }
    options = {"clusters": cluster_labels(names, clusters), "replicates": replicates, "seed": seed}
    guessed = cluster_bootstrap(sums["guessed"] / sums["attempts"], **options).intervals(alpha)[0]  # type: ignore[arg-type]
    if not won.any():
        return InteractionNats(0, Estimate(None, None, None), None, guessed)
    with np.errstate(invalid="ignore", divide="ignore"):
        greatest = float(np.nanmax(sums["nats"] / sums["wins"]))
    most = float(sums["attempts"].max())
    replicated = cluster_bootstrap(sums["nats"], sums["wins"], greatest=greatest, largest=most, **options)  # type: ignore[arg-type]
    mean = replicated.intervals(alpha)[0]
    if mean.high is not None:
        student = student_limits(sums["nats"], sums["wins"], cluster_labels(names, clusters), alpha)
        mean = Estimate(mean.value, mean.low, None if student is None else max(mean.high, student[1]))
    return InteractionNats(int(won.sum()), mean, float(np.median(told[won])), guessed)
