"""How far a checkpoint's attempts lie from another one's: KL(π′‖π_0) of whole attempts, and what K attempts write.

Both are read off the same attempts, made by π′ and scored by either. Derivations: docs/measurement.md, "Checkpoints".
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from testbed.stats.bootstrap import cluster_bootstrap, cluster_labels
from testbed.stats.checks import BoolArray, FloatArray, IntArray, StatsError, level, numbers, positive
from testbed.stats.intervals import Estimate
from testbed.stats.sequence_limits import student_limits

_ROUNDING = 1e-4  # nats of an attempt that float32 does not tell apart


@dataclass(frozen=True, eq=False)
class SequenceKL:
    """KL(π′‖π_0) of whole attempts, in nats, mean over tasks.

    Attributes:
        tasks: The T tasks, in order of appearance.
        attempts: Attempts that it was read off.
        per_task: Mean of ln π′ − ln π_0 per task, shape (T,): unbiased for the task's KL. May fall below 0, which no KL
            does.
        mean: Mean of these. Limits are those of the bound for means over tasks, with the least and the greatest that
            were seen for its ends, or Student's where these lie further out; cut at 0, as no KL is below it. No upper
            limit holds whatever few tasks are like: a task in twenty that lies far beyond the others is not foreseen.
        controlled: The same mean with π_0/π′ − 1 added to each attempt: unbiased too, and less noisy where the two are
            close. None where the ratio is too large to be computed.
        ratio: Mean over tasks of π_0/π′, which is 1 in expectation. Far below 1, what π_0 mostly writes was not among
            the attempts, and `controlled` is mostly too low, by up to 1 − `ratio`.
    """

    tasks: tuple[str, ...]
    attempts: int
    per_task: FloatArray
    mean: Estimate
    controlled: Estimate | None
    ratio: float | None


@dataclass(frozen=True)
class Affordable:
    """Successful attempts whose very text K attempts of another model would have written more likely than not.

    Attributes:
        successes: Successful attempts.
        within: Those with −ln π_0 ≤ ln K, up to the rounding of scores (1e-4).
        share: `within` of `successes`; no value without any.
        written: 1 − (1 − 1/K)^K, the least probability with which K attempts write one of `within` at least once.
    """

    successes: int
    within: int
    share: Estimate
    written: float


def sequence_kl(
    tasks: Sequence[str],
    own: ArrayLike,
    base: ArrayLike,
    *,
    clusters: Mapping[str, Hashable] | None = None,
    alpha: float = 0.05,
    replicates: int = 2000,
    seed: int = 0,
) -> SequenceKL:
    """Return the divergence of the model that made some attempts from another one.

    Args:
        tasks: Task of each of n attempts.
        own: −ln π′ of all that was written in each, by the model that wrote it, sampled at temperature 1 from all of
            its distribution: a nucleus or another temperature makes another policy than π′, and the mean no KL.
        base: −ln π_0 of the same, by the other.
        clusters: Task → cluster label; every task its own cluster where left out.
        alpha: The interval has level 1 − alpha.
        replicates: Bootstrap replicates.
        seed: Their seed.

    Raises:
        StatsError: No attempt, arrays that do not fit together, or nats that are not finite or far below 0.
    """
    level(alpha)
    names, code, (mine, theirs) = _attempts(tasks, own, base)
    count = np.bincount(code, minlength=len(names))
    log_ratio = theirs - mine
    per_task = np.bincount(code, log_ratio, minlength=len(names)) / count
    labels = cluster_labels(names, clusters)

    def mean(values: FloatArray) -> Estimate:
        ends = {"least": min(0.0, float(values.min())), "greatest": max(0.0, float(values.max()))}
        replicated = cluster_bootstrap(values, clusters=labels, replicates=replicates, seed=seed, **ends)
        found = replicated.intervals(alpha)[0]
        student = student_limits(values, None, labels, alpha)
        if student is None or found.low is None or found.high is None:
            return found
        return Estimate(found.value, max(0.0, min(found.low, student[0])), max(0.0, found.high, student[1]))

    with np.errstate(over="ignore"):
        ratio = np.bincount(code, np.exp(-log_ratio), minlength=len(names)) / count
    computed = bool(np.isfinite(ratio).all())
    return SequenceKL(
        tasks=names,
        attempts=len(code),
        per_task=per_task,
        mean=mean(per_task),
        controlled=mean(per_task + ratio - 1) if computed else None,
        ratio=float(ratio.mean()) if computed else None,
    )


def kl_difference(
    left: SequenceKL,
    right: SequenceKL,
    *,
    clusters: Mapping[str, Hashable] | None = None,
    alpha: float = 0.05,
    replicates: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Return the mean over tasks of the right one's KL less the left one's, paired.

    Its limits are those of a KL, taken in either direction, as either may have a long tail.

    Args:
        left: Of the same tasks, in the same order.
        right: What the left one is taken from.
        clusters: As in `sequence_kl`.
        alpha: The interval has level 1 − alpha.
        replicates: Bootstrap replicates.
        seed: Their seed.

    Raises:
        StatsError: The two are not of the same tasks.
    """
    level(alpha)
    if left.tasks != right.tasks:
        raise StatsError("a difference is paired: both KLs must be of the same tasks, in the same order")
    values = right.per_task - left.per_task
    labels = cluster_labels(left.tasks, clusters)
    ends = {"least": min(0.0, float(values.min())), "greatest": max(0.0, float(values.max()))}
    found = cluster_bootstrap(values, clusters=labels, replicates=replicates, seed=seed, **ends).intervals(alpha)[0]
    above, below = (student_limits(side, None, labels, alpha) for side in (values, -values))
    if above is None or below is None or found.low is None or found.high is None:
        return found
    return Estimate(found.value, min(found.low, -below[1]), max(found.high, above[1]))


