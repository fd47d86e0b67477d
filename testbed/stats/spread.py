"""What makes an estimated gain differ from task to task: the tasks, their clusters, and the attempts.

The variance of the mean gain over T tasks is v/T, v = ω²·(1 + (m − 1)·icc) + noise of both arms (Miller 2024, arXiv
2411.00640; Kish 1965). reach@b is a U-statistic of the attempts, so its noise follows Hoeffding (1948): σ²/K for b = 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from scipy.special import gammaln

from testbed.stats.checks import FloatArray, StatsError


@dataclass(frozen=True)
class Spread:
    """What makes the estimated gain differ from task to task.

    Attributes:
        between: ω², variance over tasks of the true difference between the arms, 0 to 1.
        bare: Noise of the bare arm's estimate: covariance of two draws of b attempts that share 1, …, b of them, mean
            over tasks. For b = 1 it is (σ²,), the mean of p(1 − p).
        tool: The same of the tool arm; as long as ``bare``.
        cluster_size: Tasks in the cluster of a random task, Σm²/Σm, ≥ 1.
        icc: Correlation of the true differences of two tasks of one cluster, 0 to 1.
        third: Third central moment of the clusters' mean differences; 0 where it is not known.
    """

    between: float
    bare: tuple[float, ...]
    tool: tuple[float, ...]
    cluster_size: float = 1.0
    icc: float = 0.0
    third: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what no outcomes can have."""
        if not 0 <= self.between <= 1:
            raise StatsError(f"the variance between tasks must lie from 0 to 1, not {self.between:g}")
        for noise in (*self.bare, *self.tool):
            if not 0 <= noise <= 0.25:
                raise StatsError(
                    f"the variance within tasks must lie from 0 to 0.25, not {noise:g}: an attempt is 0 or 1"
                )
        if not self.bare or len(self.bare) != len(self.tool):
            raise StatsError("both arms need the noise of the same number of attempts")
        if not 1 <= self.cluster_size < np.inf:
            raise StatsError(f"a cluster has at least one task, not {self.cluster_size:g}")
        if not 0 <= self.icc <= 1:
            raise StatsError(f"the correlation within clusters must lie from 0 to 1, not {self.icc:g}")
        if not -8 <= self.third <= 8:
            raise StatsError(f"no differences from -1 to 1 have the third moment {self.third:g}")

    @property
    def operating(self) -> int:
        """Attempts b at which the arms are read."""
        return len(self.bare)

    @property
    def design_effect(self) -> float:
        """1 + (m − 1)·icc: by how much clusters multiply the variance between tasks."""
        return 1 + (self.cluster_size - 1) * self.icc

    def variance(self, bare_attempts: float, tool_attempts: float) -> float:
        """Return T times the variance of the mean gain over T tasks.

        Args:
            bare_attempts: Attempts per task in the bare arm, at least b; inf for no noise.
            tool_attempts: Attempts per task in the tool arm.
        """
        return (
            self.between * self.design_effect
            + attempt_noise(self.bare, bare_attempts)
            + attempt_noise(self.tool, tool_attempts)
        )

    def skewness(self, bare_attempts: float, tool_attempts: float) -> float:
        """Return the skewness of the clusters' mean estimates; noise is taken to have none of its own."""
        unit = self.variance(bare_attempts, tool_attempts) / self.cluster_size
        return self.third / unit**1.5 if unit > 0 else 0.0


def uniform_noise(operating: int = 1) -> tuple[float, ...]:
    """Return the noise of an arm whose success probabilities are uniform over (0, 1); (1/6,) for b = 1."""
    b = operating
    return tuple(1 / (2 * b - j + 1) - 1 / (2 * b + 1) for j in range(1, b + 1))


def attempt_noise(noise: tuple[float, ...], attempts: float) -> float:
    """Return the variance that the draw of attempts adds to a task's reach@b, b = len(noise).

    reach@b is the mean over all subsets of b attempts (a U-statistic); two random subsets of K share j attempts with
    probability C(b, j) C(K−b, b−j) / C(K, b), and then covary by noise[j−1] (Hoeffding 1948). σ²/K for b = 1.

    Args:
        noise: Covariances as in `Spread`.
        attempts: Attempts K per task, whole and ≥ b, or inf.
    """
    b = len(noise)
    if attempts == np.inf:
        return 0.0
    if not attempts >= b or attempts != int(attempts):
        raise StatsError(f"reach at {b} needs at least {b} whole attempts per task, not {attempts:g}")
    return float(shared_by(b, int(attempts)) @ np.array(noise))


@cache
def shared_by(b: int, attempts: int) -> FloatArray:
    """Return the chance that two random subsets of b of K attempts share 1, …, b of them, shape (b,)."""
    shared = np.arange(1, b + 1)
    logs = (
        gammaln(attempts - b + 1) * 2
        - gammaln(attempts + 1)
        + gammaln(b + 1) * 2
        - gammaln(shared + 1)
        - 2 * gammaln(b - shared + 1)
    )
    possible = attempts - 2 * b + shared >= 0
    return np.where(possible, np.exp(logs - gammaln(np.where(possible, attempts - 2 * b + shared, 0) + 1)), 0.0)


def scaled(spread: Spread, factor: float) -> Spread:
    """Return the spread with all its variances multiplied, no further than outcomes allow: for cautious plans."""
    bare, tool = (tuple(min(0.25, factor * noise) for noise in arm) for arm in (spread.bare, spread.tool))
    third = spread.third * factor**1.5
    return replace(spread, between=min(1.0, factor * spread.between), bare=bare, tool=tool, third=third)
