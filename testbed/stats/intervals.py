"""What the bootstrap returns: one figure with its interval, many of them, and the replicates that were drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from testbed.stats.checks import FloatArray, level


@dataclass(frozen=True)
class Estimate:
    """One figure with its interval.

    Attributes:
        value: The point estimate; None where it is not defined (a ratio with denominator 0).
        low: Lower end of the interval; None with fewer than two clusters.
        high: Upper end; None with fewer than two clusters.
    """

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, eq=False)
class Intervals:
    """Q figures with pointwise intervals.

    Attributes:
        value: Point estimates, shape (Q,); NaN where a ratio's denominator is 0.
        low: Lower ends, shape (Q,), or None with fewer than two clusters: no interval, never a width of 0.
        high: Upper ends, shape (Q,), or None.
        alpha: Each interval has level 1 − alpha, alpha/2 on each side.
        clusters: Number of clusters resampled.
    """

    value: FloatArray
    low: FloatArray | None
    high: FloatArray | None
    alpha: float
    clusters: int

    def __getitem__(self, index: int) -> Estimate:
        """Return figure number ``index`` as an `Estimate`."""
        value = float(self.value[index])
        if np.isnan(value):
            return Estimate(None, None, None)
        if self.low is None or self.high is None:
            return Estimate(value, None, None)
        return Estimate(value, float(self.low[index]), float(self.high[index]))


class Drawn(Protocol):
    """Figures of which there are replicates, whether they were drawn already or are once somebody asks."""

    @property
    def value(self) -> FloatArray:
        """Point estimates, shape (Q,)."""

    @property
    def low(self) -> FloatArray | None:
        """Replicates with the unseen cluster at its least, shape (R, Q); None with fewer than two clusters."""

    @property
    def high(self) -> FloatArray | None:
        """The same at its greatest."""

    @property
    def clusters(self) -> int:
        """Number of clusters resampled."""


@dataclass(frozen=True, eq=False)
class Replicates:
    """Bootstrap replicates of Q figures, or a function of them that rises with each.

    Attributes:
        value: Point estimates, shape (Q,).
        low: Replicates with the unseen cluster at its least, shape (R, Q); None with fewer than two clusters.
        high: The same at its greatest.
        clusters: Number of clusters resampled.
    """

    value: FloatArray
    low: FloatArray | None
    high: FloatArray | None
    clusters: int

    def intervals(self, alpha: float = 0.05) -> Intervals:
        """Return the intervals at level 1 − alpha, from the replicates that there are."""
        level(alpha)
        if self.low is None or self.high is None:
            return Intervals(self.value, None, None, alpha, self.clusters)
        low, high = np.quantile(self.low, alpha / 2, axis=0), np.quantile(self.high, 1 - alpha / 2, axis=0)
        return Intervals(self.value, np.minimum(low, self.value), np.maximum(high, self.value), alpha, self.clusters)