def affordable(
    tasks: Sequence[str],
    success: ArrayLike,
    base: ArrayLike,
    attempts: float,
    *,
    clusters: Mapping[str, Hashable] | None = None,
    alpha: float = 0.05,
    replicates: int = 2000,
    seed: int = 0,
) -> Affordable:
    """Return the share of successful attempts whose text another model writes with probability 1/K or more.

    Args:
        tasks: Task of each of n attempts.
        success: Whether each succeeded.
        base: −ln π_0 of all that was written in each, by the other model.
        attempts: K, those of the other model that the budget affords, at least 1.
        clusters: Task → cluster label; every task its own cluster where left out.
        alpha: The interval has level 1 − alpha.
        replicates: Bootstrap replicates.
        seed: Their seed.

    Raises:
        StatsError: No attempt, arrays that do not fit together, nats that are not finite or far below 0, or K below 1.
    """
    level(alpha)
    k = float(positive(attempts, "attempts K"))
    if k < 1:
        raise StatsError(f"K must be at least 1, not {attempts}")
    names, code, (nats,) = _attempts(tasks, base)
    won = np.asarray(success, dtype=bool)
    if won.shape != code.shape:
        raise StatsError(f"{won.size} outcomes do not fit {code.size} attempts")
    within = won & (nats <= math.log(k) + _ROUNDING)
    written = -math.expm1(k * math.log1p(-1 / k)) if k > 1 else 1.0
    share = Estimate(None, None, None)
    if won.any():
        found = cluster_bootstrap(
            _per_task(code, within, len(names)),
            _per_task(code, won, len(names)),
            largest=float(np.bincount(code).max()),
            clusters=cluster_labels(names, clusters),
            replicates=replicates,
            seed=seed,
        )
        share = found.intervals(alpha)[0]
    return Affordable(int(won.sum()), int(within.sum()), share, written)


def _per_task(code: IntArray, kind: BoolArray, tasks: int) -> FloatArray:
    return np.bincount(code[kind], minlength=tasks).astype(np.float64)


def _attempts(tasks: Sequence[str], *nats: ArrayLike) -> tuple[tuple[str, ...], IntArray, list[FloatArray]]:
    """Task names, each attempt's task by number, and nats."""
    read = [numbers(values, "nats") for values in nats]
    if not len(tasks) or any(values.shape != (len(tasks),) for values in read):
        sizes = ", ".join(str(values.size) for values in read)
        raise StatsError(f"{len(tasks)} tasks and nats of {sizes} attempts do not make attempts")
    if any(not np.isfinite(values).all() or (values < -1e-3).any() for values in read):
        raise StatsError("nats must be finite and at least 0: they are −ln of a probability")
    names = tuple(dict.fromkeys(tasks))
    index = {name: n for n, name in enumerate(names)}
    return names, np.array([index[task] for task in tasks], dtype=np.int64), [np.maximum(v, 0.0) for v in read]
