"""Free energy and the elicitation frontier of a suite, whose success probabilities are known from n attempts each only.

Derived here. With t = 1 − e^(−β) and R(k) = 1 − (1−p)^k, for β ≥ 0:

    ln Z = Σ_k (t^k/k) R(k)        success of the tilt = Σ_k (1−t) t^(k−1) R(k)        KL = β · success − ln Z

so a tilt by β succeeds as often as resampling a geometric number of times, e^β on average. Up to k = n each R(k) has
its unbiased estimate; beyond, R(k) lies between R(n) and 1, and a task with a success has R(n) estimated as 1. What is
left open thus comes from tasks without a success alone, and is reported as a range instead of being filled in. The
plug-in at c/n is biased downward for ln Z and for the tilt's success (both are concave in p): at n = 16 by up to .04
nats of ln Z at β = 2 and 1.3 at β = 6.

The divergence of best-of-N has no such series: it is the jackknife of the plug-in, its greatest bias over all p stated.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaln, xlog1py, xlogy

from testbed.stats.bootstrap import cluster_bootstrap, cluster_labels
from testbed.stats.checks import FloatArray, IntArray, StatsError, finite, whole_numbers
from testbed.stats.energy import best_of_n_kl
from testbed.stats.outcomes import ArmOutcomes
from testbed.stats.reach import reach_at_k
from testbed.stats.spend import every_task_attempted

# Attempts × tasks held at a time: 32 MiB.
_CELLS_AT_A_TIME = 4_000_000
# A bias of the order of 1/n² has no feature finer than this.
_BIAS_GRID = np.geomspace(1e-4, 0.5, 100)


@dataclass(frozen=True, eq=False)
class Bounded:
    """S means over tasks, each known up to a range where attempts ran out.

    Attributes:
        least: Estimates with everything that the attempts leave open at its least, shape (S,).
        most: The same at its most; equal to ``least`` where nothing is open.
        low: Lower pointwise confidence limits of ``least``, or None with fewer than two clusters.
        high: Upper ones of ``most``, or None.
    """

    least: FloatArray
    most: FloatArray
    low: FloatArray | None
    high: FloatArray | None


@dataclass(frozen=True, eq=False)
class FreeEnergy:
    """Free energy of an arm at S inverse temperatures, in nats, mean over tasks.

    Attributes:
        beta: Shape (S,), any sign.
        log_partition: Mean of ln Z = ln(1 + p(e^β − 1)).
        free_energy: Mean of F = −ln Z/β; −p at β = 0.
    """

    beta: FloatArray
    log_partition: Bounded
    free_energy: Bounded


@dataclass(frozen=True, eq=False)
class Frontier:
    """Success against divergence from the arm's own policy, means over tasks, along a family of re-weightings.

    Attributes:
        kind: "tilt" or "best-of-N".
        at: Inverse temperatures β or draws N, shape (S,).
        success: Success of the re-weighted policy.
        kl: Its divergence from the arm's policy, in nats.
        kl_bias: Greatest bias of ``kl`` over all p, beyond its range, in nats, shape (S,); 0 for tilts.
    """

    kind: str
    at: FloatArray
    success: Bounded
    kl: Bounded
    kl_bias: FloatArray


class Resampling(TypedDict, total=False):
    """How intervals are made: options of every function here.

    Attributes:
        clusters: Task → cluster label; every task its own cluster where left out.
        alpha: Level of each interval; 0.05.
        replicates: Bootstrap replicates; 2,000.
        seed: Their seed; 0.
    """

    clusters: Mapping[str, Hashable] | None
    alpha: float
    replicates: int
    seed: int


def suite_free_energy(arm: ArmOutcomes, beta: ArrayLike, **how: Unpack[Resampling]) -> FreeEnergy:
    """Return the mean log-partition and free energy over tasks at inverse temperatures β, with intervals.

    Args:
        arm: Its outcomes; n ≥ 1 fixed in advance.
        beta: Finite numbers of any sign, shape (S,).
        how: How intervals are made, see `Resampling`.

    Raises:
        StatsError: β not finite, a task without attempts or label.
    """
    grid = _finite(beta, "beta")
    every_task_attempted(arm)
    tables = np.empty((2, len(arm.tasks), grid.size))
    for sign in (1, -1):
        # ln Z(p, β) = β + ln Z(1−p, −β): for β < 0 failures take the part of successes.
        columns = np.flatnonzero(grid >= 0) if sign > 0 else np.flatnonzero(grid < 0)
        least, most = _series(arm.n, arm.c if sign > 0 else arm.n - arm.c, np.abs(grid[columns]))["log_partition"]
        shift = np.minimum(grid[columns], 0)
        tables[0][:, columns], tables[1][:, columns] = least + shift, most + shift
    ends = np.minimum(grid, 0), np.maximum(grid, 0)
    partition = _bounded(arm, tables[0], tables[1], ends, **how)
    safe = np.where(grid == 0, 1.0, grid)
    rate = (arm.c / arm.n)[:, None]
    free = [np.where(grid == 0, -rate, -table / safe) for table in tables]
    lower, upper = np.minimum(*free), np.maximum(*free)
    return FreeEnergy(grid, partition, _bounded(arm, lower, upper, (-np.ones(grid.size), np.zeros(grid.size)), **how))


def tilt_frontier(arm: ArmOutcomes, beta: ArrayLike, **how: Unpack[Resampling]) -> Frontier:
    """Return success against divergence of the exact tilts p_β ∝ p·e^β, the same β ≥ 0 on every task.

    Among all re-weightings with the same mean divergence over the suite these have the greatest mean success.
    Arguments and errors as `suite_free_energy`; β ≥ 0.
    """
    grid = _finite(beta, "beta")
    if (grid < 0).any():
        raise StatsError(f"a tilt towards success has beta ≥ 0, not {grid[grid < 0][0]:g}")
    every_task_attempted(arm)
    tables = _series(arm.n, arm.c, grid)
    zero = np.zeros(grid.size)
    success = _bounded(arm, *tables["success"], (zero, zero + 1), **how)
    # The unbiased estimate of one task's divergence may be negative; of the suite's, only its noise is.
    least, most = _series(*_any_counts(arm.n), grid)["kl"]
    kl = _bounded(arm, *tables["kl"], _range(*tables["kl"], least, most), floor=0.0, **how)
    return Frontier("tilt", grid, success, kl, zero)


def best_of_n_frontier(arm: ArmOutcomes, draws: ArrayLike, **how: Unpack[Resampling]) -> Frontier:
    """Return success against divergence of best-of-N under a perfect verifier, 1 ≤ N ≤ every task's n ≥ 2.

    Success is reach@N, unbiased. Arguments and errors as `suite_free_energy`; N > n has no unbiased estimate.
    """
    number = np.atleast_1d(whole_numbers(draws, "N"))
    success = reach_at_k(arm.n[:, None], arm.c[:, None], number, where=arm.where)
    if (arm.n < 2).any():
        raise StatsError(f"{arm.where(int(np.argmin(arm.n)))}the divergence of best-of-N needs two attempts or more")
    pairs, task = np.unique(np.column_stack([arm.n, arm.c]), axis=0, return_inverse=True)
    own = np.stack([_jackknife(pairs[:, 0], pairs[:, 1], int(each)) for each in number], axis=1)[task.ravel()]
    every = np.stack([_jackknife(*_any_counts(arm.n), int(each)) for each in number], axis=1)
    zero = np.zeros(number.size)
    reach = _bounded(arm, success, success, (zero, zero + 1), **how)
    kl = _bounded(arm, own, own, _range(own, every), floor=0.0, **how)
    return Frontier("best-of-N", number.astype(np.float64), reach, kl, _worst_bias(int(arm.n.min()), number))


def _series(n: IntArray, c: IntArray, beta: FloatArray) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Return least and most of ln Z, the tilt's success and its divergence per task, shape (T, S) each, for β ≥ 0."""
    pairs, task = np.unique(np.column_stack([n, c]), axis=0, return_inverse=True)
    found = np.empty((3, 2, len(pairs), beta.size))
    for attempts in np.unique(pairs[:, 0]):
        # Beyond 41·e^β attempts the weights add up to less than e^−41.
        last = int(min(attempts, np.ceil(41 * np.exp(min(float(beta.max(initial=0)), 30.0)))))
        rows = np.flatnonzero(pairs[:, 0] == attempts)
        block = max(1, _CELLS_AT_A_TIME // last)
        for part in (rows[start : start + block] for start in range(0, rows.size, block)):
            found[:, :, part] = _series_of(int(attempts), pairs[part, 1][:, None], beta, last)
    names = ("log_partition", "success", "kl")
    return {name: (both[0][task.ravel()], both[1][task.ravel()]) for name, both in zip(names, found, strict=True)}


def _series_of(attempts: int, c: IntArray, beta: FloatArray, last: int) -> FloatArray:
    """Return what `_series` does for tasks with the same attempts, using R(k) up to k = last; shape (3, 2, T, S)."""
    decay, k = np.exp(-beta), np.arange(1, last + 1)
    t = -np.expm1(-beta)
    miss = np.cumprod(np.maximum(attempts - c - k + 1, 0) / (attempts - k + 1), axis=1)
    power = t ** (k[:, None] - 1)
    by_log = t * power / k[:, None]
    # What the weights beyond add up to, and whether the task has a success, so that R(k) = 1 there.
    rest_log, rest_tilt = np.maximum(beta - by_log.sum(axis=0), 0), t**last
    solved = (c > 0).astype(np.float64)
    partition, success = (1 - miss) @ by_log, (1 - miss) @ (decay * power)
    # The weights of the divergence, β times those of the tilt less those of ln Z, are negative first and positive from
    # some k on; all that reach could still add is at most their greatest sum from some k > n onwards.
    rest = beta * rest_tilt - rest_log
    positive = beta * decay * (last + 1) >= t
    more = np.where(positive, np.maximum(rest, 0), beta * rest_tilt)
    kl = beta * success - partition + solved * rest
    return np.array(
        [
            [partition + solved * rest_log, partition + rest_log],
            [success + solved * rest_tilt, success + rest_tilt],
            [kl, kl + (1 - solved) * more],
        ]
    )


def _any_counts(n: IntArray) -> tuple[IntArray, IntArray]:
    """Return attempts and successes that a task could have: a spread of c from 0 to n for each n, or a spread of n."""
    sizes = np.unique(np.quantile(n, np.linspace(0, 1, 9), method="nearest")).astype(np.int64)
    possible = [np.unique(np.linspace(0, size, 129).round()).astype(np.int64) for size in sizes]
    return np.repeat(sizes, [c.size for c in possible]), np.concatenate(possible)


def _jackknife(n: IntArray, c: IntArray, draws: int) -> FloatArray:
    """Return the jackknife of best-of-N's divergence at c/n over the n attempts: its bias is O(1/n²)."""
    fewer = np.minimum([np.maximum(c - 1, 0) / (n - 1), c / (n - 1)], 1.0)
    without = c / n * best_of_n_kl(fewer[0], draws) + (n - c) / n * best_of_n_kl(fewer[1], draws)
    return np.asarray(n * best_of_n_kl(c / n, draws) - (n - 1) * without, dtype=np.float64)


def _worst_bias(n: int, draws: IntArray) -> FloatArray:
    """Return the greatest bias of that jackknife over all p, from the binomial distribution, for each N."""
    p = np.concatenate([_BIAS_GRID, 1 - _BIAS_GRID])
    c = np.arange(n + 1)
    tables = np.stack([_jackknife(np.full(n + 1, n), c, int(each)) for each in draws], axis=1)
    truth = best_of_n_kl(p[:, None], draws)
    return np.asarray(np.abs(_binomial(c, n, p[:, None]) @ tables - truth).max(axis=0), dtype=np.float64)


def _binomial(c: IntArray, n: int, p: FloatArray) -> FloatArray:
    """Return the probability of c successes in n attempts; scipy.stats has it too, and takes half a second to load."""
    ways = gammaln(n + 1) - gammaln(c + 1) - gammaln(n - c + 1)
    return np.asarray(np.exp(ways + xlogy(c, p) + xlog1py(n - c, -p)), dtype=np.float64)


def _range(*tables: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the least and the greatest of each column."""
    return np.min([t.min(axis=0) for t in tables], axis=0), np.max([t.max(axis=0) for t in tables], axis=0)


def _bounded(
    arm: ArmOutcomes,
    least: FloatArray,
    most: FloatArray,
    ends: tuple[FloatArray, FloatArray],
    *,
    floor: float = -np.inf,
    clusters: Mapping[str, Hashable] | None = None,
    alpha: float = 0.05,
    replicates: int = 2000,
    seed: int = 0,
) -> Bounded:
    """Return the means of ``least`` and ``most`` over tasks, not below ``floor``; ``ends`` are those of their range."""
    both = np.hstack([least, most])
    found = cluster_bootstrap(
        both,
        least=np.tile(ends[0], 2),
        greatest=np.tile(ends[1], 2),
        clusters=cluster_labels(arm.tasks, clusters, arm.where),
        replicates=replicates,
        seed=seed,
    ).intervals(alpha)
    columns = least.shape[1]
    value = np.maximum(found.value, floor)
    if found.low is None or found.high is None:
        return Bounded(value[:columns], value[columns:], None, None)
    low, high = np.maximum(found.low, floor), np.maximum(found.high, floor)
    return Bounded(value[:columns], value[columns:], low[:columns], high[columns:])


def _finite(values: ArrayLike, name: str) -> FloatArray:
    grid = np.atleast_1d(finite(values, name))
    if grid.ndim != 1:
        raise StatsError(f"{name} must be a list of numbers, not an array of shape {grid.shape}")
    return grid
